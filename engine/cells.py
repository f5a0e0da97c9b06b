"""The cells of a sweep: runs of other scripts in folders of their own, made once and read again."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

from common.errors import UserError
from common.files import write_table
from common.untrusted import read_json

ROOT = Path(__file__).resolve().parent.parent
# Where Linux offers it, what a call begins with so that it dies with its caller: an orphan would go on writing into the
# folder that the caller's next start goes on in.
DIES_TOO = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()


def finished(folder, wanted, weights=""):
    """Whether a finished run lies in `folder`. Raises UserError if it was made with other arguments than `wanted`, or
    from other weights than those of the hash `weights`."""
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
        raise UserError(f"{folder}: damaged; remove it to have it made again") from None
    if other:
        raise UserError(f"{folder}: holds a cell made with {', '.join(other)}; name another --output-dir")
    if not is_same:
        raise UserError(f"{folder}: holds a cell made from other weights; name another --output-dir")
    return True


def call(script, *arguments):
    """Run one of the suite's scripts with its output passed on; UserError with its last line if it fails."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))  # wherever the caller stands
    done = subprocess.run([*DIES_TOO, sys.executable, "-m", script, *map(str, arguments)], stderr=subprocess.PIPE,
                          text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise UserError(lines[-1] if lines else f"{script} ended with status {done.returncode}")


def as_flags(values, switches=()):
    """The command line that says {name: value}: --name or --no-name for True and False, nothing for None.

    switches: names that are said only when they are True, having no --no-name.
    """
    words = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{flag}"] if value else [f"--no-{flag}"] * (name not in switches)
        elif value is not None:
            words += [f"--{flag}", *(value if isinstance(value, list) else [value])]
    return words


def check_folder(folder):
    """UserError if a run lies in the folder: cells have folders of their own beneath it."""
    if (folder / "config.json").exists():
        raise UserError(f"{folder}: holds a run; name another --output-dir for the sweep")


def run_cells(table, columns, cells):
    """Run the cells, {name: function that runs one and returns its rows}, and write the rows to the CSV file `table`.

    It is written after each cell. One that fails (UserError) leaves the others going. Returns (rows, what failed and
    why).
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


def name_failed(failed, count):
    """Raise UserError that names the cells, of `count`, which failed; nothing if none did."""
    if failed:
        raise UserError(f"{len(failed)} of {count} cells failed: {'; '.join(failed)}")
