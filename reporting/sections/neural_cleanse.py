"""Neural Cleanse, and unlearning of what it reversed."""
from reporting.aims import suppositions
from reporting.charts import grids_of, pictures_of
from reporting.document import Cell, Section, Table, Text
from reporting.tables import conditions, share_cell, shares
from reporting.words import words

ORDER = 90


def section(report):
    own, unlearned = report.with_method("Neural Cleanse"), report.with_method("unlearning")
    if not own and not unlearned:
        return None
    tables = [*(searched(own) if own else ()), *(patched(unlearned) if unlearned else ())]
    return Section("Neural Cleanse", (
        *words("neural_cleanse"), Text(conditions(own or unlearned)), *tables,
        *grids_of(own, "reversed_triggers.png", "reversed triggers, and the true one"),
        *pictures_of(own, "norms.png", "norms of the reversed masks")))


def searched(runs):
    """The verdicts, and what was found for every label."""
    verdicts = "; ".join(f"{run.name}: {verdict(run.method)}" for run in runs)
    rows = tuple(label_row(run, label) for run in runs for label in run.method.get("labels") or [])
    return (Text(f"Verdicts. {verdicts}."), *suppositions(runs),
            Table(("run", "label", "norm over seeds", "anomaly index", "flagged"), rows))


def label_row(run, label):
    """The smallest trigger of a label: its norm and how far that lies from those of other labels."""
    low, high = label.get("norm") or (None, None)
    index = label.get("index") or (None, None)
    return (Cell(run.name), Cell(f"{label.get('label')} {label.get('class')}"),
            Cell("–" if low is None else f"{low:.1f} to {high:.1f}", low),
            Cell("–" if index[0] is None else f"{index[0]:.2f} to {index[1]:.2f}", index[1]),
            Cell(f"{label.get('flagged_in')} of {label.get('seeds')}", label.get("flagged_in")))


def patched(runs):
    """What unlearning did to ASR and ACC, by what it patched images with."""
    yield Table(("unlearning", "patched with", "ASR before", "ASR", "ACC"), tuple(
        (Cell(run.name), Cell(str(run.method.get("patch_with"))),
         share_cell((run.method.get("before") or {}).get("asr")), *shares(run, "asr", "acc")) for run in runs))


def verdict(method):
    """What Neural Cleanse found, in words."""
    if method.get("infected") is None:
        return "no verdict"
    if not method["infected"]:
        return "clean"
    return f"infected, target {', '.join(map(str, method.get('targets') or []))}"
