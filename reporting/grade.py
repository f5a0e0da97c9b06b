"""The homework's criteria against what was logged."""
import re
from dataclasses import dataclass

from common.errors import UserError
from engine.measuring.evaluation import Proportion
from reporting.found import BROKEN, FINISHED, LOG_ONLY, UNFINISHED, USUAL_ARCH, folders, printable
from reporting.log import read_log, read_pruning
from reporting.scripts import PRUNING
from reporting.submission import ATTACKS, pruning_rows, pruning_tables, training_of

HOMEWORK_WIDTH = 64
TEST_IMAGES, TRIGGERED_IMAGES = 10_000, 9_000  # CIFAR-10's, assumed where a log does not say
PASSED, FAILED, NOT_MEASURED, NOT_COMPARABLE = "pass", "fail", "not measured", "not comparable"
NO_RUN = "no run found"
BACKDOORED = 0.5  # ASR from which there is a backdoor to prune away
NAMES = {"badnets": "BadNets", "blend": "Blend", "clean-label": "Clean-label", "anp": "ANP"}


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
    is_comparable: bool = True  # False on other images than CIFAR-10's


@dataclass(frozen=True)
class Line:
    """One line of the grade: a criterion, what is required, what was measured, and whether it is met.

    could_be_met: whether there is a run that the criterion is for.
    """

    criterion: str
    figure: str
    required: str
    measured: dict | None
    passed: bool
    source: str
    note: str
    could_be_met: bool = True

    @property
    def state(self):
        """PASSED, FAILED or NOT_MEASURED."""
        if self.passed:
            return PASSED
        return FAILED if self.could_be_met and self.measured else NOT_MEASURED


def measured_share(share):
    """A share of results.json with its interval computed anew; None for null."""
    return share and logged_share(share["value"], int(share["n"]))


def logged_share(value, n):
    """A share with the 95 % Wilson interval that `n` images have; None if the value is nan."""
    if value != value:
        return None
    return {**Proportion(round(value * n), n).as_dict(), "value": value}  # a log has four decimals


def has_usual_aim(run):
    """Whether a run's trigger leads images of all other classes to one target, as far as the run says."""
    return not any(source.get(name) for source in (run.results, run.arguments) for name in ("all_to_all", "sources"))


def attack_of(run):
    """The homework's name of the attack that a run of ours is of; None for another, also by its trigger's aim or since
    it leaves out what is suspected."""
    is_usual = run.script == "train_backdoor" and has_usual_aim(run) and not run.leaves_out
    named = run.arguments.get("poison_type") if is_usual else None
    return named if named in ATTACKS else None


def measure_log(run, attack):
    """What the logs of a folder without results.json say of an attack; None if no training in them is of it."""
    found = training_of(run.folder, attack)
    if found is None:
        return None
    log, count = found
    last, others = log.last, f"the longest of {count} trainings of this attack; " if count > 1 else ""
    return Measured(run.name, logged_share(last["poison_acc"], TRIGGERED_IMAGES),
                    logged_share(last["clean_acc"], TEST_IMAGES),
                    f"{run.name}/{printable(log.path.name)}, line {last['line']} (epoch {last['epoch']})",
                    f"{others}interval for {TRIGGERED_IMAGES} and {TEST_IMAGES} images, as of CIFAR-10")


def is_comparable(run):
    """Whether a run is on CIFAR-10 with all of its test images, as far as one that is not finished says; cifar100 is
    another data set."""
    dataset = run.results.get("dataset") if run.state == FINISHED else run.arguments.get("dataset", "cifar10")
    return (test_images(run) or TEST_IMAGES) == TEST_IMAGES and re.match(r"cifar10(?!\d)", str(dataset)) is not None


def test_images(run):
    """How many clean test images a run measured ACC on; None if it does not say."""
    return (run.results.get("acc") or {}).get("n")


def remarks(run):
    """(what a reader must know of a run of ours, whether its figures may meet the homework's criteria at all)."""
    dataset, arch, width = run.setting
    if not is_comparable(run):
        images = f" ({test_images(run)} test images)" if test_images(run) else ""
        return [f"measured on {dataset}{images}, and the criteria are for CIFAR-10"], False
    notes = [] if arch == USUAL_ARCH else [f"{arch}, the homework's is {USUAL_ARCH}"]
    return notes + ([] if width == HOMEWORK_WIDTH else [f"width {width}, the homework's is {HOMEWORK_WIDTH}"]), True


def measure_attack(run):
    """What a training run's last tested epoch measured."""
    if run.state in (UNFINISHED, BROKEN):
        return Measured(run.name, None, None, f"{run.name}/", f"{run.state}: {run.why}", False,
                        is_comparable(run))
    log = read_log(run.folder / "output.log") if (run.folder / "output.log").is_file() else None
    last = log.last if log else None
    where = f"{run.name}/{(last and 'output.log, line {line} (epoch {epoch})'.format(**last)) or 'results.json'}"
    asr, acc = measured_share(run.results.get("asr")), measured_share(run.results.get("acc"))
    notes, comparable = remarks(run)
    if not last:
        notes.append("no line an epoch in output.log")
    elif not agrees(last, asr, acc):
        notes.append("results.json says something else than the log's last line")
    sound = comparable and bool(last) and agrees(last, asr, acc)
    return Measured(run.name, asr, acc, where, "; ".join(notes), sound, comparable)


def agrees(row, asr, acc):
    """Whether a log's row says the same, to its four decimals, as two shares do."""
    return all(share is None or abs(row[name] - share["value"]) <= 5.1e-5
               for name, share in (("poison_acc", asr), ("clean_acc", acc)))


def measure_pruning(run):
    """What a pruned model is left with: the row that prune_network.py kept. None if there was no backdoor to prune, by
    the table's row before pruning."""
    if run.state != FINISHED:
        return Measured(run.name, None, None, f"{run.name}/", f"{run.state}: {run.why}", False,
                        is_comparable(run))
    chosen = run.method.get("chosen") or {}
    name = f"pruning_by_{run.arguments.get('pruning_by') or 'threshold'}.txt"
    rows = read_pruning(run.folder / name) if (run.folder / name).is_file() else []
    before = next((row["poison_acc"] for row in rows if not row["pruned"]), None)
    if before is not None and before < BACKDOORED:
        return None
    asr, acc = measured_share(run.results.get("asr")), measured_share(run.results.get("acc"))
    own = [row for row in rows if row["pruned"] == chosen.get("pruned") and agrees(row, asr, acc)]
    where = f"{run.name}/{name}" + (f", line {own[-1]['line']}" if own else "")
    notes, comparable = remarks(run)
    notes += [] if own else ["no row of the table says what results.json says"]
    notes += [] if before is not None else ["no row before pruning, so no backdoor is shown to have been there"]
    sound = comparable and bool(own) and before is not None
    return Measured(run.name, asr, acc, where, "; ".join(notes), sound, comparable)


def measure_foreign_pruning(folder, name, has_backdoor):
    """What a folder's tables of pruning say without a results.json; None if they prune nothing, or no backdoor.

    Of several rows the one that comes nearest to the homework's two bounds: chosen by the test set, hence *oracle*.
    has_backdoor: whether another log shows one, for a table whose own rows do not.
    """
    table = pruning_rows(folder)
    rows = [row for row in table if row["threshold"] is not None]
    if not rows or any(not row["pruned"] and row["poison_acc"] < BACKDOORED for row in table):
        return None
    asr, acc = CRITERIA["anp"]

    def missed(row):
        return (not asr.holds(100 * row["poison_acc"])) + (not acc.holds(100 * row["clean_acc"])), row["poison_acc"]
    best = min(rows, key=missed)
    shown = has_backdoor or any(row["poison_acc"] >= BACKDOORED for row in table)
    notes = [] if len(rows) == 1 else [f"oracle: the best of {len(rows)} rows by the test set itself"]
    notes += [] if shown else ["nothing shows that a backdoor was there before"]
    return Measured(name, logged_share(best["poison_acc"], TRIGGERED_IMAGES),
                    logged_share(best["clean_acc"], TEST_IMAGES),
                    f"{name}/{printable(best['file'])}, line {best['line']}", "; ".join(notes), shown)


def pick(candidates, wanted):
    """(the measured run that is graded, names of the others): one on CIFAR-10, then the one in a folder of the attack's
    name, then finished ones, then the one in the fewest folders, then by name. Never by what it scored."""
    ranked = sorted(candidates, key=lambda one: (
        not one.is_comparable, wanted not in one.name.split("/"), one.asr is None, one.name.count("/"), one.name))
    return ranked[0], [one.name for one in ranked[1:]]


def lines_for(criterion, candidates, wanted, why=NO_RUN):
    """The two Lines, ASR's and ACC's, of a criterion. why: what the lines say where there are no candidates."""
    bounds = dict(zip(("ASR", "ACC"), CRITERIA[criterion], strict=True))
    if not candidates:
        return [Line(NAMES[criterion], figure, bound.text, None, False, "", why, could_be_met=False)
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
                          "; ".join(more), graded.is_comparable))
    return lines


def or_said(name, measure, *args):
    """What `measure` says of a run; of one whose log or table cannot be read, why it cannot, and no figures."""
    try:
        return measure(*args)
    except UserError as error:
        return Measured(name, None, None, f"{name}/", str(error), False)


def grade(root, runs):
    """The homework's criteria as Lines, for the runs found beneath the folder `root`."""
    lines, has_backdoor = [], False
    for attack in ATTACKS:
        own = [or_said(run.name, measure_log, run, attack) if run.state == LOG_ONLY else or_said(
            run.name, measure_attack, run) for run in runs if run.state == LOG_ONLY or attack_of(run) == attack]
        own = [one for one in own if one]
        has_backdoor |= any(one.asr and one.asr["value"] >= BACKDOORED for one in own)
        lines += lines_for(attack, own, attack)
    own = [run for run in runs if run.script == PRUNING and has_usual_aim(run)]
    pruned = [or_said(run.name, measure_pruning, run) for run in own]
    idle = [run.name for run, measured in zip(own, pruned, strict=True) if measured is None]
    foreign = [or_said(name, measure_foreign_pruning, folder, name, has_backdoor) for folder, name in folders(root)
               if pruning_tables(folder)]
    why = f"no backdoor was there before pruning: {', '.join(idle[:3])}" if idle else NO_RUN
    return lines + lines_for("anp", [one for one in (*pruned, *foreign) if one], "badnets", why)


def percent(share):
    """A share as text: 99.98 [99.92, 99.99]; not known: a dash."""
    if not share:
        return "–"
    low, high = share["interval"]
    return f"{100 * share['value']:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def in_text(line):
    """A line's result for a terminal, which also has the figures that do not count, such as those of other images."""
    if line.measured and not line.could_be_met:
        return NOT_COMPARABLE
    return FAILED.upper() if line.state == FAILED else line.state


def as_text(lines):
    """The grade as lines of text for a terminal."""
    table = [("criterion", "", "required", "measured, %", "", "where"),
             *((line.criterion, line.figure, line.required, percent(line.measured), in_text(line),
                "; ".join(part for part in (line.source, line.note) if part)) for line in lines)]
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip()
            for row in table]
