"""What a report is made of, before it becomes a page or a PDF."""
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text."""

    words: str


@dataclass(frozen=True)
class Formula:
    """A formula in the part of TeX that matplotlib sets, and how it is read out."""

    tex: str
    words: str


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is shown, and the number that it sorts by (None: its text)."""

    text: str
    value: float | None = None
    mark: str = ""  # "good" or "bad"


@dataclass(frozen=True)
class Table:
    """Rows of Cells under column names."""

    columns: tuple
    rows: tuple
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG. `wide` is one that wants the page's whole width."""

    png: bytes
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple = field(default=())


def cell(value, form="{}"):
    """A Cell of a number (nan and None are a dash) or a text."""
    if value is None or value != value:
        return Cell("–")
    if isinstance(value, str):
        return Cell(value)
    return Cell(form.format(value), float(value))
