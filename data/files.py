"""Files that are whole or not there, and the error that a user can mend."""
import csv
import hashlib
import io
import json
import math
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


MAX_JSON = 16 * 2**20  # bytes; results.json of a long sweep has some 200 kB
MAX_ARRAY = 2**29  # bytes; CIFAR-10's training images are 154 MB


class UserError(ValueError):
    """A mistake that the user can mend. Its text is the one line that they see, with exit status 2."""


@contextmanager
def made_aside(path, remove):
    """A hidden name beside `path` to make something under, which then takes the name `path`, or is gone by `remove`.

    Raises UserError where it cannot be written (no permission, a full disk).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        remove(temporary)  # of a killed process that had the same number
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # a read-only file system says so already, above
            remove(temporary)


@contextmanager
def whole_file(path):
    """A binary file to write to that takes the name `path` only once it is complete and on disk.

    A reader sees the old file or the new one, never half of one, whatever kills the writer. Raises as made_aside.
    """
    with (made_aside(Path(path), lambda temporary: temporary.unlink(missing_ok=True)) as temporary,
          open(temporary, "xb") as file):  # never through a link that somebody has put there
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def whole_folder(path):
    """A new folder to fill that takes the name `path`, free or of an empty folder, only once it is complete.

    Raises as made_aside.
    """
    path = Path(path)
    with made_aside(path, lambda temporary: shutil.rmtree(temporary, ignore_errors=True)) as temporary:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.rmdir()


def hold_folder(folder, what):
    """Take a folder for this process alone; returns a file descriptor, whose closing, or the process's end, frees it.

    Raises UserError, saying that `what` is under way there, if another process has it. Where the system or the file
    system knows no such locks it is not held.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"{folder}: {what} is under way there; wait for it, or name another --output-dir") from None
    except OSError:  # network file systems may have no locks
        pass
    return descriptor


def write_json(path, value):
    """Write `value` as indented JSON, whole or not at all. Raises ValueError for NaN, which JSON has not."""
    with whole_file(path) as file:
        file.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_table(path, columns, rows):
    """Write dicts as CSV with a header, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    with whole_file(path) as file:
        file.write(text.getvalue().encode())


def read_text(path, most, errors="strict"):
    """A UTF-8 file's text. Raises OSError, or ValueError for one of more than `most` bytes or that is no text."""
    fault = fault_of(path, most)
    if fault:
        raise ValueError(fault)
    return Path(path).read_text(encoding="utf-8", errors=errors)


def read_json(path):
    """What a JSON file holds. Raises OSError, or ValueError for one that is larger than MAX_JSON, nested beyond all
    reason or no JSON, which has neither NaN nor infinity."""
    def refuse(constant):
        raise ValueError(f"{constant} is not a figure")

    def finite(word):
        return float(word) if math.isfinite(float(word)) else refuse(word)
    try:
        return json.loads(read_text(path, MAX_JSON), parse_constant=refuse, parse_float=finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_object(path):
    """The dict in a JSON file; as read_json, and ValueError for anything but an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    return value


def hash_file(path):
    """A hash of a file's content, to tell whether two runs read the same."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def write_array(path, array):
    """Write a NumPy array as .npy, whole or not at all."""
    with whole_file(path) as file:  # by its write: NumPy's own way into a file does not say why it failed
        np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)


def read_array(path):
    """Read a .npy file that holds plain values. Raises UserError, naming the file, if it is not one, or too large."""
    try:
        check_size(path, MAX_ARRAY)
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UserError:
        raise
    except Exception as error:  # strange bytes make NumPy's reader raise almost anything
        raise UserError(f"{path}: not a NumPy array of plain values ({error})") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: expected one NumPy array, got an archive of them")
    return array


def fault_of(path, most):
    """What is wrong with reading a file of at most `most` bytes, in words, None if nothing is; OSError for none.

    A device or a pipe has no size and may have no end.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        return "no plain file"
    return f"{status.st_size} bytes; expected at most {most}" if status.st_size > most else None


def check_size(path, most):
    """Raise UserError for a file of more than `most` bytes, or for a device or a pipe; OSError for none."""
    fault = fault_of(path, most)
    if fault:
        raise UserError(f"{path}: refused, {fault}")
