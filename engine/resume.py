"""An earlier run in a script's output folder: what may be replaced, what may be gone on with, and where it stopped."""
import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch

from common.errors import UserError
from common.files import atomic_file
from common.untrusted import read_json
from common.untrusted.weights import read_tensors
from engine.catalogue import script_of
from engine.command import running
from engine.saved_state import is_alike, is_progress

OWN_FILES = ("results.json", "config.json", "resume.th", "output.log", "metrics.jsonl")
MAY_CHANGE = {"resume", "overwrite", "output_dir", "data_dir", "device"}  # flags that --resume may be given anew
DAMAGED = "not what a stopped run of these flags leaves; --overwrite starts anew"


def check_folder(folder: Path, args: Namespace, leaves: Sequence[str], other_leaves: Sequence[str]) -> None:
    """Refuse to lose what lies in the folder, and to go on with anything but the run that lies there.

    leaves, other_leaves: as for engine.run.Run. Raises UserError; exits with status 0 if the run is finished and
    --resume is given.
    """
    names = (*OWN_FILES, *leaves, *other_leaves)
    links = [name for name in names if (folder / name).is_symlink()]
    if links:
        raise UserError(f"{folder / links[0]}: a symbolic link, through which a run would write elsewhere")
    there = [name for name in names if (folder / name).exists()]
    check_inputs_stay(folder, args, there)
    resumes = getattr(args, "resume", False)
    if there and (args.overwrite or resumes):
        check_same_script(folder)
    if not there or args.overwrite:
        return
    if not resumes:
        refuse_to_replace(folder, args, there[0])
    check_same_arguments(folder, args, read_config(folder)["arguments"])
    if "results.json" in there:
        end_if_whole(folder, [name for name in leaves if name not in there])


def check_inputs_stay(folder: Path, args: Namespace, there: Sequence[str]) -> None:
    """Refuse to write over a file that an argument names, such as the checkpoint that the run reads."""
    if not there:
        return
    named = {name: value for name, value in vars(args).items() if isinstance(value, str) and Path(value).exists()}
    for name, value in named.items():
        if any((folder / own).samefile(value) for own in there):
            raise UserError(f"{value}: --{name.replace('_', '-')} reads this file, which would be overwritten; name "
                            "another --output-dir")


def check_same_script(folder: Path) -> None:
    """Refuse another script's run: what that one left would lie among this one's files, or go on as this one's."""
    try:
        config = read_config(folder)
    except UserError:  # damaged: all the more reason to overwrite it, and --resume says so
        return
    before, now = script_of(str(config.get("script")), config["arguments"].get("task")), running()
    if before != now:
        raise UserError(f"{folder}: holds a run of {before}; name another --output-dir")


def refuse_to_replace(folder: Path, args: Namespace, found: str) -> None:
    """Raise the UserError for a folder that holds the file `found` of a run, with the ways out."""
    what = {"results.json": "a finished run", "config.json": "a begun run"}.get(found, found)
    how = "--resume goes on with it, " if hasattr(args, "resume") else ""
    raise UserError(f"{folder}: holds {what}; {how}--overwrite replaces it, --output-dir names another folder")


def read_config(folder: Path) -> dict:
    """config.json of the run in `folder`. Raises UserError if it is missing or damaged."""
    try:
        config = read_json(folder / "config.json")
        return {**config, "arguments": dict(config["arguments"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / 'config.json'}: missing or damaged, so the run cannot go on; --overwrite "
                        "starts anew") from None


def check_same_arguments(folder: Path, args: Namespace, before: dict) -> None:
    """A run may only go on as it began: other flags would make a model that no command line makes."""
    now = json.loads(json.dumps(vars(args)))
    changed = [f"--{name.replace('_', '-')} was {before[name]}, is {now[name]}" for name in now
               if name not in MAY_CHANGE and name in before and before[name] != now[name]]
    if changed:
        raise UserError(f"{folder}: --resume needs the arguments that the run began with: {'; '.join(changed)}")


def end_if_whole(folder: Path, missing: Sequence[str]) -> None:
    """Exit with status 0, since the run is finished; UserError if files that it left are gone."""
    if missing:
        raise UserError(f"{folder}: the run is finished, but {', '.join(missing)} is gone; --overwrite starts anew")
    print(f"{folder}: this run is finished; see {folder / 'results.json'}")
    raise SystemExit(0)


def load_progress(folder: Path, config: dict, inputs: str | None) -> dict:
    """What resume.th holds of a run that began on `inputs`. Raises UserError for other inputs, and if it is damaged."""
    if config.get("inputs") != inputs:
        raise UserError(f"{folder}: --resume needs the images and weights that the run began with, and these are "
                        "others")
    saved = read_tensors(folder / "resume.th")
    if not is_progress(saved):
        raise UserError(f"{folder / 'resume.th'}: {DAMAGED}")
    return saved


def cut_log(path: Path, size: int) -> None:
    """Drop what the log at `path` has beyond `size` bytes: the lines of an epoch that was not finished."""
    if path.exists():  # a new file, so that a hard link to the old one is not written through
        content = path.read_bytes()[:size]
        with atomic_file(path) as file:
            file.write(content)


def restore(path: Path, saved: dict, state: dict, generator: torch.Generator, columns: Sequence[str]) -> None:
    """Give `state`, {name: what has load_state_dict}, and the generator back what was saved of them in `path`.

    columns: the figures that every saved row must have. Raises UserError if that is something else.
    """
    try:
        for name, thing in state.items():
            own = saved["state"][name]
            if not is_alike(own, thing.state_dict()):  # a scheduler would take any, its own methods included
                raise ValueError(name)
            thing.load_state_dict(own)
        json.dumps(saved["rows"], allow_nan=False)
        generator.set_state(saved["generator"])
        figures = [row[name] for row in saved["rows"] for name in columns]
        if not all(isinstance(figure, (int, float, type(None))) for figure in figures):
            raise ValueError("rows")
    except Exception:  # a file may hold anything in place of a state, and each thing complains in its own way
        raise UserError(f"{path}: {DAMAGED}") from None
