"""Whether a model's accuracy on clean images can be right, and if not, what would mend it."""
from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.image_set import ImageSet
from engine.measuring.evaluation import evaluation_batches, frozen, predict
from models.pixel_input import NAMELESS, NORMALIZATIONS, PixelInput, swap_channels

ALIKE = 0.005  # difference of accuracy that does not tell two remedies apart
IMAGES = 1000  # at most, that a model is judged by
IMPLAUSIBLE, MENDED, SOUND = 1 / 3, 1 / 2, 2 / 3  # of the way from guessing to no error
CAUSES = ("another normalization (--mean, --std), classes in another order (--classes), another data set, or colors in "
          "another order (--channels)")
CAUSES_OF_KNOWN = "too little training, or other images than those that the model was trained on"  # of our own file
log = logging.getLogger("backdoor")


@dataclass(frozen=True)
class Doubt:
    """An accuracy that cannot be right. accuracy: mean over classes. remedy: what would mend it, in words; or None.

    is_implausible: whether it is too little for any trained classifier; otherwise what would mend it raises the doubt.
    has_own_input: whether the model's file says how pixels enter.
    """

    accuracy: float
    images: int
    num_classes: int
    remedy: str | None
    is_implausible: bool = True
    has_own_input: bool = False

    def words(self) -> str:
        """The doubt in one line."""
        cause = f"It would be mended by {self.remedy}" if self.remedy else (
            f"Usual causes: {CAUSES_OF_KNOWN if self.has_own_input else CAUSES}")
        why = "too little for a trained classifier" if self.is_implausible else "another input halves its errors"
        return (f"the model is right on {self.accuracy:.4f} of the {self.images} clean images at hand (mean over "
                f"classes), where guessing gives {1 / self.num_classes:.4f}: {why}, so no figure of it can be trusted. "
                f"{cause}")


def find_doubt(model: torch.nn.Module, images: ImageSet, device: torch.device, has_own_input: bool, name: str = "",
               is_bgr: bool = False) -> Doubt | None:
    """The Doubt about a model with a spec by clean ImageSet `images`; logged as a warning. None if there is none.

    The rule: recall, averaged over the classes, is below a third of the way from guessing (1 of C) to no error, with
    its 95 % interval: below 0.67 of 2 classes, 0.4 of 10, 0.34 of 100. A weak but real model is above that. One below
    two thirds of the way is doubted too if another input halves its error, since a few images leave a wide interval.
    Averaging over classes keeps a model that always says the largest class of a lopsided set from passing.
    has_own_input: its file says its normalization, so that no other is tried. name: what the warning calls it, if it is
    not the suspect. is_bgr: its colors have been reversed already, as --channels bgr asks. Draws nothing at random, and
    leaves the model as it was.
    """
    images = images.subset(slice(IMAGES))
    with frozen(model):
        guesses = guess(model, images, device)
    labels, count = images.targets, images.num_classes
    accuracy, upper = mean_recall(guesses, labels)
    is_implausible = bool(upper < line(IMPLAUSIBLE, count))
    if not is_implausible and accuracy >= line(SOUND, count):
        return None
    remedy, mended = find_remedy(model, images, device, has_own_input, is_bgr)
    if not is_implausible and mended < max(upper, (1 + accuracy) / 2):
        return None
    doubt = Doubt(accuracy, len(images), count, remedy, is_implausible, has_own_input)
    log.warning("%s%s", f"{name}: " * bool(name), doubt.words())
    return doubt


def line(share: float, num_classes: int) -> float:
    """The accuracy that lies `share` of the way from guessing to no error."""
    return (1 + share * (num_classes - 1)) / num_classes


def guess(model: torch.nn.Module, images: ImageSet, device: torch.device) -> np.ndarray:
    """The labels int64 (N,) that a model gives an ImageSet."""
    return predict(model, evaluation_batches(images, device)).argmax(1).cpu().numpy()


def mean_recall(guesses: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(recall averaged over the classes that occur, upper end of its 95 % interval) of int64 (N,).

    The interval is the normal approximation, with one hit and one miss added to each class for its variance. (0, 1) of
    no images.
    """
    if not len(labels):
        return 0.0, 1.0
    counts = np.bincount(labels)
    there = counts > 0
    hits, counts = np.bincount(labels, guesses == labels)[there], counts[there]
    smooth = (hits + 1) / (counts + 2)
    mean = float((hits / counts).mean())
    return mean, mean + 1.96 * math.sqrt((smooth * (1 - smooth) / counts).sum()) / there.sum()


def find_remedy(model: torch.nn.Module, images: ImageSet, device: torch.device, has_own_input: bool,
                is_bgr: bool = False) -> tuple[str | None, float]:
    """(What would mend a model, in words: the fewest changes that do, and of those the most accurate, None if none
    does; its accuracy then, 0 for none).

    Where others of as few changes do as well, within ALIKE, at most three are named, the best first.

    Tried are the known normalizations, colors reversed, and the order of classes that fits best, alone and together.
    An order is fitted on every other image and measured on the rest.
    """
    found, ordered = [], []
    for changes, given in inputs_to_try(model.spec, has_own_input):
        with frozen(changed(model, given)) as trial:
            guesses = guess(trial, images, device)
        words = in_words(given, is_bgr) if changes else []
        found.append((changes, mean_recall(guesses, images.targets)[0], words))
        order, accuracy = fit_order(guesses, images.targets, images.num_classes)
        ordered.append((changes + 1, accuracy, [*words, order_in_words(order, images.classes)]))
    mending = [one for one in found + ordered if one[0] and one[1] >= line(MENDED, images.num_classes)]
    if not mending:
        return None, 0.0
    fewest = min(changes for changes, _, _ in mending)
    best = sorted((one for one in mending if one[0] == fewest), key=lambda one: -one[1])
    alike = [one for one in best if one[1] >= best[0][1] - ALIKE][:3]
    return ", or ".join(f"{' and '.join(words)}: {accuracy:.4f}" for _, accuracy, words in alike), best[0][1]


def in_words(given: PixelInput, is_bgr: bool) -> list[str]:
    """What to say on the command line for a PixelInput that was tried, where colors are reversed already or not."""
    words = replace(given, as_bgr=given.as_bgr != is_bgr).flags()
    return [*([words] if words else []), *(["leaving out --channels bgr"] if given.as_bgr and is_bgr else [])]


def inputs_to_try(spec: dict, has_own_input: bool) -> Iterator[tuple[int, PixelInput]]:
    """(number of changes, PixelInput) of a network with this spec; the first changes nothing."""
    now = (spec["mean"], spec["std"])
    others = [] if has_own_input else [pair for pair in {**NORMALIZATIONS, **NAMELESS}.values() if pair != now]
    for as_bgr in (False,) if has_own_input else (False, True):
        yield int(as_bgr), PixelInput(as_bgr=as_bgr)
        for mean, std in others:
            yield 1 + as_bgr, PixelInput(mean, std, as_bgr)


def changed(model: torch.nn.Module, given: PixelInput) -> torch.nn.Module:
    """A copy of a model that takes its pixels in another way."""
    model = copy.deepcopy(model)
    for name, values in given.spec.items():
        buffer = getattr(model, name)
        buffer.copy_(buffer.new_tensor(values).view_as(buffer))
    if given.as_bgr:
        swap_channels(model)
    return model


def fit_order(guesses: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[np.ndarray, float]:
    """(order, mean recall with it): order[i] is the data set's label for the model's i, int64 (C,), by the confusion
    matrix of every other image (Hungarian method); the recall is that of the other half.
    """
    confusion = np.zeros((num_classes, num_classes), dtype=int)
    half = fitting_half(labels)
    np.add.at(confusion, (guesses[half], labels[half]), 1)
    from scipy.optimize import linear_sum_assignment  # half a second, needed for a model in doubt alone
    _, order = linear_sum_assignment(confusion, maximize=True)
    return order, mean_recall(order[guesses[~half]], labels[~half])[0]


def fitting_half(labels: np.ndarray) -> np.ndarray:
    """bool (N,): every other image of each class."""
    half = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        half[np.flatnonzero(labels == label)[::2]] = True
    return half


def order_in_words(order: np.ndarray, classes: tuple) -> str:
    """What --classes is to be given: the names in the model's order, the first ten of them."""
    names = ", ".join(str(classes[label]) for label in order[:10]) + (", ..." if len(order) > 10 else "")
    return f"--classes FILE with the classes in the model's order ({names})"
