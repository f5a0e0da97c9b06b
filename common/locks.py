"""A lock that lets only one process use a folder."""
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from common.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def lock_folder(folder: str | os.PathLike, what: str) -> int | None:
    """Lock a folder for this process; returns a file descriptor. Closing it unlocks the folder.

    Raises UserError, which says that `what` is running there, if another process holds the lock, and OSError if the
    folder does not exist. The lock also ends with the process. On Windows (returns None) and on file systems without
    locks nothing is locked.
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


@contextmanager
def alone_in(folder: str | os.PathLike) -> Iterator[None]:
    """A context in which one process at a time is with a folder; another is waited for. Where there are no locks (see
    lock_folder) nothing is waited for. Raises OSError if the folder does not exist."""
    descriptor = None
    try:
        if fcntl is not None:
            descriptor = os.open(folder, os.O_RDONLY)
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
