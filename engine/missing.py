"""What to run for a file that is not there and that a script of the suite leaves."""
import glob
import shlex
from difflib import get_close_matches
from pathlib import Path

from common.errors import UserError
from data.triggers import ATTACKS
from engine.catalogue import POISON_TYPES, SCRIPTS, attack_cells, defense_cells, gifts
from engine.cells import as_flags
from engine.rows import Cell, Script

MODEL = "model_last.th"
OF_TRAINING = (MODEL, "model_init.th", "trigger_info.th")
# How files begin that defenses leave for other scripts, besides models.
OF_DEFENSES = ("mask_values", "reversed_trigger_", "suspected")
USUAL = Path("output")
# The attacks whose command line needs nothing that only the user knows.
KNOWN = tuple(name for name in POISON_TYPES if not any(flag.is_needed for flag in ATTACKS[name].flags.values()))


def check_there(path: str | Path) -> None:
    """UserError if there is no file `path`; the line names one beside it that may be meant, and the commands that leave
    one."""
    path = Path(path)
    if path.exists():
        return
    left = where_left(path)
    meant, commands = left if left.exists() else find_alike(path), first_runs(left)
    said = f"; is {meant} meant?" if meant else first_run(commands) + (f", which leaves {left}" if left != path else "")
    if is_unfinished(left.parent):
        said = f"; the run in {left.parent} is not finished: its command with --resume or --overwrite makes it"
    raise UserError(f"{path}: no such file{said}")


def is_unfinished(folder: Path) -> bool:
    """Whether a run in a folder has begun and has not ended."""
    return (folder / "config.json").exists() and not (folder / "results.json").exists()


def where_left(path: Path) -> Path:
    """Where a script leaves what is looked for at `path`: what a defense leaves for another script lies beneath the
    model's folder, not in it."""
    cells = defense_cells()
    folders = [cells[cell.needs][1].folder for _, cell in cells.values() if path.name in cell.takes.values()]
    if not folders or any(lies_in(path.parent, folder) for folder in folders):
        return path
    return path.parent / folders[0] / path.name


def lies_in(folder: Path, usual: str) -> bool:
    """Whether a folder's path ends like that of a cell's `usual` one."""
    parts = Path(usual).parts
    return folder.parts[-len(parts):] == parts


def first_run(commands: list[str]) -> str:
    """The end of an error that says what to run first, "" without commands."""
    return f"; first run: {' && '.join(commands)}" if commands else ""


def run_on(checkpoint: str, name: str) -> str:
    """The end of an error that says how the defense that is called `name` in matrix files is run on a model."""
    script, cell = defense_cells()[name]
    return first_run([command_line(script, {**cell.flags, "checkpoint": checkpoint}, USUAL, USUAL)])


def find_alike(path: Path) -> Path | None:
    """The same file in the folder beside its own whose name is most like it, but for names that differ in a number or
    an ending, as of other runs, and for a name that a run of the suite has; None if there is none."""
    name = path.parent.name
    if name in {*attack_cells(), *defense_cells()} or any(letter.isdigit() for letter in name):
        return None
    beside = {other.parent.name: other for other in path.parent.parent.glob(f"*/{glob.escape(path.name)}")
              if not other.parent.name.startswith(name) and not name.startswith(other.parent.name)}
    near = get_close_matches(name, beside, 1, 0.8)
    return beside[near[0]] if near else None


def first_runs(path: Path) -> list[str]:
    """The command lines that leave `path`, each with what it reads made before it; [] where no script leaves such.

    The folder's name says which script, as the catalogue has it. Flags of the data set are left out: they are the
    user's own.
    """
    for script, gift in gifts().values():
        if gift.file and path.name == Path(gift.file).name:
            return for_gift(script, path.parent, USUAL / gift.folder)
    for script, cell in defense_cells().values():
        if lies_in(path.parent, cell.folder):
            return for_defense(path.parent, script, cell) if may_leave(script, path.name) else []
    return for_training(path.parent) if path.name in OF_TRAINING else []


def may_leave(script: Script, name: str) -> bool:
    """Whether a defense's Script leaves a file of this name in its folder."""
    if not script.leaves_model:
        return name.startswith(OF_DEFENSES)
    return name in OF_TRAINING if script.trains else name == MODEL


def unless_there(path: Path) -> list[str]:
    """first_runs of a file, [] where it is there."""
    return [] if path.exists() else first_runs(path)


def for_attack(attack: str) -> list[str]:
    """The command lines that make what an attack reads besides images; [] where that is there, or is nothing."""
    if attack not in gifts():
        return []
    script, gift = gifts()[attack]
    is_there = Path(ATTACKS[attack].flags[gift.flag].default).exists()
    return [] if is_there else for_gift(script)


def for_gift(script: Script, folder: Path | None = None, usual: Path | None = None) -> list[str]:
    """The command lines of an ingredient's Script that writes into `folder`, by default where it usually does."""
    return [*unless_there(USUAL / "benign" / MODEL), command_line(script, {}, folder, usual)]


def for_training(folder: Path) -> list[str]:
    """The command lines of the training whose usual folder is called as `folder`, or else of one that writes there, and
    of what it reads; [] for an attack that needs what only the user knows."""
    for script in SCRIPTS:  # output/<attack>-<script>
        attack = folder.name.removesuffix(f"-{script.name.replace('_', '-')}")
        if script.trains and attack != folder.name and attack in POISON_TYPES:
            line = command_line(script, {"poison_type": attack}, folder, USUAL / folder.name)
            return [*for_attack(attack), line] if attack in KNOWN else []
    if folder.name in POISON_TYPES and folder.name not in KNOWN:
        return []
    trainer, _ = attack_cells()["benign"]
    script, cell = attack_cells().get(folder.name, (trainer, None))
    if cell and (script is trainer or folder.name == script.name.replace("_", "-")):
        return [*for_attack(folder.name), command_line(script, cell.flags, folder, USUAL / folder.name)]
    return [command_line(trainer, {}, folder, None)]


def for_defense(folder: Path, script: Script, cell: Cell) -> list[str]:
    """The command lines of a defense's Script and Cell that writes into `folder`, beneath a model's run; [] for one
    that trains where the folder's name does not say on which attack."""
    above = folder.parents[len(Path(cell.folder).parts) - 1]
    if script.trains:
        return for_own_training(folder, script, cell, above.name) if above.name in KNOWN else []
    if cell.takes:
        flag, name = next(iter(cell.takes.items()))
        needed, usual = folder.parent / name, folder
    else:
        flag, needed = "checkpoint", above / MODEL
        usual = needed.parent / cell.folder if needed.parts[:1] == USUAL.parts else None
    own, attack = {**cell.flags, flag: needed}, needed.parent.name
    if script.inspects and attack in POISON_TYPES:
        own = {"poison_type": attack} | ({} if needed == USUAL / attack / MODEL else own)
    return [*unless_there(needed), command_line(script, own, folder, usual)]


def for_own_training(folder: Path, script: Script, cell: Cell, attack: str) -> list[str]:
    """The command lines of a defense that trains a model of its own, by a Script and Cell, on the data of `attack`."""
    taken = {flag: folder.parent / name for flag, name in cell.takes.items() if name}  # "": all of another run
    before = [line for path in taken.values() for line in unless_there(path)] if taken else for_attack(attack)
    return [*before, command_line(script, {"poison_type": attack, **cell.flags, **taken}, folder, None)]


def command_line(script: Script, flags: dict, folder: Path | None, usual: Path | None) -> str:
    """How a Script is called so that it writes into `folder`, which need not be named if it is the `usual` one."""
    if folder != usual:
        flags = {**flags, "output_dir": folder}
    return " ".join([script.command(), shlex.join(map(str, as_flags(flags)))]).strip()
