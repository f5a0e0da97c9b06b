"""An earlier run in a script's output folder: whether it may be replaced or resumed, and where it stopped."""
import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch

from common.errors import UserError
from common.files import atomic_file, hash_file
from common.inputs import are_of_others, named_files
from common.untrusted import read_json
from common.untrusted.weights import read_tensors
from engine.command_line.command import running
from engine.former_names import script_of
from engine.runs.saved_state import has_same_structure, is_progress

OWN_FILES = ("results.json", "config.json", "resume.th", "output.log", "metrics.jsonl")
MAY_CHANGE = {"resume", "overwrite", "output_dir", "data_dir", "device"}  # flags that may differ with --resume
DAMAGED = "damaged, or saved by a run with other flags; --overwrite starts over"


def check_folder(folder: Path, args: Namespace, leaves: Sequence[str], other_leaves: Sequence[str]) -> None:
    """Raise UserError if this run would lose files in the folder, or would resume any other run than its own.

    leaves, other_leaves: as for engine.runs.run.Run. Exits with status 0 if the run is finished and --resume is given.
    """
    names = (*OWN_FILES, *leaves, *other_leaves)
    links = [name for name in names if (folder / name).is_symlink()]
    if links:
        raise UserError(f"{folder / links[0]}: expected a file, got a symbolic link, which would let a run write "
                        "elsewhere; remove it")
    present = [name for name in names if (folder / name).exists()]
    check_inputs_stay(folder, args, present)
    if present:
        check_same_script(folder)
    if not present or args.overwrite:
        return
    if not getattr(args, "resume", False):
        refuse_to_replace(folder, args, present[0])
    config = read_config(folder)
    check_same_arguments(folder, args, config["arguments"])
    if "results.json" in present:
        check_same_weights(folder, args, config.get("inputs"))
        check_same_files(folder, args, config.get("files"))
        end_if_whole(folder, [name for name in leaves if name not in present])


def check_inputs_stay(folder: Path, args: Namespace, present: Sequence[str]) -> None:
    """Raise UserError if the run would overwrite a file that an argument names, such as the checkpoint that it reads,
    or the run in a folder that one names."""
    if not present:
        return
    named = {name: value for name, value in vars(args).items() if isinstance(value, str) and Path(value).exists()}
    own = (folder, *(folder / name for name in present))
    for name, value in named.items():
        if name != "output_dir" and any(place.samefile(value) for place in own):
            raise UserError(f"{value}: --{name.replace('_', '-')} reads what is here, which would be overwritten; name "
                            "another --output-dir")


def check_same_script(folder: Path) -> None:
    """Raise UserError if the folder holds another script's run: its files would mix with those of this run."""
    try:
        config = read_config(folder)
    except UserError:  # a damaged one may be overwritten; with --resume a later check raises
        return
    before, now = script_of(str(config.get("script")), config["arguments"].get("task")), running()
    if before != now:
        raise UserError(f"{folder}: holds a run of {before}; name another --output-dir")


def refuse_to_replace(folder: Path, args: Namespace, found: str) -> None:
    """Raise the UserError for a folder that holds the file `found` of a run; it names the flags that help."""
    what = {"results.json": "a finished run", "config.json": "an unfinished run"}.get(found, found)
    how = "--resume continues it, " if hasattr(args, "resume") else ""
    raise UserError(f"{folder}: holds {what}{of_another_model(folder, args)}; {how}--overwrite replaces it, "
                    "--output-dir names another folder")


def of_another_model(folder: Path, args: Namespace) -> str:
    """" on <checkpoint>" for a run in a folder on another --checkpoint than that of the flags; otherwise ""."""
    try:
        before = read_config(folder)["arguments"].get("checkpoint")
    except UserError:
        return ""
    now = getattr(args, "checkpoint", None)
    return f" on {before}" if isinstance(before, str) and isinstance(now, str) and before != now else ""


def read_config(folder: Path) -> dict:
    """config.json of the run in `folder`. Raises UserError if it is missing or damaged."""
    try:
        config = read_json(folder / "config.json")
        return {**config, "arguments": dict(config["arguments"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / 'config.json'}: missing or damaged, so the run cannot be resumed; "
                        "--overwrite starts over") from None


def check_same_arguments(folder: Path, args: Namespace, before: dict) -> None:
    """Raise UserError if a resumed run has other flags than it began with: no command line would make its model."""
    now = json.loads(json.dumps(vars(args)))
    changed = [f"--{name.replace('_', '-')} was {before[name]}, is {now[name]}" for name in now
               if name not in MAY_CHANGE and name in before and before[name] != now[name]]
    if changed:
        raise UserError(f"{folder}: --resume needs the arguments that the run began with: {'; '.join(changed)}")


def check_same_weights(folder: Path, args: Namespace, inputs: str | None) -> None:
    """Raise UserError if a finished run on `inputs` was made from other weights than --checkpoint or --start-from has
    now."""
    for path in (getattr(args, name, None) for name in ("checkpoint", "start_from")):
        if isinstance(path, str) and Path(path).is_file() and are_of_others(inputs, hash_file(path)):
            raise UserError(f"{folder}: the run is finished, from other weights than {path} has now; --overwrite makes "
                            "it anew")


def check_same_files(folder: Path, args: Namespace, before: object) -> None:
    """Raise UserError if a file that an argument names is not the one that a finished run read, {argument: hash}."""
    now = named_files(args)
    for name, digest in (before if isinstance(before, dict) else {}).items():
        if name in now and now[name] != digest:
            raise UserError(f"{folder}: the run is finished, but --{name.replace('_', '-')} {getattr(args, name)} has "
                            "changed since; --overwrite makes it anew")


def end_if_whole(folder: Path, missing: Sequence[str]) -> None:
    """Exit as the finished run did: with status 1 if its results say that what it made is not accepted, otherwise 0.
    Raises UserError if files that it left are missing."""
    if missing:
        raise UserError(f"{folder}: the run is finished, but {', '.join(missing)} is missing; --overwrite starts over")
    print(f"{folder}: this run is finished; see {folder / 'results.json'}")
    try:
        is_refused = read_json(folder / "results.json")["method"]["accepted"] is False
    except (OSError, ValueError, KeyError, TypeError):
        is_refused = False
    raise SystemExit(int(is_refused))


def load_progress(folder: Path, config: dict, inputs: str | None) -> dict:
    """The content of resume.th of a run on `inputs`. Raises UserError if it began on other inputs or is damaged."""
    if config.get("inputs") != inputs:
        raise UserError(f"{folder}: --resume needs the images and weights that the run began with, got "
                        "others")
    saved = read_tensors(folder / "resume.th")
    if not is_progress(saved):
        raise UserError(f"{folder / 'resume.th'}: {DAMAGED}")
    return saved


def cut_log(path: Path, size: int) -> None:
    """Cut the log at `path` to `size` bytes, which drops the lines of an unfinished epoch."""
    if path.exists():  # a new file, so that a hard link to the old one is unchanged
        content = path.read_bytes()[:size]
        with atomic_file(path) as file:
            file.write(content)


def restore(path: Path, saved: dict, state: dict, generator: torch.Generator, columns: Sequence[str]) -> None:
    """Load into `state`, {name: object with load_state_dict}, and into the generator what `path` has saved of them.

    columns: the figures that every saved row must have. Raises UserError if the saved values do not fit.
    """
    try:
        for name, thing in state.items():
            own = saved["state"][name]
            if not has_same_structure(own, thing.state_dict()):  # a scheduler takes any keys, even its methods' names
                raise ValueError(name)
            thing.load_state_dict(own)
        json.dumps(saved["rows"], allow_nan=False)
        generator.set_state(saved["generator"])
        figures = [row[name] for row in saved["rows"] for name in columns]
        if not all(isinstance(figure, (int, float, type(None))) for figure in figures):
            raise ValueError("rows")
    except Exception:  # the file may hold anything, and each load_state_dict raises errors of its own
        raise UserError(f"{path}: {DAMAGED}") from None
