"""Files and folders that are either complete or absent, even if the program that writes them is killed."""
import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np

from common.errors import UserError


@contextmanager
def temporary_path(path: Path, remove: Callable[[Path], object]) -> Iterator[Path]:
    """Yield a hidden temporary name beside `path`. What was made there is renamed to `path` at the end; after an error
    it is deleted by `remove`.

    Raises UserError if it cannot be written (no permission, a full disk).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        remove(temporary)  # left by a killed process that had the same number
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # a read-only file system says so already, above
            remove(temporary)


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file to write to. It gets the name `path` only once it is complete and on disk.

    A reader sees the old file or the new one, never a part of one, even if the writer is killed. Raises UserError if
    the file cannot be written.
    """
    with (temporary_path(Path(path), lambda temporary: temporary.unlink(missing_ok=True)) as temporary,
          open(temporary, "xb") as file):  # x: never writes through a link that somebody has put there
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A new folder to fill. It gets the name `path` only once it is complete; `path` must be free or an empty folder.

    Raises UserError if it cannot be written, or if something else has filled `path` in the meantime.
    """
    path = Path(path)
    with temporary_path(path, lambda temporary: shutil.rmtree(temporary, ignore_errors=True)) as temporary:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.rmdir()


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value`, made of plain values, as indented JSON, whole or not at all.

    Raises ValueError for NaN, which JSON does not have, and UserError if the file cannot be written.
    """
    with atomic_file(path) as file:
        file.write((json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_table(path: str | os.PathLike, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the dicts `rows`, whose keys are among `columns`, as CSV with a header, whole or not at all.

    Raises ValueError for any other key, and UserError if the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())


def hash_file(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's content in hexadecimal: equal for two runs that read the same file. Raises OSError if
    there is no file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def write_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write a NumPy array of plain values as .npy, whole or not at all.

    Raises ValueError for an array of objects, and UserError if the file cannot be written.
    """
    with atomic_file(path) as file:  # np.save's own way of writing to a file does not say why it failed
        np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)
