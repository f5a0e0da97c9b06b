"""A progress bar for people, nothing for files."""
import sys

from tqdm import tqdm


def progress(iterable, name, **options):
    """`iterable` with a bar on stderr that vanishes at the end; no bar where stderr is not a terminal."""
    return tqdm(iterable, desc=name, leave=False, disable=not sys.stderr.isatty(), **options)
