"""Calls of the suite's scripts, each with what it needs, and whether they can be made before anything starts."""
import contextlib
import importlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import Repr

from common.errors import UserError
from common.untrusted import read_json
from engine.catalogue import gifts
from engine.cells import as_flags
from engine.command_line.inherit import INHERITED
from engine.command_line.poison_flags import POISON_DEFAULTS
from engine.rows import Script

ROOT = Path(__file__).resolve().parent.parent
SWITCHES = ("flooding", "even_steps", "no_pgd", "all_to_all", "freeze_features", "recalibrate", "student", "compile",
            "track_losses", "deterministic")  # flags that have no --no- form
# Where a run reads and writes, and how it was called: no part of what it did, since a run may have been put there.
PLACES = {"output_dir", "overwrite", "resume", "device", "checkpoint", "trigger_info", "mask_file", "start_from",
          "leave_out", "trigger_file", "stages_of", *(gift.flag for _, gift in gifts().values())}


@dataclass(frozen=True)
class Step:
    """One call of a script. `folder` is what it leaves results.json in, `needs` the files that it waits for.

    `cell` names what fails if it fails: in a matrix attack, defense and seed.
    """

    folder: str
    script: Script
    flags: tuple
    needs: tuple
    cell: str
    is_heavy: bool  # worth a GPU, which it then has for itself

    @property
    def results(self):
        """The file that says that it is finished."""
        return f"{self.folder}/results.json"

    def words(self):
        """The words after `python`."""
        return [*self.script.words(), *self.own_words()]

    def own_words(self):
        """The words behind the script's name."""
        return [*self.flags, "--output-dir", self.folder, self.script.again]


@dataclass
class Plan:
    """Steps beneath the folder `output`, {folder: Step} in an order in which each comes after its needs.

    copies: {file to be made: what it is a copy of}. last: the folder of a step that is made even where others failed.
    stamp: (name of a file in `output`, what it says of the inputs), written before the first step.
    """

    output: str
    title: str
    steps: dict = field(default_factory=dict)
    copies: dict = field(default_factory=dict)
    last: str | None = None
    stamp: tuple | None = None

    def add(self, folder, script, settings, needs, cell, is_heavy=True):
        """Plan a Step of a Script with the flags {name: value} unless it is planned already; returns it."""
        if folder not in self.steps:
            flags = tuple(map(str, as_flags(settings, SWITCHES)))
            self.steps[folder] = Step(folder, script, flags, tuple(needs), cell, is_heavy and script.is_heavy)
        return self.steps[folder]

    def check(self):
        """Raise UserError for a step that its script refuses, or whose folder holds a run with other flags."""
        flags = [flag for step in self.steps.values() for flag in step.flags]
        for word in (self.output, *self.copies.values(), *flags):
            if set("{}") & set(word) or not word.isprintable():
                raise UserError(f"{ascii(word)[1:-1]}: expected a name without braces, which Snakemake "
                                "expands, of printable characters")
        for step in self.steps.values():
            check_made_alike(step, parse(step))


def parse(step):
    """The step's words as its script parses them. Raises UserError with the script's own line if it refuses them."""
    module, name, complaint = step.script.module, step.script.words()[-1], io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(module).parse_args(step.own_words())
    except SystemExit:
        said = complaint.getvalue().strip().split(": error: ", 1)[-1] or "one of its flags only prints"
        raise UserError(f"{step.cell}: {name}: {said}") from None
    except UserError as error:
        raise UserError(f"{step.cell}: {name}: {error}") from None


def check_made_alike(step, args):
    """Raise UserError if a run lies in the step's folder that was begun with other flags than `args`."""
    try:
        before = dict(read_json(Path(step.folder) / "config.json")["arguments"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # none yet, or damaged, which its script says
    now = json.loads(json.dumps(vars(args)))
    # An earlier version recorded a default also of a flag that the attack does not use.
    unused = {name for name, used in POISON_DEFAULTS.items() if "poison_type" in now and now["poison_type"] not in used}
    unused |= {name for name in INHERITED if now.get(name) is None}  # as the masks were made
    other = [f"--{name.replace('_', '-')} {before[name]}, not {now[name]}" for name in now
             if name not in PLACES | unused and name in before and before[name] != now[name]]
    if other:
        raise UserError(f"{step.folder}: holds a run made with {', '.join(other)}; remove it, or name another output")


def rule_name(path, output):
    """The name of the Snakemake rule that makes `path` beneath the folder `output`.

    A slash becomes two lines, so that a-b/c and a/b-c are two rules; no script and no variant has two in its name.
    """
    inner = path.removeprefix(output).strip("/").replace("/", "__")
    return "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in inner)


def short(value):
    """A value as code, in a line: a few lines of YAML can stand for more text than memory holds."""
    shown = Repr()
    shown.maxlevel = 2
    return shown.repr(value)


def check_flags(path, flags, refused):
    """Raise UserError unless `flags` is a dict of flags, or None, with none of the names `refused`."""
    if not isinstance(flags, (dict, type(None))):
        raise UserError(f"{path}: expected flags, got {short(flags)}")
    for name, value in (flags or {}).items():
        if not isinstance(name, str):
            raise UserError(f"{path}: expected a flag's name, got {short(name)}; YAML reads on, off, yes and no as yes "
                            "or no")
        if not all(isinstance(part, (str, int, float, type(None))) for part in (
                value if isinstance(value, list) else [value])):
            raise UserError(f"{path}: {name}: expected a value or a list of values, got {short(value)}")
        parts = value if isinstance(value, list) else [value]
        if not name.replace("-", "").replace("_", "").isalnum() or any(str(part).startswith("--") for part in parts):
            raise UserError(f"{path}: {short(name)}: expected the name of one flag, and values that are not flags")
        if name.replace("-", "_") in refused:
            raise UserError(f"{path}: {name}: is set by the workflow itself; leave it out")


def known_files(folder):
    """The names of the YAML files that the suite has in workflow/<folder>, in words."""
    return ", ".join(sorted(file.stem for file in (ROOT / "workflow" / folder).glob("*.yaml")))
