"""The homework's criteria against what was logged."""
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binomtest

from reporting.found import BROKEN, FINISHED, LOG_ONLY, UNFINISHED
from reporting.log import read_log, read_pruning

TEST_IMAGES, TRIGGERED_IMAGES = 10_000, 9_000  # CIFAR-10's, assumed where a log does not say
BACKDOORED = 0.5  # ASR from which there is a backdoor to prune away
ATTACKS = ("badnets", "blend", "clean-label")
NAMES = {"badnets": "BadNets", "blend": "Blend", "clean-label": "Clean-label", "anp": "ANP"}
ALIASES = {"badnet": "badnets", "clb": "clean-label", "cl": "clean-label", "cleanlabel": "clean-label"}


@dataclass(frozen=True)
class Bound:
    """What a figure, in %, must be. 100 % is asked for to the whole percent, as the homework writes it."""

    text: str
    low: float = -1.0
    high: float = 101.0

    def holds(self, percent):
        return self.low < percent < self.high


CRITERIA = {
    "badnets": (Bound("100 (at least 99.5)", low=99.5 - 1e-9), Bound("> 91", low=91)),
    "blend": (Bound("100 (at least 99.5)", low=99.5 - 1e-9), Bound("> 91", low=91)),
    "clean-label": (Bound("> 80", low=80), Bound("> 91", low=91)),
    "anp": (Bound("< 5", high=5), Bound("> 92", low=92)),
}


@dataclass(frozen=True)
class Measured:
    """ASR and ACC as shares {"value", "interval", "n"} (None: not known), where they stand, and what to know."""

    name: str
    asr: dict | None
    acc: dict | None
    source: str
    note: str = ""
    sound: bool = True


@dataclass(frozen=True)
class Line:
    """One line of the grade: a criterion, what is required, what was measured, and whether it is met."""

    criterion: str
    figure: str
    required: str
    measured: dict | None
    passed: bool
    source: str
    note: str


def logged_share(value, n):
    """A share that a log gives to four decimals, with the 95 % Wilson interval that `n` images would have."""
    low, high = binomtest(round(value * n), n).proportion_ci(0.95, method="wilson")
    return {"value": value, "interval": [float(low), float(high)], "n": n}


def attack_of(run):
    """The homework's name of the attack that a run is of; None for another. A foreign log is told by its arguments,
    otherwise by the names of its file and folder."""
    if run.state != LOG_ONLY:
        named = run.arguments.get("poison_type") if run.script == "train_backdoor.py" else None
        return named if named in ATTACKS else None
    log = read_log(run.folder / "output.log")
    words = [log.poison_type or "", *reversed(run.name.replace("_", "-").lower().split("/")), run.folder.name.lower()]
    for word in words:
        for attack in (*ATTACKS, *ALIASES):
            if word == attack or (word and word.startswith(f"{attack}-")):
                return ALIASES.get(attack, attack)
    return None


def measure_attack(run):
    """What a training run's last epoch measured."""
    log = read_log(run.folder / "output.log") if (run.folder / "output.log").is_file() else None
    last = log.rows[-1] if log and log.rows else None
    where = f"{run.name}/{(last and 'output.log, line {line} (epoch {epoch})'.format(**last)) or 'results.json'}"
    if run.state in (UNFINISHED, BROKEN):
        return Measured(run.name, None, None, where, f"{run.state}: {run.why}", False)
    if run.state == FINISHED:
        asr, acc = run.results.get("asr"), run.results.get("acc")
        if last and not agrees(last, asr, acc):
            return Measured(run.name, asr, acc, where, "results.json says something else than the log's last line",
                            False)
        note = "" if last else "no line an epoch in output.log"
        return Measured(run.name, asr, acc, where, note, bool(last))
    return Measured(run.name, logged_share(last["poison_acc"], TRIGGERED_IMAGES),
                    logged_share(last["clean_acc"], TEST_IMAGES), where,
                    f"interval for {TRIGGERED_IMAGES} and {TEST_IMAGES} images, as of CIFAR-10")


def agrees(row, asr, acc):
    """Whether a log's row says the same, to its four decimals, as two shares do."""
    return all(share is None or abs(row[name] - share["value"]) <= 5.1e-5
               for name, share in (("poison_acc", asr), ("clean_acc", acc)))


def measure_pruning(run):
    """What a pruned model is left with: the row that prune_network.py kept."""
    if run.state != FINISHED:
        return Measured(run.name, None, None, f"{run.name}/config.json", f"{run.state}: {run.why}", False)
    chosen = run.method.get("chosen") or {}
    name = f"pruning_by_{run.arguments.get('pruning_by', 'threshold')}.txt"
    rows = read_pruning(run.folder / name) if (run.folder / name).is_file() else []
    asr, acc = run.results.get("asr"), run.results.get("acc")
    own = [row for row in rows if row["pruned"] == chosen.get("pruned") and agrees(row, asr, acc)]
    where = f"{run.name}/{name}" + (f", line {own[-1]['line']}" if own else "")
    note = "" if own else "no row of the table says what results.json says"
    return Measured(run.name, asr, acc, where, note, bool(own))


def measure_foreign_pruning(folder, name):
    """What a pruning_by_threshold.txt without a results.json says; None if it prunes nothing, or no backdoor.

    Of several rows the one that comes nearest to the homework's two bounds: chosen by the test set, hence *oracle*.
    """
    table = read_pruning(Path(folder) / "pruning_by_threshold.txt")
    rows = [row for row in table if row["threshold"] is not None]
    if not rows or any(row["threshold"] is None and row["poison_acc"] < BACKDOORED for row in table):
        return None
    asr, acc = CRITERIA["anp"]

    def missed(row):
        return (not asr.holds(100 * row["poison_acc"])) + (not acc.holds(100 * row["clean_acc"])), row["poison_acc"]
    best = min(rows, key=missed)
    return Measured(name, logged_share(best["poison_acc"], TRIGGERED_IMAGES),
                    logged_share(best["clean_acc"], TEST_IMAGES),
                    f"{name}/pruning_by_threshold.txt, line {best['line']}",
                    "" if len(rows) == 1 else f"oracle: the best of {len(rows)} rows by the test set itself")


def pick(candidates, wanted):
    """(the measured run that is graded, names of the others): finished ones first, then the one in a folder of the
    attack's name, then the one in the fewest folders, then by name. Never by what it scored."""
    ranked = sorted(candidates, key=lambda one: (one.asr is None, wanted not in one.name.split("/"),
                                                 one.name.count("/"), one.name))
    return ranked[0], [one.name for one in ranked[1:]]


def lines_for(criterion, candidates, wanted):
    """The two Lines, ASR's and ACC's, of a criterion."""
    bounds = dict(zip(("ASR", "ACC"), CRITERIA[criterion], strict=True))
    if not candidates:
        return [Line(NAMES[criterion], figure, bound.text, None, False, "", "no run found")
                for figure, bound in bounds.items()]
    graded, others = pick(candidates, wanted)
    notes = [graded.note] if graded.note else []
    if others:
        beyond = f" and {len(others) - 3} more" if len(others) > 3 else ""
        notes.append(f"not graded: {', '.join(others[:3])}{beyond}")
    lines = []
    for (figure, bound), share in zip(bounds.items(), (graded.asr, graded.acc), strict=True):
        inside = share is not None and bound.holds(100 * share["value"])
        near = share is not None and len({bound.holds(100 * end) for end in share["interval"]}) > 1
        more = [*notes, "the interval crosses the bound"] if near else notes
        lines.append(Line(NAMES[criterion], figure, bound.text, share, inside and graded.sound, graded.source,
                          "; ".join(more)))
    return lines


def find_foreign_prunings(root, runs):
    """Folders beneath `root` with a pruning_by_threshold.txt that no run of ours wrote, as [(folder, name)]."""
    ours = {run.folder for run in runs if run.script}
    folders = sorted(path.parent for path in Path(root).rglob("pruning_by_threshold.txt"))
    return [(folder, folder.relative_to(root).as_posix()) for folder in folders if folder not in ours]


def grade(root, runs):
    """The homework's criteria as Lines, for the runs found beneath the folder `root`."""
    lines = []
    for attack in ATTACKS:
        own = [measure_attack(run) for run in runs if attack_of(run) == attack]
        lines += lines_for(attack, own, attack)
    pruned = [measure_pruning(run) for run in runs if run.script == "prune_network.py"
              and not run.share("asr", run.method.get("before") or {}) < BACKDOORED]  # so not on a benign model
    foreign = [measure_foreign_pruning(folder, name) for folder, name in find_foreign_prunings(root, runs)]
    return lines + lines_for("anp", [one for one in (*pruned, *foreign) if one], "badnets")


def percent(share):
    """A share as text: 99.98 [99.92, 99.99]; not known: -."""
    if not share:
        return "-"
    low, high = share["interval"]
    return f"{100 * share['value']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def as_text(lines):
    """The grade as lines of text for a terminal."""
    table = [("criterion", "", "required", "measured, %", "", "where"),
             *((line.criterion, line.figure, line.required, percent(line.measured), "pass" if line.passed else "FAIL",
                "; ".join(part for part in (line.source, line.note) if part)) for line in lines)]
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip()
            for row in table]
