"""The largest files that are read, in bytes, each far beyond any of ours."""
import os
import stat
from pathlib import Path

from common.errors import UserError

MAX_WEIGHTS = 2**30  # a model takes 45 MB at width 64, 720 MB at width 256
MAX_ARRAY = 2**29  # CIFAR-10's training images are 154 MB
MAX_IMAGE = 2**29  # more than the pixels that Pillow unpacks without a warning
MAX_TEXT = 64 * 2**20  # a log or a mask file
MAX_JSON = 16 * 2**20  # results.json of a long sweep has some 200 kB
MAX_YAML = 2**20  # PyYAML takes seconds for a megabyte
MAX_UNPACKED = 2**34  # what a tar archive of images unpacks to; CIFAR-10 takes 0.2 GB
MAX_DIRECTORY = 2**20  # an archive's list of entries; a checkpoint's has some 10 kB


def fault_of(path: str | os.PathLike, most: int) -> str | None:
    """What speaks against reading a file of at most `most` bytes, in words; None if nothing does. OSError for no file.

    A device or a pipe has no size and may have no end.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        return "no plain file"
    return f"{status.st_size} bytes; expected at most {most}" if status.st_size > most else None


def check_size(path: str | os.PathLike, most: int) -> None:
    """Raise UserError for a file of more than `most` bytes, or for a device or a pipe; OSError for no file."""
    fault = fault_of(path, most)
    if fault:
        raise UserError(f"{path}: refused, {fault}")
