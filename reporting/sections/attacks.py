"""The attacks."""
from reporting.aims import aims
from reporting.candidates import attack_of, is_comparable
from reporting.charts import grids_of, training_curves_of
from reporting.criteria import CRITERIA
from reporting.document import Cell, Section, Table, Text, cell
from reporting.tables import conditions, shares
from reporting.words import words

ORDER = 40


def section(report):
    own = [run for run in report.runs if run.is_attack]
    if not own:
        return None
    return Section("Attacks", (
        *words("attacks"), Text(conditions(own)), table(own), *aims(own), *pictures(own, report.runs)))


def table(runs):
    """The Table of attacks. The homework's criteria stand there if they are for any of the runs."""
    asked = [criteria_of(run) for run in runs]
    columns = ["attack", "ASR", "ACC", "robust ACC", "poisoned", "epochs"]
    rows = [[Cell(run.name), *shares(run, "asr", "acc", "robust_acc"), cell(run.method.get("poisoned")),
             cell(run.results.get("epochs"), "{:.0f}")] for run in runs]
    if any(asked):
        columns.insert(-1, "homework's ASR / ACC")
        for row, text in zip(rows, asked, strict=True):
            row.insert(-1, Cell(text or "–"))
    return Table(tuple(columns), tuple(map(tuple, rows)))


def criteria_of(run):
    """What the homework asks of an attack; "" for one of which it asks nothing, also by its aim or its images."""
    found = CRITERIA.get(attack_of(run)) if is_comparable(run) else None
    return " / ".join(bound.text for bound in found) if found else ""


def pictures(attacks, runs):
    """The first curves, an example of each attack, and then the rest, since the PDF shows only the first few."""
    curves, first, others = training_curves_of(attacks), {}, []
    poisoned = [run for run in attacks if run.arguments.get("poison_type") != "benign"]
    for run in poisoned:
        for grid in grids_of([run], "poisoned_examples.png", "originals and what the attack makes of them"):
            kind = run.arguments.get("poison_type") or run.script
            others += [grid] if kind in first else []
            first.setdefault(kind, grid)
    return (*curves[:1], *first.values(), *curves[1:], *others,
            *grids_of(runs, "clean_label_examples.png", "original, perturbed, stamped"),
            *grids_of(runs, "collision_examples.png", "original, change, result, and an image whose features it has"),
            *grids_of(runs, "patch_examples.png", "original, and with Trojan's patch"))
