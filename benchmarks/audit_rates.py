"""How often the audit's tests are wrong, counted on models of ours whose attack is known.

    python benchmarks/audit_rates.py output/matrix-digits results/cifar10-jpeg-width16 --write results/audit-rates.csv

Reads every finished run of neural_cleanse.py detect and sweep_neuron_noise.py beneath the folders, if the training of
its model lies above it, and prints a row for each data set, width, attack and way of testing.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audit_model import noise_evidence
from data.files import write_table
from reporting.found import FINISHED, find_runs
from reporting.groups import ATTACKERS

COLUMNS = ("data", "width", "test", "model_kind", "models", "wrong", "searches", "searches_wrong", "how")


def count_cleanse(run, target):
    """(wrong, searches, searches that are wrong) of a run of detect; target: the attacker's, None of a benign model."""
    method = run.method
    if target is None:
        return bool(method["targets"]), method["labels"][0]["seeds"], method["seeds_with_a_flag"]
    own = next(label for label in method["labels"] if label["label"] == target)
    return target not in method["targets"], own["seeds"], own["seeds"] - own["flagged_in"]


def count_noise(run, target):
    """The same of the neuron perturbation curves, whose starts decide together; None if the run is too old."""
    rows = [row for row in run.method["rows"] if row["model"] == "suspect"]
    if not all("leaning" in row for row in rows):
        return None
    names = {row["leaning"]: str(row["leaning"]) for row in rows}
    found = noise_evidence(rows, names)
    wrong = found.points_to is not None if target is None else found.points_to != target
    return wrong, 1, int(wrong)


def settings(run):
    """How it was tested, in words."""
    own = run.arguments
    if run.method["name"] == "neuron noise":
        return f"{own['seeds']} starts, epsilon {' '.join(f'{value:g}' for value in own['epsilons'])}"
    return f"{own['seeds']} searches, --batches {own['batches']} --budget {own['budget']}"


def count(folders):
    """The rows of the table."""
    found = {}
    for run in (run for folder in folders for run in find_runs(folder)):
        counters = {"Neural Cleanse": count_cleanse, "neuron noise": count_noise}
        test, above = run.method.get("name"), run.above
        if run.state != FINISHED or test not in counters or not above or above.script not in ATTACKERS:
            continue
        kind = above.arguments["poison_type"]
        counted = counters[test](run, None if kind == "benign" else above.arguments["poison_target"])
        if counted:
            key = (run.results["dataset"], run.results["width"], test, kind, settings(run))
            found.setdefault(key, []).append(counted)
    return [{"data": data, "width": width, "test": test, "model_kind": kind, "models": len(own),
             "wrong": sum(wrong for wrong, _, _ in own), "searches": sum(searches for _, searches, _ in own),
             "searches_wrong": sum(wrong for _, _, wrong in own), "how": how}
            for (data, width, test, kind, how), own in sorted(found.items(), key=str)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="where the runs lie")
    parser.add_argument("--write", metavar="FILE.csv", help="write the table there")
    args = parser.parse_args()
    rows = count(args.folders)
    for row in rows:
        print("{data}, width {width}, {test}, {model_kind}: wrong on {wrong} of {models} models, {searches_wrong} of "
              "{searches} single searches ({how})".format(**row))
    if args.write:
        write_table(args.write, COLUMNS, rows)


if __name__ == "__main__":
    main()
