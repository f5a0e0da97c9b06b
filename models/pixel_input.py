"""How pixels enter a network that comes without its own normalization: mean, std and the order of colors."""
from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from models.base import IMAGENET, MEAN, STD

# {name: (mean, std)} of pixels in [0, 1]. cifar10 has CIFAR-10's true deviations; homework has the smaller ones that
# most of its published checkpoints were trained with, and that our models have.
NORMALIZATIONS = {
    "imagenet": IMAGENET, "cifar10": (MEAN, (0.2470, 0.2435, 0.2616)),
    "homework": (MEAN, STD), "none": ((0.0,) * 3, (1.0,) * 3)}
# What else is common, and has no name in the field: pixels in [-1, 1], and in 0 to 255.
NAMELESS = {"[-1, 1]": ((0.5,) * 3, (0.5,) * 3), "0 to 255": ((0.0,) * 3, (1 / 255,) * 3)}
SMALLEST_STD = 1e-4


@dataclass(frozen=True)
class PixelInput:
    """What a network is fed: pixels less `mean`, by `std`, each red, green, blue; as_bgr: with the colors reversed.

    prefix: of the names of the flags that say so.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    as_bgr: bool = False
    prefix: str = ""

    @property
    def spec(self) -> dict:
        """The part of a network's spec that it settles; {} where no normalization is given."""
        return {} if self.mean is None else {"mean": self.mean, "std": self.std}

    def flags(self) -> str:
        """The command line's words that mean it."""
        words = []
        if self.mean is not None:
            name = next((name for name, pair in NORMALIZATIONS.items() if pair == (self.mean, self.std)), None)
            words = [f"--{self.prefix}{flag} {name or ' '.join(f'{value:.4g}' for value in values)}"
                     for flag, values in (("mean", self.mean), ("std", self.std))]
        return " ".join([*words, *([f"--{self.prefix}channels bgr"] if self.as_bgr else [])])


def are_of_pixels(values: object, name: str) -> bool:
    """Whether `values` can be a mean or a std (`name`) of pixels from 0 to 1: three floats in that range."""
    low = SMALLEST_STD if name == "std" else 0
    return isinstance(values, (list, tuple)) and len(values) == 3 and all(
        type(value) is float and low <= value <= 1 for value in values)


def swap_channels(model: nn.Module) -> None:
    """Reverse the colors that `model` takes, in place: the input channels of its first convolution.

    Its normalization stays by color. Raises StopIteration for a network without a convolution of three channels.
    """
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.in_channels == 3)
    first.weight.data = first.weight.data.flip(1)
