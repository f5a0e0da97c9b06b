"""A model whose accuracy cannot be right."""
import argparse
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import LEARNING

from common.errors import UserError
from data.datasets import load_clean
from data.image_set import ImageSet
from engine.command_line import flags
from engine.defending.suspect import load_suspect
from engine.measuring.doubt import find_doubt, fit_order, line, mean_recall
from engine.weights import checkpoint
from models.base import MEAN, STD
from models.pixel_input import NAMELESS, NORMALIZATIONS, PixelInput
from train_backdoor import main


def refold(weights, mean, std):
    """Weights of the same function for pixels that enter by `mean` and `std` where they were trained with MEAN, STD.

    True of the convolution without its padding, so of all but an image's edge.
    """
    was, now = ((torch.tensor(m).view(1, 3, 1, 1), torch.tensor(s).view(1, 3, 1, 1)) for m, s in (
        (MEAN, STD), (mean, std)))
    first = weights["conv1.weight"]
    shift = (first * (now[0] - was[0]) / was[1]).sum((1, 2, 3))
    return weights | {"conv1.weight": first * now[1] / was[1], "bn1.running_mean": weights["bn1.running_mean"] - shift}


def reorder(weights, order):
    return weights | {name: weights[name][order] for name in ("linear.weight", "linear.bias")}


@pytest.fixture(scope="module")
def learned_at_32(tmp_path_factory):
    """As learned_run, at 32 pixels a side: a wrong normalization costs such a model more than one of 16."""
    folder = tmp_path_factory.mktemp("learned") / "blend"
    main([*LEARNING, "--image-size", "32", "--epochs", "6", "--poison-type", "blend", "--output-dir", str(folder)])
    return folder


@pytest.fixture
def stranger(learned_at_32, tmp_path):
    """stranger(change): the path of learned_at_32's bare weights, changed."""
    def make(change=lambda weights: weights):
        weights = torch.load(learned_at_32 / "model_last.th", weights_only=True)["state_dict"]
        torch.save(change(weights), tmp_path / "m.th")
        return tmp_path / "m.th"
    return make


def suspect(path, *words):
    parser = flags.Parser("")
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    args = parser.parse_args(["--checkpoint", str(path), *DIGITS, *words])
    return load_suspect(args, argparse.Namespace(device=torch.device("cpu")))


DIGITS = ["--dataset", "digits"]
ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
FLAGS = [(refold, NORMALIZATIONS["none"], "--mean none --std none"),
         (refold, NAMELESS["[-1, 1]"], "--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5"),
         (refold, NAMELESS["0 to 255"], "--mean 0 0 0 --std 0.003922 0.003922 0.003922")]


@pytest.mark.parametrize("change, pair, words", FLAGS, ids=[words for _, _, words in FLAGS])
def test_another_normalization_is_named_with_the_flags_that_mend_it(stranger, caplog, change, pair, words):
    """The kind: weights that are judged on other input than they were trained on.

    The users met unnormalized pixels; pixels in [-1, 1] and in 0 to 255 are siblings, as are, below, reversed colors
    and classes in another order.
    """
    path = stranger(lambda weights: change(weights, *pair))
    with caplog.at_level(logging.WARNING, "backdoor"):
        doubted = suspect(path)
    assert doubted.doubt.accuracy < 0.4 and f"It would be mended by {words}: " in caplog.text
    mended = suspect(path, *words.split())
    assert mended.doubt is None and mended.model.spec["mean"] == pytest.approx(pair[0])
    assert mended.model.spec["std"] == pytest.approx(pair[1], rel=1e-3)


def test_classes_in_another_order_are_named_in_the_models_order(stranger):
    doubt = suspect(stranger(lambda weights: reorder(weights, ORDER))).doubt
    assert f"--classes FILE with the classes in the model's order ({', '.join(map(str, ORDER))}): 0." in doubt.remedy


def test_two_causes_at_once_are_named_both(stranger):
    doubt = suspect(stranger(lambda weights: reorder(refold(weights, *NORMALIZATIONS["none"]), ORDER))).doubt
    assert doubt.remedy.startswith("--mean none --std none and --classes FILE")


def test_what_nothing_mends_names_the_usual_causes(stranger, caplog):
    def shuffle(weights):
        torch.manual_seed(0)
        return weights | {"linear.weight": torch.randn_like(weights["linear.weight"])}
    with caplog.at_level(logging.WARNING, "backdoor"):
        assert suspect(stranger(shuffle)).doubt.remedy is None
    assert "Usual causes: another normalization (--mean, --std), classes in another order" in caplog.text


def test_a_sound_model_is_not_doubted_and_stays_as_it_was(stranger, learned_at_32, caplog):
    found = suspect(stranger())
    assert found.doubt is None and found.model.training and all(p.requires_grad for p in found.model.parameters())
    state = torch.get_rng_state()
    _, test = load_clean("digits", "")
    assert find_doubt(found.model, test, torch.device("cpu"), False) is None
    assert torch.equal(state, torch.get_rng_state()) and "guessing" not in caplog.text


class Colors(torch.nn.Module):
    """A network with a spec that knows red, green and blue images apart, by the order of colors it was made for."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, num_classes, 1, bias=False)
        self.conv.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.spec = {"mean": MEAN, "std": STD}
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, pixels):
        return self.conv((pixels - self.mean) / self.std).mean((2, 3))


def colored(count=30):
    labels = np.arange(count) % 3
    data = np.zeros((count, 8, 8, 3), np.uint8)
    data[np.arange(count), :, :, labels] = 255
    return ImageSet(data, labels, ("red", "green", "blue"), "colors")


def test_reversed_colors_are_named():
    """Where the classes are the colors, their order would mend it as well: both are named, and neither is guessed."""
    model, images = Colors(), colored()
    assert find_doubt(model, images, torch.device("cpu"), False) is None
    model.conv.weight.data = model.conv.weight.data.flip(1)
    doubt = find_doubt(model, images, torch.device("cpu"), False)
    assert doubt is not None and doubt.remedy == ("--channels bgr: 1.0000, or --classes FILE with the classes in "
                                                          "the model's order (blue, green, red): 1.0000")


def test_channels_bgr_feeds_the_colors_reversed(stranger):
    path, pixels = stranger(), torch.rand(2, 3, 32, 32)
    own, given = (NORMALIZATIONS["imagenet"], PixelInput(*NORMALIZATIONS["imagenet"], True))
    plain = checkpoint.load_model(path, given=PixelInput(*own)).model.eval()
    swapped = checkpoint.load_model(path, given=given).model.eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in own)
    normalized = (pixels - mean) / std
    fed = normalized.flip(1) * std + mean  # what `plain` must see to be fed the colors reversed
    assert torch.allclose(swapped(pixels), plain(fed), atol=1e-4)


@pytest.mark.parametrize("num_classes, low", [(2, 2 / 3), (10, 0.4), (100, 0.34)])
def test_the_line_lies_a_third_of_the_way_from_guessing(num_classes, low):
    assert line(1 / 3, num_classes) == pytest.approx(low)


class Says(torch.nn.Module):
    """A network that says for the nth image `guesses[n]`, written into its first pixel's red and green."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes, self.spec = num_classes, {"mean": MEAN, "std": STD}

    def forward(self, pixels):
        return torch.nn.functional.one_hot((pixels[:, 0, 0, 0] * 255).round().long(), self.num_classes).float()


def said(num_classes, right, count=1000, labels=None):
    """(a network, an ImageSet) on which it is right on the share `right` of each class and else says any other."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % num_classes if labels is None else labels
    wrong = (labels + rng.integers(1, num_classes, len(labels))) % num_classes
    data = np.zeros((len(labels), 4, 4, 3), np.uint8)
    data[:, 0, 0, 0] = np.where(rng.random(len(labels)) < right, labels, wrong)
    return Says(num_classes), ImageSet(data, labels, tuple(map(str, range(num_classes))), "said")


@pytest.mark.parametrize("num_classes, right, doubted", [
    (10, 0.6, False), (10, 0.45, False), (10, 0.2, True), (2, 0.75, False), (2, 0.5, True), (100, 0.4, False),
    (100, 0.1, True), (43, 0.5, False)])
def test_a_weak_model_is_not_doubted_and_a_useless_one_is(num_classes, right, doubted):
    model, images = said(num_classes, right)
    doubt = find_doubt(model, images, torch.device("cpu"), True)
    assert bool(doubt) == doubted and (not doubt or doubt.remedy is None)
    assert not doubt or "Usual causes: too little training" in doubt.words()  # its file says how pixels enter


class Reversed(torch.nn.Module):
    """Says the class that the blue of an image's first pixel tells, and its red once the colors are reversed."""

    def __init__(self):
        super().__init__()
        self.spec = {"mean": MEAN, "std": STD}
        for name, values in self.spec.items():
            self.register_buffer(name, torch.tensor(values))  # which it makes no use of
        self.first = torch.nn.Conv2d(3, 1, 1, bias=False)
        self.first.weight.data = torch.tensor([0.0, 0, 255]).view(1, 3, 1, 1)

    def forward(self, pixels):
        return torch.nn.functional.one_hot(self.first(pixels)[:, 0, 0, 0].round().long(), 10).float()


@pytest.mark.parametrize("as_it_is, mended, doubted", [(0.45, 0.95, True), (0.65, 0.95, True), (0.65, 0.7, False),
                                                       (0.85, 1, False)])
def test_a_plausible_model_is_doubted_if_another_input_halves_its_errors(as_it_is, mended, doubted):
    """As of weights that still are right on some images: the demo's, fed normalized pixels, on a third."""
    _, found = said(10, as_it_is, 143)
    right = np.random.default_rng(1).random(143) < mended
    found.data[:, 0, 0] = np.stack([np.where(right, found.targets, (found.targets + 1) % 10), found.data[:, 0, 0, 1],
                                    found.data[:, 0, 0, 0]], axis=1)
    doubt = find_doubt(Reversed(), found, torch.device("cpu"), False)
    assert bool(doubt) == doubted
    if doubt:
        assert not doubt.is_implausible and "another input halves its errors" in doubt.words()
        assert doubt.remedy.startswith("--channels bgr: 0.9")
        again = find_doubt(Reversed(), found, torch.device("cpu"), False, is_bgr=True)
        assert again.remedy.startswith("leaving out --channels bgr: 0.9")  # which reversed them


@pytest.mark.parametrize(("mended", "doubted"), [(8, False), (9, True)])
def test_of_few_images_another_input_must_be_right_on_more_than_chance_explains(mended, doubted):
    """Of ten images six right ones are between 0.31 and 0.89, so that to halve the errors, with eight, is too little.
    """
    labels = np.arange(10)
    data = np.zeros((10, 4, 4, 3), np.uint8)
    for color, right in ((2, 6), (0, mended)):
        data[:, 0, 0, color] = np.where(labels < right, labels, (labels + 1) % 10)
    images = ImageSet(data, labels, tuple(map(str, labels)), "few")
    assert bool(find_doubt(Reversed(), images, torch.device("cpu"), False)) == doubted


def test_a_few_images_are_not_enough_to_doubt():
    model, images = said(10, 0.3, count=20)
    assert find_doubt(model, images, torch.device("cpu"), True) is None


def test_a_model_that_always_says_the_largest_class_is_doubted():
    labels = np.array([0] * 900 + [1] * 100)
    images = ImageSet(np.zeros((1000, 4, 4, 3), np.uint8), labels, ("a", "b"), "lopsided").subset(
        np.random.default_rng(0).permutation(1000))
    assert find_doubt(Says(2), images, torch.device("cpu"), True).accuracy == 0.5


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_an_order_is_measured_on_other_images_than_it_was_fitted_on(num_classes):
    """Of outputs at random the best order for 1,000 images fits many of them, and no others."""
    labels = np.arange(1000) % num_classes
    guesses = np.random.default_rng(0).integers(0, num_classes, 1000)
    assert fit_order(guesses, labels, num_classes)[1] < line(1 / 3, num_classes)
    order = np.random.default_rng(1).permutation(num_classes)
    fitted, right = fit_order(np.argsort(order)[labels], labels, num_classes)
    assert right == 1 and (fitted == order).all()


def test_recall_is_averaged_over_the_classes_that_occur():
    assert mean_recall(np.array([0, 0, 2, 1]), np.array([0, 0, 0, 1]))[0] == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize("words, said", [
    (["--mean", "imagenet"], "--std: expected too"), (["--std", "0.2", "0.2", "0.2"], "--mean: expected too"),
    (["--mean", "none", "--std", "none"], "says its own normalization, so --mean none --std none has no use"),
    (["--channels", "bgr"], "says its own normalization, so --channels bgr has no use")])
def test_flags_that_have_no_one_meaning_are_refused(learned_at_32, words, said):
    with pytest.raises(UserError, match=said):
        suspect(learned_at_32 / "model_last.th", *words)


@pytest.mark.parametrize("words, said", [
    (["--mean", "mnist"], "--mean: expected imagenet, cifar10, homework, none, or three numbers, got mnist"),
    (["--std", "0.2", "0.2"], "three numbers, got 0.2 0.2"), (["--mean", "0", "0", "nan"], "three numbers"),
    (["--mean", "125.3", "123", "113.9"], "divide those of 0 to 255 by 255"),
    (["--std", "0", "1", "1"], "from 0.0001")])
def test_numbers_that_no_normalization_has_are_refused(words, said, capsys):
    parser = flags.Parser("")
    flags.add_suspect_flags(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(words)
    assert said in capsys.readouterr().err


def test_pruning_takes_over_how_pixels_enter_and_leaves_a_model_that_says_it(stranger, tmp_path, monkeypatch):
    from generate_mask import main as make_masks
    from prune_network import main as prune
    monkeypatch.chdir(tmp_path)
    path = stranger(lambda weights: refold(weights, *NORMALIZATIONS["none"]))
    words = [*DIGITS, "--val-frac", "0.05", "--nb-iter", "4", "--print-every", "4", "--batch-size", "32"]
    make_masks(["--checkpoint", str(path), *words, "--mean", "none", "--std", "none", "--output-dir", "anp"])
    prune(["--mask-file", "anp/mask_values.txt", "--checkpoint", str(path), "--threshold", "0"])
    results = json.loads(Path("anp/pruned/results.json").read_text())
    assert results["acc"]["value"] > 0.8 and results["spec"]["std"] == [1, 1, 1]
    pruned = suspect("anp/pruned/model_last.th")
    assert pruned.doubt is None and pruned.model.spec["mean"] == (0, 0, 0)
