"""How far to trust an audit's verdict, in words: what it is compared with, and how often it was wrong."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.measuring.scores import Proportion
from methods.calibration import ALPHA
from methods.measured import BENIGN
from methods.populations import Population, missed_of

FEW = 10  # benign models below which their number is called small


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


def in_words(population: Population | None, witnesses: Sequence[str], alpha: float = ALPHA,
             own: Mapping[str, float | None] | None = None, of_its_kind: bool = True) -> tuple[str, list[dict]]:
    """(what the verdict of these witnesses rests on and how often it was wrong; Population.errors of it).

    own: {witness: statistic} of the audited model, which does not count where it is itself one of the table.
    of_its_kind: whether the population is of the model's kind, and not merely the nearest one.
    """
    if population is None:
        return "Nothing is known of how often this verdict would be wrong.", []
    kind = f"{population.dataset}, {population.kind.words()}"
    benign = len(population.reference)
    few = ", so few that the p-values are rough" if benign < FEW else ""
    against = "Compared with" if of_its_kind else "The nearest that have been measured are"
    opening = (f"{against} {benign} benign models ({kind}){few}, at a false-alarm rate of "
               f"{100 * alpha:g} %")
    others = population.other_than(own or {})
    left_out = "" if others.rows == population.rows else " This model is itself in the table, and not counted."
    errors = others.errors(witnesses, alpha)
    if not errors:
        return f"{opening}; how often this is wrong has not been counted on other models.{left_out}", []
    has_benign = errors[0]["attack"] == BENIGN
    parts = [error_in_words(errors[0]) if has_benign else "how often it suspects a benign one has not been counted"]
    attacked = errors[1:] if has_benign else errors
    if attacked:
        parts.append(all_in_words(attacked))
    unseen = others.unseen()
    apart = "" if unseen.rows == others.rows else unseen_in_words(unseen.errors(witnesses, alpha))
    return f"{opening}. On other models of that kind: {'; '.join(parts)}.{apart}{left_out}", errors


def unseen_in_words(errors: Sequence[dict]) -> str:
    """The entries of Population.errors of the models that were measured after the last choice, as a sentence with a
    blank before it."""
    alarms, benign = (sum(row[name] for row in errors if row["attack"] == BENIGN) for name in ("wrong", "models"))
    missed, backdoored = missed_of(errors)
    parts = [f"it suspected {alarms} of {benign} benign ones ({interval(alarms, benign)})" if benign else "",
             f"it missed {missed} of {backdoored} with a backdoor ({interval(missed, backdoored)})" if backdoored
             else ""]
    counted = " and ".join(filter(None, parts))
    return f" Among those measured after the audit was settled {counted}." if counted else (
        " None of them was measured after the audit was settled.")


def all_in_words(errors: Sequence[dict]) -> str:
    """The entries of Population.errors of all attacks: the sum with its interval, then which were missed."""
    missed, models = missed_of(errors)
    undecided, named = (sum(row[name] for row in errors) for name in ("undecided", "named"))
    unsure = f" and was undecided on {undecided}" if undecided else ""
    by_attack = ", ".join("{attack} {wrong} of {models}".format(**row) for row in errors)
    return (f"of {models} with a backdoor it missed {missed} ({interval(missed, models)}){unsure}, and named the "
            f"target of {named}; missed by attack: {by_attack}")
