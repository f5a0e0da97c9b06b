"""What there is to grade: what runs, and logs and tables of other implementations, say of ACC and ASR."""
import re
from dataclasses import dataclass

from common.errors import UserError
from reporting.criteria import BACKDOORED, CRITERIA, HOMEWORK_WIDTH, TEST_IMAGES, TRIGGERED_IMAGES
from reporting.found import BROKEN, FINISHED, UNFINISHED, USUAL_ARCH, printable
from reporting.log import read_log, read_pruning
from reporting.shares import logged_share, measured_share
from reporting.submission import ATTACKS, pruning_rows, training_of


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


def or_said(name, measure, *args):
    """What `measure` says of a run; of one whose log or table cannot be read, why it cannot, and no figures."""
    try:
        return measure(*args)
    except UserError as error:
        return Measured(name, None, None, f"{name}/", str(error), False)
