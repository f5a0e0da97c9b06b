"""Lets `python SCRIPT --help` answer at once: what takes long to import is replaced by stand-ins, which do nothing.

Importing this module is all that a script does for it, before its other imports; a package of scripts does it in its
__init__.py. Where the command line asks for no help, it changes nothing. Where it does, argparse prints the help and
ends the script, or ends it with an error, before any function of the stand-ins would be needed.
"""
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

SLOW = {"jinja2", "markupsafe", "matplotlib", "reportlab", "safetensors", "scipy", "sklearn", "torch", "torchvision"}


class StandIn(ModuleType):
    """A module, class, function or value: whatever a script does with one of SLOW while it is imported."""

    __path__ = ()  # it has submodules

    def __getattr__(self, name):
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        return StandIn(name)

    def __mro_entries__(self, bases):
        """As a base class: nothing is inherited."""
        return ()

    def __iter__(self):
        return iter(())

    def _itself(self, *arguments, **options):
        """What comes of a call, as a function or a decorator; of Tensor | None in an annotation; of 15 * mm."""
        return self

    __call__ = __getitem__ = __or__ = __ror__ = __mul__ = __rmul__ = __sub__ = __rsub__ = _itself


class Finder(MetaPathFinder, Loader):
    """Finds a StandIn for every module of SLOW."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in SLOW:
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        """There is nothing to run."""


def asks_for_help(words):
    """Whether argparse would print a help text for these words of a command line; after -- a word is no flag."""
    flags = words[:words.index("--")] if "--" in words else words
    return "-h" in flags or "--help" in flags


if asks_for_help(sys.argv[1:]) and "torch" not in sys.modules:
    sys.meta_path.insert(0, Finder())
