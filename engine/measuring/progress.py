"""A progress bar on a terminal, nothing in a file."""
import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(iterable: Iterable, name: str, **options) -> tqdm:
    """`iterable` with a progress bar on stderr that disappears at the end; without a bar if stderr is not a terminal.
    """
    return tqdm(iterable, desc=name, leave=False, disable=not sys.stderr.isatty(), **options)
