"""How pixels enter a network that comes without its own normalization: --mean, --std and --channels."""
from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from torch import nn

from common.errors import UserError
from engine.command_line.parser import Group
from models.base import IMAGENET, MEAN, STD

# {name: (mean, std)} of pixels in [0, 1]. cifar10 has CIFAR-10's true deviations; homework has the smaller ones that
# most of its published checkpoints were trained with, and that our models have.
NORMALIZATIONS = {
    "imagenet": IMAGENET, "cifar10": (MEAN, (0.2470, 0.2435, 0.2616)),
    "homework": (MEAN, STD), "none": ((0.0,) * 3, (1.0,) * 3)}
# What else is common, and has no name in the field: pixels in [-1, 1], and in 0 to 255.
NAMELESS = {"[-1, 1]": ((0.5,) * 3, (0.5,) * 3), "0 to 255": ((0.0,) * 3, (1 / 255,) * 3)}
SMALLEST_STD = 1e-4
INPUT_FLAGS = ("mean", "std", "channels")


@dataclass(frozen=True)
class PixelInput:
    """What a network is fed: pixels less `mean`, by `std`, each red, green, blue; as_bgr: with the colors reversed.

    prefix: of the names of the flags that say so.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    as_bgr: bool = False
    prefix: str = ""

    @classmethod
    def of(cls, args: argparse.Namespace, prefix: str = "") -> PixelInput:
        """As the flags say, which a script may lack. Raises UserError for a mean without a std, or the reverse.

        prefix: of the flags' names, "benign_" for those of a benign model beside the suspect.
        """
        mean, std, channels = (getattr(args, prefix + name, None) for name in INPUT_FLAGS)
        if (mean is None) != (std is None):
            missing = f"{prefix}{'std' if std is None else 'mean'}".replace("_", "-")
            raise UserError(f"--{missing}: expected too, since a normalization has both; {', '.join(NORMALIZATIONS)}, "
                            "or three numbers")
        return cls(*(None if values is None else tuple(values) for values in (mean, std)), channels == "bgr",
                   prefix.replace("_", "-"))

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


class NormalizationFlag(argparse.Action):
    """Store --mean or --std: a name of NORMALIZATIONS, or a number each for red, green and blue."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, words: list[str],
                 option_string: str | None = None):
        setattr(namespace, self.dest, list(self._read(words)))

    @property
    def _is_std(self):
        return self.dest.endswith("std")

    def _read(self, words: list[str]):
        if len(words) == 1 and words[0] in NORMALIZATIONS:
            return NORMALIZATIONS[words[0]][self._is_std]
        try:
            values = tuple(map(float, words))
        except ValueError:
            values = ()
        if len(values) != 3 or not all(map(math.isfinite, values)):
            raise argparse.ArgumentError(self, f"expected {', '.join(NORMALIZATIONS)}, or three numbers, got "
                                               f"{' '.join(words)}")
        low = SMALLEST_STD if self._is_std else 0
        if not are_of_pixels(values, "std" if self._is_std else "mean"):
            raise argparse.ArgumentError(self, f"expected numbers from {low:g} to 1, of pixels from 0 to 1 (divide "
                                               f"those of 0 to 255 by 255), got {' '.join(words)}")
        return values


def are_of_pixels(values: object, name: str) -> bool:
    """Whether `values` can be a mean or a std (`name`) of pixels from 0 to 1: three floats in that range."""
    low = SMALLEST_STD if name == "std" else 0
    return isinstance(values, (list, tuple)) and len(values) == 3 and all(
        type(value) is float and low <= value <= 1 for value in values)

USUAL = "what is usual for the network, mostly homework; a model of this suite has its own"


def add_input_flags(group: Group, prefix: str = "", whose: str = "weights",
                    default: str = USUAL) -> None:
    """--mean, --std and --channels, of weights that do not say their own. prefix: of their names. whose, default: what
    the help texts say of them."""
    names = ", ".join(NORMALIZATIONS)
    for name, what in (("mean", "subtracted from"), ("std", "that divides")):
        group.add_argument(f"--{prefix}{name}", nargs="+", action=NormalizationFlag, metavar="NAME_OR_NUMBER",
                           help=f"value {what} the pixels, for {whose} that come without it: {names}, or three "
                                f"numbers for pixels from 0 to 1 (default: {default})")
    group.add_argument(f"--{prefix}channels", choices=("rgb", "bgr"),
                       help="order of colors that such weights were trained on, bgr with OpenCV (default: rgb)")


def swap_channels(model: nn.Module) -> None:
    """Reverse the colors that `model` takes, in place: the input channels of its first convolution.

    Its normalization stays by color. Raises StopIteration for a network without a convolution of three channels.
    """
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.in_channels == 3)
    first.weight.data = first.weight.data.flip(1)
