"""The witnesses of an audit: each looks at a model in its own way, and gives it one statistic.

A statistic is above 0, and larger the more the model looks like one with a backdoor. What is large is a matter of the
reference population (methods/calibration.py), so a model and its population have to be measured with equal Settings.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import torch

from common.errors import UserError
from data.batches import Batches
from data.image_set import ImageSet
from methods.channel_bounds import farthest_channel, layer_bounds
from methods.margins import largest_margins
from methods.trigger_search import LR, SUCCESS, Search, reverse_triggers

CHANNELS, MARGINS, CLEANSE = WITNESSES = ("channels", "margins", "cleanse")
TITLES = {CHANNELS: "CLP's channel bounds", MARGINS: "MM-BD", CLEANSE: "Neural Cleanse"}
LEAST_OTHERS = 2  # classes that one is compared with


@dataclass(frozen=True)
class Settings:
    """How thoroughly the witnesses look. starts, steps, step, tolerance: MM-BD's climb. searches, batches, batch_size,
    budget, patience: Neural Cleanse's searches, as in the flags of its script.

    The step is a hundred times that of MM-BD's authors. With theirs, 100 steps leave the margins of most classes of a
    digits model below 0, where they say how slow the climb is and not how high it leads.
    """

    starts: int = 3
    steps: int = 60
    step: float = 1.0
    tolerance: float = 1e-5
    searches: int = 2
    batches: int = 1
    batch_size: int = 16
    budget: int = 100
    patience: int = 10

    def words(self) -> str:
        """All settings in one line, from which `from_words` makes them again."""
        return " ".join(f"{name}={value:g}" for name, value in asdict(self).items())

    def changed(self, given: Mapping[str, float | None]) -> Settings:
        """The same with those of `given`, {name: value}, that are among them and not None."""
        own = {field.name for field in fields(self)}
        return replace(self, **{name: value for name, value in given.items() if name in own and value is not None})

    def apart_from(self, other: Settings) -> str:
        """The flags of the settings that `other` has otherwise, in one line."""
        return " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in asdict(self).items()
                        if value != getattr(other, name))

    @classmethod
    def from_words(cls, text: str) -> Settings:
        """Raises UserError for other words than those of `words`."""
        kinds = {field.name: type(field.default) for field in fields(cls)}
        try:
            given = dict(word.split("=") for word in text.split())
            return cls(**{name: kinds[name](value) for name, value in given.items()})
        except (ValueError, KeyError, TypeError):
            raise UserError(f"expected settings such as {cls().words()}, got {text[:200]}") from None


@dataclass(frozen=True)
class Finding:
    """What one witness found. statistic: None if it has nothing to say of this network. label: the class that it points
    to; None if it points to none. words: the finding in words."""

    statistic: float | None
    label: int | None
    words: str


def middle_of_others(values: np.ndarray, place: int) -> float:
    """The median of all values but the one at `place`; nan with fewer than LEAST_OTHERS others."""
    others = np.delete(values, place)
    return float(np.median(others)) if len(others) >= LEAST_OTHERS else math.nan


def outstanding(margins: Sequence[float]) -> tuple[float | None, int]:
    """(how far the largest of `margins` stands out, its class).

    That is its distance to the median of the others over the median of their sizes, plus 1: its ratio to their median
    where they are above 0. A backdoor can be such that no image leans to the other classes at all; their margins are
    then below 0, and how far is the scale of this network's logits. None with fewer than LEAST_OTHERS others, where no
    margin is above 0, and where the result is not finite.
    """
    margins = np.asarray(margins, dtype=np.float64)
    place = int(margins.argmax())
    largest = float(margins[place])
    middle, size = middle_of_others(margins, place), middle_of_others(np.abs(margins), place)
    ratio = 1 + (largest - middle) / size if size > 0 < largest else math.nan
    return (ratio if math.isfinite(ratio) else None), place


def channel_witness(model: torch.nn.Module) -> Finding:
    """CLP's bounds: how far the most outstanding channel lies above its layer's others, in robust standard deviations.

    It needs no image, and points to no class.
    """
    layers = layer_bounds(model)
    found = farthest_channel(layers) if layers else None
    if found is None or not 0 < found.deviation < math.inf:
        return Finding(None, None, "no batch norm follows a convolution whose channels differ")
    return Finding(found.deviation, None, f"channel {found.channel} of {found.layer} lies farthest above its layer's "
                   f"others, {found.deviation:.1f} robust standard deviations")


def margin_witness(model: torch.nn.Module, num_classes: int, image_size: int, settings: Settings,
                   device: torch.device, generator: torch.Generator) -> Finding:
    """MM-BD: how far the largest margin of all classes stands out of the others. It needs no image.

    In units of the others', since margins scale with the network's last layer. Raises UserError for a model that
    returns NaN.
    """
    climbs = largest_margins(model, num_classes, image_size, settings, device, generator)
    margins = [float(climb.margins.max()) for climb in climbs]
    ratio, label = outstanding(margins)
    if ratio is None:
        return Finding(None, None, f"the margins of {num_classes} classes cannot be compared")
    others = np.delete(margins, label)
    return Finding(ratio, label, f"the largest margin is {margins[label]:.1f}, those of the other classes "
                   f"{others.min():.1f} to {others.max():.1f} with median {np.median(others):.1f}: it stands out by "
                   f"{ratio:.2f} (1 is the median itself)")


def search_triggers(model: torch.nn.Module, images: ImageSet, settings: Settings, seed: int, device: torch.device
                    ) -> list[Search]:
    """One round of Neural Cleanse: the Search of each label on clean images."""
    generator = torch.Generator().manual_seed(seed)
    batches = Batches(images, settings.batch_size, device, generator)
    return reverse_triggers(model, batches, settings.batches, range(images.num_classes), settings.budget, SUCCESS,
                            settings.patience, LR, generator)


def cleanse_witness(norms: Sequence[Sequence[float]]) -> Finding:
    """Neural Cleanse: the median of the other labels' trigger norms over the smallest, for norms (searches, labels).

    Of each label the smallest norm over the searches counts: each is an upper bound of its smallest trigger's, and the
    tightest says most. A ratio in place of the anomaly index, whose unit, the MAD of some nine norms, varies more from
    search to search than the norms do. A norm may be infinite: no trigger was found.
    """
    least = np.min(np.asarray(norms, dtype=np.float64), axis=0)
    label = int(least.argmin())
    middle = middle_of_others(least, label)
    if not (least[label] > 0 and math.isfinite(middle)):
        return Finding(None, None, "triggers were found for too few labels")
    ratio = middle / float(least[label])
    return Finding(ratio, label, f"the smallest trigger has norm {least[label]:.1f}, {ratio:.1f} times smaller than "
                   f"the others' median, by {len(norms)} search{'es' * (len(norms) > 1)}")
