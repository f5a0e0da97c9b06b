"""The cells of a sweep: each runs other scripts once in a folder of its own, and later reads the folder."""
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_table
from common.untrusted import read_json

ROOT = Path(__file__).resolve().parent.parent
# The start of a command whose process dies with its caller, on Linux. An orphan would keep writing into the folder in
# which the caller's next start continues.
DIES_TOO = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()


def finished(folder: Path, wanted: Mapping[str, Any], weights: str = "") -> bool:
    """Whether `folder` holds a finished run with the arguments `wanted`.

    Raises UserError if the run was made with other arguments, or from weights whose hash is not `weights`.
    """
    if not (folder / "results.json").exists():
        return False
    try:
        config = read_json(folder / "config.json")
        arguments = config["arguments"]
        read_json(folder / "results.json")
        is_same = config["inputs"] is None or config["inputs"].startswith(weights)
        # A flag that is newer than the cell counts as not given.
        other = [f"{name} {arguments.get(name)}" for name, value in wanted.items() if arguments.get(name) != value]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder}: damaged; remove the folder to make it again") from None
    if other:
        raise UserError(f"{folder}: holds a cell made with {', '.join(other)}; name another --output-dir")
    if not is_same:
        raise UserError(f"{folder}: holds a cell made from other weights; name another --output-dir")
    return True


def call(script: str, *arguments) -> None:
    """Run one of the suite's scripts and pass its output on. Raises UserError with its last line if it fails."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))  # so that it works from any folder
    done = subprocess.run([*DIES_TOO, sys.executable, "-m", script, *map(str, arguments)], stderr=subprocess.PIPE,
                          text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise UserError(lines[-1] if lines else f"{script} ended with status {done.returncode}")


def as_flags(values: Mapping[str, Any], switches: Collection[str] = ()) -> list:
    """The command line for {name: value}: --name or --no-name for True and False, nothing for None.

    switches: flags without a --no-name, which are left out where they are False.
    """
    words = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            if value:
                words.append(f"--{flag}")
            elif name not in switches:
                words.append(f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", *(value if isinstance(value, list) else [value])]
    return words


def check_folder(folder: Path) -> None:
    """Raise UserError if the folder itself holds a run: cells have folders of their own beneath it."""
    if (folder / "config.json").exists():
        raise UserError(f"{folder}: holds a run; name another --output-dir for the sweep")


def run_cells(table: Path, columns: Sequence[str],
              cells: Mapping[str, Callable[[], list[dict]]]) -> tuple[list[dict], list[str]]:
    """Run the cells, {name: function that runs one and returns its rows}, and write the rows to the CSV file `table`.

    The table is written after each cell. A cell that fails (UserError) does not stop the others. Returns (rows, [name
    and reason of each failure]).
    """
    rows, failed = [], []
    for name, run in cells.items():
        try:
            rows += run()
        except UserError as error:
            failed.append(f"{name}: {error}")
            continue
        write_table(table, columns, rows)
    return rows, failed


def name_failed(failed: Sequence[str], count: int) -> None:
    """Raise UserError that names the failed cells, out of `count`; do nothing if none failed."""
    if failed:
        raise UserError(f"{len(failed)} of {count} cells failed: {'; '.join(failed)}")
