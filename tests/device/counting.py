"""What a GPU would have been asked to do, counted by the line of code that asked for it."""
import inspect
import os
from collections import Counter
from contextlib import contextmanager
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
OWN = {str(HERE / name) for name in ("counting.py", "operations.py", "placement.py", "pretend.py", "tensors.py")}


class Counts:
    """Counters of {"file:line what": times}.

    waits: times at which the host would have waited for the device. kernels: ATen calls that launch something there.
    copies: tensors brought to the device or from it.
    """

    def __init__(self):
        self.waits, self.kernels, self.copies = Counter(), Counter(), Counter()
        self.is_paused = False

    def note(self, counter, what):
        """One more of `what` at the line that is being run, unless paused."""
        if not self.is_paused:
            counter[f"{line_of_code()} {what}"] += 1

    def clear(self):
        """Start from 0."""
        for counter in (self.waits, self.kernels, self.copies):
            counter.clear()

    @contextmanager
    def paused(self):
        """Count nothing for as long as the block lasts: what stands in for a copy is none of the program's kernels."""
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before

    def waits_in(self, call):
        """The Counter of the waits within call()."""
        before = self.waits.copy()
        call()
        return self.waits - before


def line_of_code():
    """path:line of the innermost frame in the suite's own code."""
    frame = inspect.currentframe()
    while frame:
        name = name_of(frame.f_code.co_filename)
        if name:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


@cache
def name_of(path):
    """The path of the suite's own code from the repository's root; None for the pretend device's and others'."""
    if not path.startswith(str(ROOT)) or path in OWN or "site-packages" in path:
        return None
    return os.path.relpath(path, ROOT)
