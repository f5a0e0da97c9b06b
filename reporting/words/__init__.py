"""How the attacks and defenses work, in words and formulas: a file here for each method.

A file's paragraphs are apart by an empty line. One that begins with $$ is a formula, in the part of TeX that matplotlib
sets; its line `read: ...` is how the formula is read out.
"""
from pathlib import Path

from reporting.document import Formula, Text

FOLDER = Path(__file__).resolve().parent


def words(name):
    """The Texts and Formulas of words/<name>.md. Raises ValueError for a formula that nobody could read out."""
    paragraphs = (FOLDER / f"{name}.md").read_text(encoding="utf-8").strip().split("\n\n")
    return tuple(formula(text) if text.startswith("$$") else Text(" ".join(text.split())) for text in paragraphs)


def formula(text):
    """A Formula from `$$ TeX $$` and its line `read: ...`."""
    _, tex, spoken = text.split("$$")
    mark, said = spoken.strip().split(": ", 1)
    if mark != "read":
        raise ValueError(f"{tex.strip()}: expected a line `read: ...` beneath the formula")
    return Formula(tex.strip(), said)
