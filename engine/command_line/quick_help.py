"""Makes `python SCRIPT --help` fast: packages that take long to import are replaced by stand-ins that do nothing.

A script only imports this module before its other imports; a package of scripts does so in its __init__.py. Without
--help on the command line nothing changes. With it, argparse prints the help or an error and ends the script before it
would need any function of the stand-ins.
"""
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

SLOW = {"jinja2", "markupsafe", "matplotlib", "reportlab", "safetensors", "scipy", "sklearn", "torch", "torchvision"}


class StandIn(ModuleType):
    """A module, class, function or value from a package in SLOW, for whatever a script does with it during import."""

    __path__ = ()  # it has submodules

    def __getattr__(self, name: str):
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        return StandIn(name)

    def __mro_entries__(self, bases: tuple):
        """As a base class: contributes nothing."""
        return ()

    def __iter__(self):
        return iter(())

    def _itself(self, *arguments, **options):
        """The result of a call, as a function or a decorator; of Tensor | None in an annotation; of 15 * mm."""
        return self

    __call__ = __getitem__ = __or__ = __ror__ = __mul__ = __rmul__ = __sub__ = __rsub__ = _itself


class Finder(MetaPathFinder, Loader):
    """Finds a StandIn for every module of a package in SLOW."""

    def find_spec(self, name: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] in SLOW:
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether argparse would print a help text for these words of a command line. A word after -- is not a flag."""
    flags = words[:words.index("--")] if "--" in words else words
    return "-h" in flags or "--help" in flags


if asks_for_help(sys.argv[1:]) and "torch" not in sys.modules:
    sys.meta_path.insert(0, Finder())
