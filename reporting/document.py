"""A report before it becomes a page or a PDF: sections of text, tables and pictures."""
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
    mark: str = ""  # "good", "bad" or "soft"


@dataclass(frozen=True)
class Table:
    """Rows of Cells under column names."""

    columns: tuple
    rows: tuple
    caption: str = ""

    @property
    def holds_numbers(self):
        """For each column whether it holds numbers, which stand under one another at the right, with their heading."""
        return tuple(is_numeric([row[place] for row in self.rows]) for place in range(len(self.columns)))


def is_numeric(cells):
    """Whether a column's Cells are numbers, but for those that are not known."""
    known = [cell for cell in cells if cell.text not in ("", "–")]
    return bool(known) and all(cell.value is not None and cell.text[0] in "-0123456789" for cell in known)


@dataclass(frozen=True)
class Picture:
    """A PNG. `wide`: shown over the page's whole width. `is_grid`: rows of images, each of which is to be seen."""

    png: bytes
    caption: str
    wide: bool = False
    is_grid: bool = False


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
