"""Where a run's lines go: to standard output at once, and to its log."""
import logging
import sys
from contextlib import suppress
from logging.handlers import MemoryHandler
from pathlib import Path

from common.errors import UserError

FORMAT = logging.Formatter("[%(asctime)s] - %(message)s", datefmt="%Y/%m/%d %H:%M:%S")
log = logging.getLogger("backdoor")


class Console(logging.StreamHandler):
    """Standard output; a reader that has closed the pipe (`| head`) does not end the run, whose log is in its file."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class LogFile(logging.FileHandler):
    """A log file whose errors (a full disk) end the run; logging itself would print a traceback and continue."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        raise UserError(f"{self.baseFilename}: cannot be written: {error}") from error


class LogLines:
    """The lines that a run logs, from now until `close`.

    Those from before `write_to` are kept in memory; if the run never has a file, they are dropped.
    """

    def __init__(self) -> None:
        self.buffer = MemoryHandler(10**6, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self.handlers = [Console(sys.stdout), self.buffer]
        self.handlers[0].setFormatter(FORMAT)
        log.setLevel(logging.INFO)
        log.propagate = False
        for handler in self.handlers:
            log.addHandler(handler)

    def write_to(self, path: Path) -> None:
        """Add the lines so far and those to come to the file `path`."""
        file = LogFile(path, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(FORMAT)
        self.buffer.setTarget(file)
        self.buffer.flush()
        log.removeHandler(self.buffer)
        log.addHandler(file)
        self.handlers[1] = file

    def close(self) -> None:
        """Log no more lines of this run."""
        for handler in self.handlers:
            log.removeHandler(handler)
            with suppress(OSError):  # a line that did not fit on the disk; that error has ended the run already
                handler.close()
