"""Detectors of poisoned training data."""
from reporting.document import Cell, Section, Table, Text, cell
from reporting.tables import conditions, share_cell
from reporting.words import words

ORDER = 105


def section(report):
    own = report.with_method("activation clustering", "spectral signatures")
    if not own:
        return None
    columns = ("run", "method", "images", "poisoned", "suspected", "precision", "recall", "flagged classes")
    return Section("Poisoned training data", (
        *words("poisoned_data"), Text(conditions(own)), Table(columns, tuple(map(row, own)))))


def row(run):
    """How many images a detector suspected, and how many of them rightly."""
    method = run.method
    flagged = ", ".join(f"{label:g}" for label in method.get("flagged") or ()) or "none"
    return (Cell(run.name), Cell(method["name"]), cell(method.get("images")), cell(method.get("poisoned")),
            cell(method.get("suspected")), share_cell(method.get("precision")), share_cell(method.get("recall")),
            Cell(flagged if "flagged" in method else "–"))
