"""Judge a model that nobody vouches for: is there a sign of a backdoor, and which repaired model costs least.

    python audit_model.py --checkpoint output/badnets/model_last.th

The end of `make audit`, which runs the rest. Reads what the other scripts left beside the model (neural-cleanse/,
neuron-noise/, strip/, and the repaired models in anp/pruned/, fine-prune/ and unlearn-reversed/) and clean images, and
no trigger but those that Neural Cleanse reversed. Neural Cleanse decides; the other tests stand beside it, with how
often each was wrong on models of ours (results/audit-rates.csv). Writes into verdict/ there: repaired.csv, output.log,
config.json and results.json.
"""
import csv
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data.files import UserError, hash_file, write_table
from engine import flags
from engine.checkpoint import load_model, load_trigger
from engine.command import command
from engine.run import Run
from engine.suspect import asr_of, default_folder, find_run, load_suspect
from engine.training import score
from reporting.found import FINISHED, read_run

RATES = Path(__file__).resolve().parent / "results/audit-rates.csv"
NUMBERS = ("models", "wrong", "searches", "searches_wrong")
REPAIRED = {"ANP": "anp/pruned", "Fine-Pruning": "fine-prune", "unlearning": "unlearn-reversed"}
COLUMNS = ("model", "acc", "lost", "asr_of_reversed_trigger")
SUSPECT, NO_SIGN, UNDECIDED = "suspect", "no sign of a backdoor", "undecided"
log = logging.getLogger("backdoor")


@dataclass(frozen=True)
class Evidence:
    """What a test says. points_to: the label that it points to, None if to none or if that is not what it asks."""

    test: str
    points_to: int | None
    words: str


def judge(method):
    """SUSPECT, NO_SIGN or UNDECIDED, by what neural_cleanse.py detect found."""
    return {True: SUSPECT, False: NO_SIGN}.get(method.get("infected"), UNDECIDED)


def called(label, classes):
    """A label with its name."""
    return f"{label} ({classes[label]})" if classes[label] != str(label) else str(label)


def cleanse_evidence(method, classes):
    """[Evidence] of Neural Cleanse: one for each label flagged by most searches, or one that says that there is none.

    method: the method entry of its results.json.
    """
    labels, targets = method["labels"], method["targets"]
    searches, others = labels[0]["seeds"], [label for label in labels if label["label"] not in targets]
    norms = [min(label["norm"]) for label in others if label["norm"]]
    rest = f"; the smallest norms of the others have median {np.median(norms):.1f}" if norms else ""
    found = [Evidence("Neural Cleanse", label["label"],
                      f"{label['flagged_in']} of {searches} searches flag label {called(label['label'], classes)}: "
                      f"norm {span(label['norm'], '.1f')}, anomaly index {span(label['index'], '.2f')} (above 2 is "
                      f"flagged){rest}") for label in labels if label["label"] in targets]
    if found:
        return found
    once = "".join(f", label {called(label['label'], classes)} by {label['flagged_in']}" for label in labels
                   if label["flagged_in"])
    return [Evidence("Neural Cleanse", None, f"no label is flagged by most of {searches} searches{once}{rest}")]


def span(pair, form):
    """Lowest to highest in words."""
    low, high = (format(value, form) for value in pair or (math.nan, math.nan))
    return low if low == high else f"{low} to {high}"


def leaning(rows):
    """(epsilon, {label: starts that lean there}, starts) under neuron noise, at the least epsilon at which half of the
    images are called wrong, otherwise at the largest. A start leans to a label that more than half of its errors are.

    rows: of the model under suspicion, as sweep_neuron_noise.py has them.
    """
    epsilons = sorted({row["epsilon"] for row in rows})
    at = {epsilon: [row for row in rows if row["epsilon"] == epsilon] for epsilon in epsilons}
    epsilon = next((epsilon for epsilon in epsilons if np.mean([row["error_rate"] for row in at[epsilon]]) >= 0.5),
                   epsilons[-1])
    labels = [row["leaning"] for row in at[epsilon] if (row["leaning_share_of_errors"] or 0) > 0.5]
    return epsilon, {label: labels.count(label) for label in sorted(set(labels))}, len(at[epsilon])


def noise_evidence(rows, classes):
    """The Evidence of the neuron perturbation curves: it points to a label if every start leans there."""
    epsilon, labels, starts = leaning(rows)
    errs = np.mean([row["error_rate"] for row in rows if row["epsilon"] == epsilon])
    where = ", ".join(f"{called(label, classes)} in {count}" for label, count in labels.items()) or "none"
    return Evidence("neuron noise", next((label for label, count in labels.items() if count == starts), None),
                    f"at epsilon {epsilon:g} {100 * errs:.0f} % of the images are called wrong, over {starts} random "
                    f"starts; labels that most errors are: {where}")


def strip_evidence(method, folder):
    """What STRIP's calibration gives: a filter, not a sign."""
    boundary = method["boundaries"][method["boundary"]]
    return Evidence("STRIP", None, f"calibrated, which is no sign by itself: inputs of at most {boundary:.3f} bits are "
                    f"turned away, {100 * method['frr']['value']:.1f} % of fresh clean images; detect_strip.py "
                    f"--images FOLDER --calibration-file {folder / 'strip.json'} screens new inputs")


def read_rates(path=RATES):
    """The rows of the table of how often the tests were wrong on models of ours, [] where it is missing."""
    try:
        with open(path, newline="") as file:
            return [{**row, **{name: int(row[name]) for name in NUMBERS}} for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError):
        return []


def finished_run(checkpoint, name):
    """The reporting.found.Run that a script left beside the model under `name`; None where none is finished."""
    run = read_run(find_run(checkpoint, name), name)
    return run if run and run.state == FINISHED else None


def measure(model, test, triggers):
    """(ACC, {label: ASR of its reversed trigger}) of a model on the clean TestImages, as results.json has them."""
    asr = {str(label): asr_of(model, test, trigger) for label, trigger in triggers.items()}
    return score(model, test.clean).accuracy.as_dict(), asr


def compare_repaired(checkpoint, model, test, triggers, device):
    """[{"name", "acc", "lost", "asr_of_reversed"}] of the model and of every repaired one that is there.

    lost: points of ACC, as a fraction. The test images are those that no repair has seen.
    """
    acc, asr = measure(model, test, triggers)
    rows = [{"name": "as it is", "acc": acc, "lost": 0.0, "asr_of_reversed": asr}]
    for name, folder in REPAIRED.items():
        if finished_run(checkpoint, folder):
            repaired = load_model(find_run(checkpoint, folder) / "model_last.th", device).model
            own, asr = measure(repaired, test, triggers)
            rows.append({"name": name, "acc": own, "lost": acc["value"] - own["value"], "asr_of_reversed": asr})
    return rows


def least_lost(rows):
    """The names of the repaired models that lost least clean accuracy; more than one where they are equal."""
    repaired = rows[1:]
    least = min((row["lost"] for row in repaired), default=None)
    return [row["name"] for row in repaired if row["lost"] == least]


def report(verdict, targets, classes, evidence, rows, missing):
    """The verdict as lines of the log."""
    named = ", ".join(called(label, classes) for label in targets)
    for item in evidence:
        log.info("%s: %s", item.test, item.words)
    for row in rows:
        asr = "".join(f", reversed trigger of {called(int(label), classes)} {share['value']:.4f}"
                      for label, share in row["asr_of_reversed"].items() if share)
        log.info("%s: ACC %.4f, lost %.4f%s", row["name"], row["acc"]["value"], row["lost"], asr)
    if missing:
        log.info("not there: %s", ", ".join(missing))
    log.info("least clean accuracy lost: %s", ", ".join(least_lost(rows)) or "no repaired model is there")
    log.info("verdict: %s%s", verdict, f", target {named}" if targets else "")


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--checkpoint", default="output/badnets/model_last.th",
                        help="the model, beside which the other scripts left their runs")
    flags.add_data_flags(parser)
    flags.add_run_flags(parser, "verdict/ beneath the model's run")
    args = parser.parse_args(argv)
    args.output_dir = args.output_dir or default_folder(args.checkpoint, "verdict")
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, ("repaired.csv",)) as run:
        suspect, test, defender = load_suspect(args.checkpoint, None, args.dataset, args.data_dir, run.device,
                                               find=False)
        tests = {name: finished_run(args.checkpoint, name) for name in ("neural-cleanse", "neuron-noise", "strip")}
        cleanse, noise, strip = tests.values()
        if cleanse is None or cleanse.method.get("name") != "Neural Cleanse":
            raise UserError(f"{find_run(args.checkpoint, 'neural-cleanse')}: no finished run of neural_cleanse.py "
                            "detect, without which there is no verdict")
        targets, classes = [int(label) for label in cleanse.method["targets"]], defender.classes
        triggers = {label: load_trigger(cleanse.folder / f"reversed_trigger_{label}.th") for label in targets}

        run.begin(f"{hash_file(args.checkpoint)} {defender.fingerprint()}")
        evidence = cleanse_evidence(cleanse.method, classes)
        evidence += [noise_evidence(noise.method["rows"], classes)] if noise else []
        evidence += [strip_evidence(strip.method, strip.folder)] if strip else []
        rows = compare_repaired(args.checkpoint, suspect.model, test, triggers, run.device)
        missing = [name for name, found in tests.items() if found is None]
        missing += [name for name in REPAIRED if name not in {row["name"] for row in rows}]
        verdict = judge(cleanse.method)
        report(verdict, targets, classes, evidence, rows, missing)
        write_table(run.folder / "repaired.csv", COLUMNS, [
            {"model": row["name"], "acc": row["acc"]["value"], "lost": row["lost"], "asr_of_reversed_trigger": " ".join(
                f"{label}:{share['value']:.4f}" for label, share in row["asr_of_reversed"].items() if share)}
            for row in rows])
        run.finish(acc=rows[0]["acc"], asr=None, robust_acc=None, parent=args.checkpoint, dataset=defender.name,
                   width=suspect.model.spec["width"], seed=args.seed, method={
                       "name": "audit", "verdict": verdict, "targets": targets,
                       "target_classes": [classes[label] for label in targets],
                       "evidence": [asdict(item) for item in evidence], "repaired": rows,
                       "least_lost": least_lost(rows), "missing": missing, "rates": read_rates()})


if __name__ == "__main__":
    main()
