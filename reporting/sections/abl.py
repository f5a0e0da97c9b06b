"""Anti-Backdoor Learning, and the losses that trainings tracked."""
from reporting.aims import suppositions
from reporting.charts import losses_of
from reporting.document import Cell, Section, Table, Text, cell
from reporting.tables import conditions, share_cell, shares
from reporting.words import words

ORDER = 100


def section(report):
    own, tracked = report.with_method("ABL"), losses_of(report.runs)
    if not own and not tracked:
        return None
    columns = ("run", "held", "isolated", "of them poisoned", "ASR, filtered only", "ACC, filtered only", "ASR", "ACC")
    measured = (Text(conditions(own)), *suppositions(own), Table(columns, tuple(map(row, own)))) if own else ()
    return Section("Anti-Backdoor Learning", (*words("abl"), *measured, *tracked))


def row(run):
    """What was isolated, and the model before and after unlearning."""
    filtered = run.method.get("filtered") or {}
    return (Cell(run.name), Cell(str(run.arguments.get("lga") or "flooding")), cell(run.method.get("isolated")),
            share_cell(run.method.get("precision")), *(share_cell(filtered.get(name)) for name in ("asr", "acc")),
            *shares(run, "asr", "acc"))
