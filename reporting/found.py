"""The runs that lie beneath a folder: finished, unfinished and broken ones."""
import math
import os
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path, PurePosixPath

from common.errors import UserError
from common.files import hash_file
from common.inputs import are_of
from common.untrusted import read_json_lines, read_object
from reporting.scripts import repairs, script_name, trains_attack
from reporting.submission import trainings_in

FINISHED, UNFINISHED, BROKEN, LOG_ONLY = "finished", "unfinished", "broken", "log only"
OUTDATED = "outdated"  # finished, on a model that has since been made anew
# Where a run read and wrote, on what machine, and how often it was looked at: no part of what it did.
PLACES = {"output_dir", "data_dir", "overwrite", "resume", "device", "seed", "checkpoint", "trigger_info", "mask_file",
          "encoder", "trigger_file", "stages_of", "compile", "graph", "test_every"}
USUAL_ARCH = "resnet18"  # of runs from before there was a choice


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder and what could be read of it. `why` says what is the matter with one that is not finished."""

    folder: Path
    name: str
    state: str
    why: str = ""
    results: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    above: "FinishedRun | None" = None  # the nearest run whose folder holds this one's

    @property
    def script(self):
        """The script's name as reporting.scripts has it; "" where no file says."""
        return script_name(self.results.get("script") or self.config.get("script") or "", self.arguments.get("task"))

    @property
    def is_attack(self):
        """Whether this is a finished training of an attack, on all of its data."""
        return (self.state == FINISHED and trains_attack(self.script) and bool(self.results.get("acc"))
                and not self.leaves_out)

    @property
    def is_repair(self):
        """Whether this is a finished run that left a repaired model, or one trained without what is suspected."""
        return self.state == FINISHED and self.leaves_repaired and bool(self.results.get("acc"))

    @property
    def leaves_repaired(self):
        """Whether its script leaves a repaired model, in whatever state this run of it is."""
        return repairs(self.script) or self.leaves_out

    @property
    def leaves_out(self):
        """Whether this is a training on an attack's data without the images of a file of indices."""
        return bool(self.arguments.get("leave_out"))

    @property
    def arguments(self):
        return self.config.get("arguments", {})

    @property
    def method(self):
        return self.results.get("method", {})

    @cached_property
    def rows(self):
        """The rows of metrics.jsonl; none where it is missing or damaged."""
        from reporting.schema import Epoch, check
        try:
            rows = read_json_lines(self.folder / "metrics.jsonl")
            for row in rows:
                check(Epoch, row)
        except (OSError, ValueError):
            return []
        return rows

    @property
    def has_damaged_metrics(self):
        """Whether a metrics.jsonl is there that cannot be read, so that curves are missing."""
        return (self.folder / "metrics.jsonl").is_file() and not self.rows

    def share(self, name, of=None):
        """acc, asr or robust_acc as a fraction, of the run or of a dict `of` like method["before"]; nan if unknown."""
        return value_of((self.results if of is None else of).get(name))

    @property
    def spec(self):
        """What results.json says of the network; {} in older ones."""
        return self.results.get("spec") or {}

    @property
    def arch(self):
        """The network's architecture: what the run says of it, else the nearest run above that says something."""
        run = self
        while run:
            said = run.spec.get("arch") or run.arguments.get("arch")
            if said:
                return said
            run = run.above
        return USUAL_ARCH

    @property
    def width(self):
        """The network's width; None if the run does not say."""
        return self.results.get("width", self.spec.get("width"))

    @property
    def setting(self):
        """What its figures hold for: (data set, architecture, width); None for what the run does not say."""
        return self.results.get("dataset"), self.arch, self.width

    @property
    def did(self):
        """{flag: value} of all that it did, without places, machine and seed: the same for the seeds of one thing."""
        return {name: value for name, value in self.arguments.items() if name not in PLACES and value is not None}


def printable(name):
    """A name of a folder without what would break a line, a terminal or a font: such letters become U+FFFD."""
    text = name.encode("utf-8", errors="replace").decode("utf-8")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def value_of(share):
    """The value of a share as results.json has it; nan for null."""
    return share["value"] if share else math.nan


def read_checked(path):
    """(the object in config.json or results.json, or {} if there is none that is sound; what is wrong with it)."""
    from reporting.schema import CHECKS
    if not path.is_file():
        return {}, []
    try:
        found = read_object(path)
        CHECKS[path.name](found)
    except (OSError, ValueError) as error:
        return {}, [f"{path.name}: {printable(str(error))}"]
    return found, []


def read_run(folder, name):
    """The FinishedRun in `folder`, or None if none lies there. `name` is what it is called by."""
    has = {file: (folder / file).is_file() for file in ("results.json", "config.json")}
    config, wrong_config = read_checked(folder / "config.json")
    results, wrong_results = read_checked(folder / "results.json")
    why = wrong_config + wrong_results
    if has["results.json"] and not has["config.json"] and not why:
        why.append("config.json is missing, so what it did is not known")
    if why:
        return FinishedRun(folder, name, BROKEN, "; ".join(why), {}, config)
    if has["results.json"]:
        return FinishedRun(folder, name, FINISHED, "", results, config)
    if has["config.json"]:
        run = FinishedRun(folder, name, UNFINISHED, "", {}, config)
        return replace(run, why=f"{len(run.rows)} rows in metrics.jsonl, no results.json")
    return read_foreign(folder, name)


def read_foreign(folder, name):
    """The FinishedRun of a folder with logs and nothing else that we know; None if they are not of a training."""
    try:
        trainings = trainings_in(folder)
    except UserError as error:
        return FinishedRun(folder, name, BROKEN, str(error))
    if any(log.rows for log in trainings):
        logs = ", ".join(dict.fromkeys(printable(log.path.name) for log in trainings if log.rows))
        return FinishedRun(folder, name, LOG_ONLY, f"no results.json; read from {logs}")
    return FinishedRun(folder, name, BROKEN, f"{printable(trainings[0].path.name)}: {trainings[0].complaint}"
                       ) if trainings else None


def is_in(file, folder):
    """Whether a folder is the one of a file that a run names, which may have been moved since with all of output/."""
    if ".." in file.parts:
        return False
    place = file.parent.parts
    if file.is_absolute():
        return Path(folder).resolve().parts == place
    if len(place) < 2:
        return Path(folder).resolve().parts[-1:] == place
    return folder.parts[1 - len(place):] == place[1:]


def against_masks(run, hash_once):
    """The run itself, or a pruned model as OUTDATED where the masks in the folder above are others by now."""
    made, file = run.method.get("masks"), PurePosixPath(str(run.arguments.get("mask_file")))
    if run.state != FINISHED or not made or not run.above or not is_in(file, run.above.folder):
        return run
    masks = run.above.folder / file.name
    if not masks.is_file() or hash_once(masks) == made:
        return run
    return replace(run, state=OUTDATED, why=f"{run.above.name}/{masks.name} holds other masks than those that it was "
                                            "pruned by; run it again")


def against_model(run, hash_once):
    """The run itself, or as OUTDATED where the model that it worked on is another by now: figures of both would stand
    side by side. Unknown, and so taken for sound, where the model does not lie in a folder above. hash_once: hash_file
    """
    inputs, parent = run.config.get("inputs"), run.results.get("parent")
    if run.state != FINISHED or trains_attack(run.script) or not isinstance(inputs, str) or not parent:
        return run
    parent, above = PurePosixPath(parent), run.above
    while above and not is_in(parent, above.folder):
        above = above.above
    model = above.folder / parent.name if above else None
    if model is None or not model.is_file() or are_of(inputs, hash_once(model)):
        return run
    return replace(run, state=OUTDATED, why=f"{above.name}/{parent.name} holds other weights than those that it was "
                                            "run on; run it again")


def folders(root):
    """The folder `root` and all beneath, in the order of their paths, as [(path, what it is called)].

    Symbolic links to folders are not followed, and folders whose names begin with a dot are left out.
    """
    root = Path(root)
    for folder, below, _ in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        path = Path(folder)
        yield path, printable(path.relative_to(root).as_posix() if path != root else path.resolve().name)


def find_runs(root):
    """Every FinishedRun in the folder `root` and beneath, ordered by path. Raises UserError if there is none."""
    if not Path(root).is_dir():
        raise UserError(f"{root}: no such folder; expected one with finished runs, such as output/")
    runs, hash_once = {}, cache(hash_file)
    for path, name in folders(root):
        run = read_run(path, name)
        if run:
            above = next((runs[parent] for parent in path.parents if parent in runs), None)
            runs[path] = against_masks(against_model(replace(run, above=above), hash_once), hash_once)
    if not runs:
        raise UserError(f"{root}: no run lies here (no folder with results.json, config.json or a training's log)")
    return list(runs.values())
