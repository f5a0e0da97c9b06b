"""Which benign models a stranger's is compared with, and whether a verdict can rest on them."""
from collections.abc import Sequence
from dataclasses import dataclass

from methods.calibration import LEAST
from methods.measured import Kind
from methods.populations import Population


@dataclass(frozen=True)
class Reference:
    """What a model is compared with. population: the nearest one; None where there is none. doubt: why no verdict can
    rest on it; None where one can."""

    population: Population | None
    doubt: str | None = None

    def p_value(self, witness: str, statistic: float | None, searches: int = 0) -> float | None:
        return self.population and self.population.p_value(witness, statistic, searches)


def find_reference(populations: Sequence[Population], kind: Kind, has_names: bool, dataset: str | None = None
                   ) -> Reference:
    """The Reference for a model of this Kind. has_names: whether the names of its classes are known. dataset: the data
    set on whose models the caller insists; None for that of the same classes."""
    alike = [one for one in populations if one.kind.network == kind.network and len(one.reference) >= LEAST]
    if dataset:
        alike = [one for one in alike if one.dataset == dataset]
    if not alike:
        said = f" of {dataset}" if dataset else ""
        return Reference(None, f"fewer than {LEAST} benign models{said} of this kind ({kind.words()}) have been "
                               "measured by studies.calibrate_audit")
    nearest = max(alike, key=lambda one: (has_names and one.kind.classes == kind.classes, len(one.reference)))
    if dataset or (has_names and nearest.kind.classes == kind.classes):
        return Reference(nearest)
    why = "are of other classes" if has_names else "may be of other classes, since no names tell what this model's are"
    return Reference(nearest, f"the nearest benign models that have been measured ({nearest.dataset}) {why}; only if "
                              f"these are the same under other names, give --population {nearest.dataset}; "
                              "studies.calibrate_audit measures models of your own")
