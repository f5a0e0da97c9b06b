"""The verdict that the report of an audit opens with."""
from methods.trust import interval as share_interval
from reporting.charts import grids_of, pictures_of
from reporting.document import Cell, Section, Table, Text, cell
from reporting.tables import audit_verdict, conditions, share_cell, with_method
from reporting.words import words

ORDER = 0
GONE = 0.1  # ASR up to which a reversed trigger counts as broken: chance among ten classes
PICTURES = ((grids_of, "Neural Cleanse", "reversed_triggers.png", "the smallest triggers found"),
            (pictures_of, "Neural Cleanse", "norms.png", "norms of the reversed masks of all labels"),
            (pictures_of, "neuron noise", "neuron_noise.png", "errors under noise on the neurons"),
            (pictures_of, "STRIP", "entropy.png", "entropies of clean images, and the boundary"))


def section(report):
    if not report.audit:
        return None
    run, method = report.audit, report.audit.method
    errors = [errors_table(method)] if method.get("errors") else []
    return Section("Verdict", (
        *map(Text, opening(method)), evidence_table(method),
        Text("No trigger was known. ACC is measured on the half of the clean images that no step used, and the "
             f"reversed trigger's ASR on those of them whose label is another. {conditions([run])}"),
        repaired_table(method), *errors, *words("audit"), *pictures(report)))


def pictures(report):
    """What the tests of this audit left."""
    beside = [run for run in report.runs if run.folder.parent == report.root]
    return [picture for show, name, file, what in PICTURES
            for picture in show(with_method(beside, name), file, what)]


def opening(method):
    """The verdict, how often it is wrong, and the repaired model that costs least, a paragraph each."""
    said = {"suspect": "SUSPECT: this model shows a sign of a backdoor",
            "no sign of a backdoor": "NO SIGN OF A BACKDOOR was found, which does not prove that there is none"}
    target = audit_verdict(method).partition(", target ")[2]
    why = method.get("doubt") or "what the witnesses found is rare among benign models, but not rare enough"
    yield said.get(method["verdict"], f"UNDECIDED: {why}") + (
        f" to label {target}." if target else ".")
    yield p_value(method) + (method.get("trust") or "How often this verdict would be wrong has not been counted.")
    yield least_costly(method)
    if method.get("missing"):
        yield f"Not finished, and so not weighed: {', '.join(method['missing'])}."


def p_value(method):
    """The combined p-value, as a sentence with a blank behind it; "" where there is none, or a doubt."""
    value = method.get("combined")
    if value is None or method.get("doubt"):
        return ""
    return f"A benign model would look so suspicious with probability {value:.2g} (p-value of all witnesses). "


def least_costly(method):
    """Which repaired model lost least clean accuracy, and what that leaves of the reversed triggers."""
    rows = {row["name"]: row for row in method["repaired"]}
    least = [name for name in method["least_lost"] if name in rows]
    if not least:
        return "No repair changed anything."
    row = rows[least[0]]
    left = "".join(f"; the reversed trigger of label {label} reaches {100 * share['value']:.1f} % there"
                   for label, share in row["asr_of_reversed"].items() if share)
    said = (f"Of the repaired models {' and '.join(least)} lost least clean accuracy: {loss(row)} of "
            f"{row['acc']['n']:.0f} images{left}.")
    broken = [row for row in rows.values() if row["changed"] and row["asr_of_reversed"] and all(
        share and share["value"] <= GONE for share in row["asr_of_reversed"].values())]
    best = min(broken, key=lambda row: row["lost"], default=None)
    if method["targets"] and best is None:
        return f"{said} On none of them the reversed trigger is down to {100 * GONE:.0f} %."
    if best and best["name"] not in least:
        return (f"{said} Of those on which the reversed trigger reaches at most {100 * GONE:.0f} %, {best['name']} "
                f"lost least: {loss(best)}.")
    return said


def loss(row, unit=" points"):
    """The clean accuracy that a repaired model lost, with its interval, in words."""
    low, high = row["lost_interval"]
    return f"{100 * row['lost']:.2f}{unit} [{100 * low:.2f}, {100 * high:.2f}]"


def evidence_table(method):
    return Table(("test", "points to label", "what it found"), tuple(
        (Cell(item["test"]), cell(item["points_to"], "{:.0f}"), Cell(item["words"])) for item in method["evidence"]),
        "The calibrated witnesses decide, by their p-values; the others stand beside them.")


def repaired_table(method):
    labels = sorted({label for row in method["repaired"] for label in row["asr_of_reversed"]})
    rows = tuple((
        Cell(row["name"] if row["changed"] or row is method["repaired"][0] else f"{row['name']} (changed nothing)"),
        share_cell(row["acc"]),
        Cell(loss(row, ""), row["lost"]),
        *(share_cell(row["asr_of_reversed"].get(label)) for label in labels)) for row in method["repaired"])
    return Table(("model", "ACC", "points lost", *(f"ASR, reversed trigger of {label}" for label in labels)), rows,
                 "Points lost against the model as it is, on the same images, with a 95 % interval.")


def errors_table(method):
    """How often the verdict was wrong, an attack a row."""
    return Table(("attack", "models", "wrong", "95 % interval", "undecided", "target named"), tuple(
        (Cell(row["attack"]), cell(row["models"], "{:.0f}"), cell(row["wrong"], "{:.0f}"), Cell(interval(row)),
         cell(row["undecided"], "{:.0f}"), cell(row["named"], "{:.0f}")) for row in method["errors"]),
        "Wrong: a benign model is suspected, or one with a backdoor shows no sign. Undecided is neither.")


def interval(row):
    """The 95 % Wilson interval of the share of models that the verdict is wrong on, in words."""
    return share_interval(round(row["wrong"]), round(row["models"]))
