"""STRIP."""
from reporting.aims import suppositions
from reporting.charts import pictures_of, strip_bars
from reporting.document import Cell, Section, Table, Text, cell
from reporting.tables import conditions, share_cell
from reporting.words import words

ORDER = 70


def section(report):
    own = report.with_method("STRIP")
    if not own:
        return None
    columns = ("run", "superimposed by", "overlays", "boundary", "entropy, clean", "entropy, triggered", "FRR", "FAR",
               "AUROC")
    return Section("STRIP", (
        *words("strip"), Text(conditions(own)), *suppositions(own), Table(columns, tuple(map(row, own))),
        *strip_bars(own), *pictures_of(own, "entropy.png", "entropies of clean and triggered images")))


def row(run):
    """How a detector was calibrated, and what it lets pass."""
    method, entropy = run.method, run.method.get("mean_entropy") or {}
    return (Cell(run.name), cell(method.get("superimpose")), cell(method.get("overlays")),
            cell(method.get("boundary")), cell(entropy.get("clean"), "{:.3f}"),
            cell(entropy.get("triggered"), "{:.3f}"), share_cell(method.get("frr")), share_cell(method.get("far")),
            cell(method.get("auroc"), "{:.3f}"))
