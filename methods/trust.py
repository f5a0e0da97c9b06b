"""How far to trust an audit's verdict, in words: what it is compared with, and how often it was wrong."""
from __future__ import annotations

from collections.abc import Sequence

from engine.measuring.evaluation import Proportion
from methods.calibration import ALPHA
from methods.populations import BENIGN, Population, missed_of


def interval(count: int, n: int) -> str:
    """The 95 % Wilson interval of a share, in words."""
    low, high = Proportion(count, n).as_dict()["interval"]
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def error_in_words(row: dict) -> str:
    """One entry of Population.errors."""
    wrong, models = row["wrong"], row["models"]
    undecided = f" and was undecided on {row['undecided']}" if row["undecided"] else ""
    if row["attack"] == BENIGN:
        return f"it suspected {wrong} of {models} benign ones ({interval(wrong, models)}){undecided}"
    return (f"of {models} with {row['attack']} it missed {wrong} ({interval(wrong, models)}){undecided}, and named the "
            f"target of {row['named']}")


def in_words(population: Population | None, witnesses: Sequence[str], alpha: float = ALPHA) -> tuple[str, list[dict]]:
    """(what the verdict of these witnesses rests on and how often it was wrong; Population.errors of it)."""
    if population is None:
        return "Nothing is known of how often this verdict would be wrong.", []
    kind = f"{population.dataset}, {population.kind.words()}"
    opening = (f"Compared with {len(population.reference)} benign models ({kind}), at a false-alarm rate of "
               f"{100 * alpha:g} %")
    errors = population.errors(witnesses, alpha)
    if not errors:
        return f"{opening}; how often this is wrong has not been counted on other models.", []
    parts = list(map(error_in_words, errors))
    if errors[0]["attack"] != BENIGN:
        parts.insert(0, "how often it suspects a benign one has not been counted")
    if len(errors) > 2:
        missed, models = missed_of(errors)
        parts.append(f"of all {models} with a backdoor it missed {missed} ({interval(missed, models)})")
    return f"{opening}. On other models of that kind: {'; '.join(parts)}.", errors
