"""A matplotlib figure, and how it is written."""
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from common.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150


def new_figure(width: float, height: float) -> "Figure":
    """A matplotlib figure of this size in inches. matplotlib is imported here, so that scripts start without it."""
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def write_figure(path: Path, figure: "Figure") -> None:
    """Write a matplotlib figure as PNG, whole or not at all."""
    with atomic_file(path) as file:
        save_png(file, figure)


def save_png(file: BinaryIO, figure: "Figure", **options) -> None:
    """Write a matplotlib figure as PNG to an open binary file; options: further ones of savefig."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a class name in letters that the font lacks
        figure.savefig(file, format="png", dpi=DPI, **options)
