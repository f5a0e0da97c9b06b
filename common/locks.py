"""A folder held by one process at a time."""
import os

from common.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def lock_folder(folder: str | os.PathLike, what: str) -> int | None:
    """Take a folder for this process alone; returns a file descriptor. Closing it frees the folder.

    Raises UserError, saying that `what` is under way there, if another process has it, and OSError for no folder.
    The end of the process frees it, too. Windows (returns None) and file systems without locks lock nothing.
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
