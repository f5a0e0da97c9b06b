"""The attacks."""
from reporting.charts import grids_of, training_curves_of
from reporting.document import Cell, Section, Table, Text, cell
from reporting.grade import CRITERIA
from reporting.tables import conditions, shares
from reporting.words import words

ORDER = 40


def section(report):
    own = [run for run in report.runs if run.is_attack]
    if not own:
        return None
    targets = {name: f"{asr.text} / {acc.text}" for name, (asr, acc) in CRITERIA.items()}
    rows = tuple((Cell(run.name), *shares(run, "asr", "acc", "robust_acc"),
                  cell(run.method.get("poisoned")), Cell(targets.get(run.arguments.get("poison_type"), "–")),
                  cell(run.results.get("epochs"), "{:.0f}")) for run in own)
    poisoned = [run for run in own if run.arguments.get("poison_type") != "benign"]
    return Section("Attacks", (
        *words("attacks"), Text(conditions(own)),
        Table(("attack", "ASR", "ACC", "robust ACC", "poisoned", "homework's ASR / ACC", "epochs"), rows),
        *training_curves_of(own),
        *grids_of(poisoned, "poisoned_examples.png", "originals and what the attack makes of them"),
        *grids_of(report.runs, "clean_label_examples.png", "original, perturbed, stamped")))
