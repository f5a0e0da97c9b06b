"""Files that are whole or not there, and the error that a user can mend."""
import csv
import hashlib
import io
import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from common.errors import UserError


@contextmanager
def replacing(path, remove):
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
def atomic_file(path):
    """A binary file to write to that takes the name `path` only once it is complete and on disk.

    A reader sees the old file or the new one, never half of one, whatever kills the writer. Raises as replacing.
    """
    with (replacing(Path(path), lambda temporary: temporary.unlink(missing_ok=True)) as temporary,
          open(temporary, "xb") as file):  # never through a link that somebody has put there
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_folder(path):
    """A new folder to fill that takes the name `path`, free or of an empty folder, only once it is complete.

    Raises as replacing.
    """
    path = Path(path)
    with replacing(path, lambda temporary: shutil.rmtree(temporary, ignore_errors=True)) as temporary:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.rmdir()


def write_json(path, value):
    """Write `value` as indented JSON, whole or not at all. Raises ValueError for NaN, which JSON has not."""
    with atomic_file(path) as file:
        file.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_table(path, columns, rows):
    """Write dicts as CSV with a header, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())


def hash_file(path):
    """A hash of a file's content, to tell whether two runs read the same."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def write_array(path, array):
    """Write a NumPy array as .npy, whole or not at all."""
    with atomic_file(path) as file:  # by its write: NumPy's own way into a file does not say why it failed
        np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)


