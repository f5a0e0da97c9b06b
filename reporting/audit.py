"""The verdict that the report of an audit opens with."""
from reporting import words
from reporting.charts import read_picture
from reporting.document import Cell, Section, Table, Text, cell
from reporting.tables import conditions, share_cell, with_method

PICTURES = (("Neural Cleanse", "reversed_triggers.png", "the smallest triggers found"),
            ("Neural Cleanse", "norms.png", "norms of the reversed masks of all labels"),
            ("neuron noise", "neuron_noise.png", "errors under noise on the neurons"),
            ("STRIP", "entropy.png", "entropies of clean images, and the boundary"))


def audit_section(runs):
    """The Section of an audit; None where none lies among the runs. Of several it is the first that is told of."""
    audits = with_method(runs, "audit")
    if not audits:
        return None
    run = audits[0]
    method = run.method
    blocks = [*opening(method), evidence_table(method), Text(
        "No trigger was known. ACC is measured on the half of the clean images that no step used, and the reversed "
        f"trigger's ASR on those of them whose label is another. {conditions([run])}"), repaired_table(method)]
    beside = [other for other in runs if other.above is run.above or other.above is run]
    pictures = [read_picture(other, file, f"{other.name}: {what}", wide=file == "reversed_triggers.png")
                for name, file, what in PICTURES for other in with_method(beside, name)]
    return Section("Verdict", (*blocks, rates_table(method), *words.AUDIT, *filter(None, pictures)))


def opening(method):
    """The verdict, how often it is wrong, and the repaired model that costs least, a sentence or two each."""
    named = ", ".join(f"{label} ({name})" for label, name in zip(method["targets"], method["target_classes"],
                                                               strict=False))
    said = {"suspect": f"SUSPECT: this model shows a sign of a backdoor to label {named}.",
            "no sign of a backdoor": "NO SIGN OF A BACKDOOR was found, which is not a proof that there is none."}
    yield Text(said.get(method["verdict"], "UNDECIDED: triggers were found for too few labels to compare them."))
    yield Text(error_rates(method.get("rates") or []))
    yield Text(least_costly(method))
    if method.get("missing"):
        yield Text(f"Not finished, and so not weighed: {', '.join(method['missing'])}.")


def error_rates(rates):
    """How often Neural Cleanse was wrong on our own models, in a sentence."""
    own = [row for row in rates if row["test"] == "Neural Cleanse"]
    if not own:
        return "How often this test is wrong has not been measured: results/audit-rates.csv is missing."
    parts = []
    for kind, what in ((True, "raised a false alarm on {} of {} benign models"),
                       (False, "missed the backdoor of {} of {} backdoored ones")):
        for data in sorted({row["data"] for row in own}):
            rows = [row for row in own if row["data"] == data and (row["model_kind"] == "benign") is kind]
            if rows:
                wrong, models = (sum(row[name] for row in rows) for name in ("wrong", "models"))
                parts.append(f"{what.format(wrong, models)} on {data}")
    return f"How often this test is wrong, on models that we trained: it {'; it '.join(parts)}."


def least_costly(method):
    """Which repaired model lost least clean accuracy, and what that leaves of the reversed trigger."""
    rows = {row["name"]: row for row in method["repaired"]}
    least = [name for name in method["least_lost"] if name in rows]
    if not least:
        return "No repaired model is there."
    row = rows[least[0]]
    left = "; ".join(f"the reversed trigger of label {label} still reaches {100 * share['value']:.1f} % there"
                     for label, share in row["asr_of_reversed"].items() if share)
    return (f"Of the repaired models {' and '.join(least)} lost least clean accuracy, {100 * row['lost']:.2f} points"
            f"{'; ' + left if left else ''}.")


def evidence_table(method):
    return Table(("test", "points to label", "what it found"), tuple(
        (Cell(item["test"]), cell(item["points_to"], "{:.0f}"), Cell(item["words"])) for item in method["evidence"]),
        "Neural Cleanse decides, by the majority of its searches; the others stand beside it.")


def repaired_table(method):
    labels = sorted({label for row in method["repaired"] for label in row["asr_of_reversed"]})
    rows = tuple((Cell(row["name"]), share_cell(row["acc"]), cell(100 * row["lost"], "{:.2f}"),
                  *(share_cell(row["asr_of_reversed"].get(label)) for label in labels)) for row in method["repaired"])
    return Table(("model", "ACC", "points lost", *(f"ASR, reversed trigger of {label}" for label in labels)), rows)


def rates_table(method):
    rows = method.get("rates") or []
    columns = ("data", "width", "test", "model_kind", "models", "wrong", "searches", "searches_wrong", "how")
    return Table(("data", "width", "test", "models", "how many", "wrong", "single searches", "wrong", "how"), tuple(
        tuple(cell(row.get(name)) for name in columns) for row in rows),
        "Wrong: a benign model is suspected, or a backdoored one is not, or not with its target.")
