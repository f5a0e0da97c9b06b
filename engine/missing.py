"""What to run for a file that is not there and that a script of the suite leaves."""
import shlex
from pathlib import Path

from common.errors import UserError
from engine.catalogue import BY_MODULE, POISON_TYPES, defense_cells

MODEL = "model_last.th"
MODEL_FILES = {MODEL, "model_init.th", "trigger_info.th"}  # of which training leaves all, and a repair the first
USUAL = Path("output")
ENDINGS = {"pruning-aware": "attacks.pruning_aware", "abl": "defenses.abl"}  # of the folders output/<attack>-<ending>


def check_there(path: str | Path) -> None:
    """UserError if there is no file `path`; the line names the commands that leave one."""
    if Path(path).exists():
        return
    commands = first_runs(Path(path))
    raise UserError(f"{path}: no such file" + (f"; first run: {' && '.join(commands)}" if commands else ""))


def first_runs(path: Path) -> list[str]:
    """The command lines that leave `path`, each with what it reads made before it; [] where no script leaves such.

    Flags of the data set are left out: they are the user's own.
    """
    if path.name in MODEL_FILES:
        return _for_model(path.parent)
    if path.name == "encoder.th":
        usual = USUAL / "issba-encoder"
        needed = [] if Path("output/benign", MODEL).exists() else _for_model(Path("output/benign"))
        return [*needed, _command("attacks.issba_encoder", {}, path.parent, usual)]
    if path.name == "mask_values.txt":
        return _beneath(path.parent, "generate_mask", {}, "anp")
    if path.name.startswith("reversed_trigger_"):
        return _beneath(path.parent, "defenses.neural_cleanse", {}, "neural-cleanse")
    return []


def _for_model(folder):
    """The command lines that leave a model in `folder`: a repair's, if it is called as one's, or else a training's."""
    for script, cell in defense_cells().values():
        parts = Path(cell.folder).parts
        if script.leaves_model and not script.trains and folder.parts[-len(parts):] == parts:
            return _for_repair(folder, script, cell)
    attack, _, ending = folder.name.partition("-")
    if ending in ENDINGS and attack in POISON_TYPES:
        return [_command(ENDINGS[ending], {"poison_type": attack}, folder, USUAL / folder.name)]
    usual, flags = (USUAL / folder.name, {"poison_type": folder.name}) if folder.name in POISON_TYPES else (None, {})
    return [_command("train_backdoor", flags, folder, usual)]


def _for_repair(folder, script, cell):
    """The command lines that leave a repaired model in `folder`."""
    if not cell.takes:
        return _beneath(folder, script.module, cell.flags, cell.folder)
    flag, name = next(iter(cell.takes.items()))
    needed = folder.parent / name
    made = [] if needed.exists() else first_runs(needed)
    return [*made, _command(script.module, {**cell.flags, flag: needed}, folder, folder)]


def _beneath(folder, module, flags, name):
    """The command lines of a defense that writes into `folder`, called `name` beneath a model's run."""
    model = (folder.parent if folder.name == name else folder) / MODEL
    needed = [] if model.exists() else _for_model(model.parent)
    usual = model.parent / name if model.parts[:1] == USUAL.parts else None
    return [*needed, _command(module, {**flags, "checkpoint": model}, folder, usual)]


def _command(module, flags, folder, usual):
    """A command line that writes into `folder`, which need not be named if it is the `usual` one."""
    if folder != usual:
        flags = {**flags, "output_dir": folder}
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return " ".join([BY_MODULE[module].command(), shlex.join(words)]).strip()
