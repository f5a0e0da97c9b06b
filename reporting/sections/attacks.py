"""The attacks."""
from reporting.aims import aims
from reporting.charts import grids_of, training_curves_of
from reporting.document import Cell, Section, Table, Text, cell
from reporting.grade import CRITERIA, has_usual_aim
from reporting.tables import conditions, shares
from reporting.words import words

ORDER = 40


def section(report):
    own = [run for run in report.runs if run.is_attack]
    if not own:
        return None
    rows = tuple((Cell(run.name), *shares(run, "asr", "acc", "robust_acc"),
                  cell(run.method.get("poisoned")), Cell(criteria_of(run)),
                  cell(run.results.get("epochs"), "{:.0f}")) for run in own)
    return Section("Attacks", (
        *words("attacks"), Text(conditions(own)),
        Table(("attack", "ASR", "ACC", "robust ACC", "poisoned", "homework's ASR / ACC", "epochs"), rows),
        *aims(own), *pictures(own, report.runs)))


def criteria_of(run):
    """What the homework asks of an attack; a dash for others, such as one with another aim."""
    found = CRITERIA.get(run.arguments.get("poison_type")) if has_usual_aim(run) else None
    return " / ".join(bound.text for bound in found) if found else "–"


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
