"""The flags that say how pixels enter a network: --mean, --std and --channels."""
from __future__ import annotations

import argparse
import math

from common.errors import UserError
from engine.command_line.parser import Group
from models.pixel_input import NORMALIZATIONS, SMALLEST_STD, PixelInput, are_of_pixels

INPUT_FLAGS = ("mean", "std", "channels")
USUAL = "what is usual for the network, mostly homework; a model of this suite has its own"


def input_of(args: argparse.Namespace, prefix: str = "") -> PixelInput:
    """The PixelInput that the flags say, which a script may lack. Raises UserError for a mean without a std, or the
    reverse.

    prefix: of the flags' names, "benign_" for those of a benign model beside the suspect.
    """
    mean, std, channels = (getattr(args, prefix + name, None) for name in INPUT_FLAGS)
    if (mean is None) != (std is None):
        missing = f"{prefix}{'std' if std is None else 'mean'}".replace("_", "-")
        raise UserError(f"--{missing}: expected too, since a normalization has both; {', '.join(NORMALIZATIONS)}, or "
                        "three numbers")
    return PixelInput(*(None if values is None else tuple(values) for values in (mean, std)), channels == "bgr",
                      prefix.replace("_", "-"))


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
