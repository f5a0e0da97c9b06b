"""How often the audit's tests are wrong, counted on models of ours whose attack is known.

    python -m benchmarks.audit_rates output/matrix-digits results/cifar10-jpeg-width16 --write results/audit-rates.csv

Reads every finished run of defenses.neural_cleanse and studies.neuron_noise beneath the folders, if the training of
its model lies above it, and prints a row for each data set, width, attack and way of testing.
"""
import math

from common.files import write_table
from defenses.neural_cleanse import flagging_bound
from engine.command_line import flags
from engine.command_line.command import command
from methods.evidence import how_searched, noise_evidence
from reporting.found import FINISHED, find_runs

COLUMNS = ("data", "width", "test", "model_kind", "models", "wrong", "undecided", "searches", "searches_wrong", "how")
LEARNED = 0.5  # ASR from which a model counts as backdoored


def count_cleanse(run, target):
    """(wrong, undecided, searches, searches that are wrong) of a run of detect; target: the attacker's, None of a
    benign model."""
    method = run.method
    labels, searches = method["labels"], method["labels"][0]["seeds"]
    norms = [[math.inf if row["norm"] is None else row["norm"] for row in method["norms"] if row["seed"] == seed]
             for seed in sorted({row["seed"] for row in method["norms"]})]
    able = sum(flagging_bound(own) > 0 for own in norms)  # counted anew, since older runs do not say
    undecided = not method["targets"] and able <= searches / 2
    if target is None:
        return bool(method["targets"]), undecided, searches, method["seeds_with_a_flag"]
    own = next(label for label in labels if label["label"] == target)
    return target not in method["targets"] and not undecided, undecided, searches, searches - own["flagged_in"]


def count_noise(run, target):
    """The same of the neuron perturbation curves, whose starts decide together; None if the run is too old."""
    rows = run.method["rows"]
    if not all("leaning" in row for row in rows):
        return None
    found = noise_evidence(rows, {row["leaning"]: str(row["leaning"]) for row in rows})
    wrong = found.points_to is not None if target is None else found.points_to != target
    return wrong, False, 1, int(wrong)


def how(run):
    """The settings that decide how good the test is, in words."""
    if run.method["name"] == "neuron noise":
        epsilons = " ".join(f"{value:g}" for value in run.arguments["epsilons"])
        return f"--seeds {run.arguments['seeds']} --epsilons {epsilons} --val-frac {run.arguments['val_frac']}"
    return how_searched(run.arguments)


def count(folders):
    """The rows of the table."""
    found = {}
    for run in (run for folder in folders for run in find_runs(folder)):
        counters = {"Neural Cleanse": count_cleanse, "neuron noise": count_noise}
        test, above = run.method.get("name"), run.above
        if run.state != FINISHED or test not in counters or not above or not above.is_attack:
            continue
        kind = above.arguments["poison_type"]
        if kind != "benign" and above.share("asr") < LEARNED:
            continue  # an attack that did not take hold leaves nothing to find
        counted = counters[test](run, None if kind == "benign" else above.arguments["poison_target"])
        if counted:
            key = (run.results["dataset"], run.results["width"], test, kind, how(run))
            found.setdefault(key, []).append(counted)
    return [{"data": data, "width": width, "test": test, "model_kind": kind, "models": len(own),
             **dict(zip(("wrong", "undecided", "searches", "searches_wrong"), map(sum, zip(*own, strict=True)),
                        strict=True)), "how": said}
            for (data, width, test, kind, said), own in sorted(found.items(), key=str)]


@command
def main(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("folders", nargs="+", help="where the runs lie")
    parser.add_argument("--write", metavar="FILE.csv", help="write the table there")
    args = parser.parse_args(argv)
    rows = count(args.folders)
    for row in rows:
        print("{data}, width {width}, {test}, {model_kind}: wrong on {wrong} and undecided on {undecided} of {models} "
              "models; {searches_wrong} of {searches} single searches wrong ({how})".format(**row))
    if args.write:
        write_table(args.write, COLUMNS, rows)


if __name__ == "__main__":
    main()
