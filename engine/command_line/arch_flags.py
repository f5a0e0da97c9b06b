"""--arch and --width: which network, and how wide where that may be chosen."""
import argparse
from typing import Any

from models import find_architecture, names, usual_name


class ModelFlag(argparse.Action):
    """Store --arch or --width; an error if both are given and that network has only one width."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any,
                 option_string: str | None = None):
        setattr(namespace, self.dest, value)
        if find_architecture(namespace.arch).has_width:
            return
        if namespace.width not in (None, parser.get_default("width")) or self.dest == "width":
            raise argparse.ArgumentError(self, f"{namespace.arch} has one size, so --width has no effect")
        namespace.width = None


def architecture(text: str) -> str:
    """An argparse type: the name of a network, as models knows it."""
    try:
        find_architecture(text)
    except KeyError:
        raise argparse.ArgumentTypeError(f"expected one of the networks {names()}, got {text}") from None
    return usual_name(text)
