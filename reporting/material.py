"""The runs that a report tells of."""
from dataclasses import dataclass
from pathlib import Path

from reporting.effects import effects
from reporting.tables import with_method


@dataclass(frozen=True)
class Material:
    """The runs found beneath `root`, the Effects of defenses on attacks among them, and the Lines of the grade.

    audit: the run of studies.verdict that ends the `make audit` in `root`; None for any other folder.
    """

    root: Path
    runs: tuple
    effects: tuple
    lines: tuple
    audit: object = None

    def with_method(self, *names):
        """The finished runs whose method has one of the names."""
        return with_method(self.runs, *names)


def material(runs, lines, root):
    """The Material of a report on the runs beneath `root`; `lines` is their grade."""
    audit = next((run for run in with_method(runs, "audit") if run.folder.parent == Path(root)), None)
    return Material(Path(root), tuple(runs), tuple(effects(runs)), tuple(lines), audit)
