"""The models of ours that an audit compares a stranger's with, and how often it was wrong on them.

Those of the same data, network and settings are a Population: its benign "calibrate" models say what is usual, its
"test" models how often the verdict is wrong.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from methods.calibration import ALPHA, NO_SIGN, SUSPECT, UNDECIDED, Judgment, Null, fit_null, judge, last_round
from methods.measured import BENIGN, TEST, Kind, Measured
from methods.witnesses import CHANNELS, CLEANSE, MARGINS, WITNESSES

SAME = 1e-5  # relative difference up to which CLP's statistic, which nothing random is in, is of one and the same model


def is_same(row: Measured, statistics: Mapping[str, float | None]) -> bool:
    """Whether a row was measured on the very model with these statistics, {witness: value}."""
    pair = row.channels, statistics.get(CHANNELS)
    return None not in pair and math.isclose(*pair, rel_tol=SAME)


@dataclass(frozen=True)
class Weighed:
    """What the population says of a model. p_values: {witness: p-value, or None}. searches: of Neural Cleanse that an
    audit would have made."""

    p_values: dict[str, float | None]
    searches: int
    judgment: Judgment


@dataclass(frozen=True)
class Population:
    """The rows of one data set, Kind and settings."""

    dataset: str
    kind: Kind
    settings: str
    rows: tuple[Measured, ...]

    @cached_property
    def reference(self) -> tuple[Measured, ...]:
        """The benign models that say what is usual."""
        return tuple(row for row in self.rows if row.is_reference)

    @cached_property
    def nulls(self) -> dict[str, Null | list[Null | None] | None]:
        """{witness: its Null; of Neural Cleanse one after each number of searches}."""
        rounds = max((len(row.cleanse) for row in self.reference), default=0)
        return {CHANNELS: fit_null([row.channels for row in self.reference]),
                MARGINS: fit_null([row.margins for row in self.reference]),
                CLEANSE: [fit_null([row.cleanse[i] for row in self.reference if len(row.cleanse) > i])
                          for i in range(rounds)]}

    def p_value(self, witness: str, statistic: float | None, searches: int = 0) -> float | None:
        """The p-value of a statistic, of Neural Cleanse's after so many searches; None where there is none."""
        null = self.nulls[witness]
        if witness == CLEANSE:
            null = null[searches - 1] if 0 < searches <= len(null) else None
        return None if null is None or statistic is None else null.p_value(statistic)

    def without(self, row: Measured) -> Population:
        """The same without one of the rows."""
        return replace(self, rows=tuple(other for other in self.rows if other is not row))

    def unseen(self) -> Population:
        """The same without the test models that had been seen before the audit was settled."""
        return replace(self, rows=tuple(row for row in self.rows if row.population != TEST or not row.seen))

    def other_than(self, statistics: Mapping[str, float | None]) -> Population:
        """The same without the test rows that were measured on the very model with these statistics, {witness: value}:
        how often an audit is wrong on other models says nothing of a model that is one of them."""
        return replace(self, rows=tuple(
            row for row in self.rows if row.population != TEST or not is_same(row, statistics)))

    def reference_of(self, statistics: Mapping[str, float | None]) -> Measured | None:
        """The benign model of the reference with these statistics, {witness: value}; None where none is that one."""
        return next((row for row in self.reference if is_same(row, statistics)), None)

    def weigh(self, row: Measured, witnesses: Sequence[str] = WITNESSES, alpha: float = ALPHA) -> Weighed:
        """What an audit would have said of a model of the table, by these witnesses alone. A model of the reference is
        compared with the others of it."""
        own = self.without(row) if row.is_reference else self
        p_values = {name: own.p_value(name, getattr(row, name)) for name in (CHANNELS, MARGINS) if name in witnesses}
        labels, searches = {MARGINS: row.margins_label}, 0
        if CLEANSE in witnesses:
            rounds = [own.p_value(CLEANSE, value, i) for i, value in enumerate(row.cleanse, start=1)]
            searches = last_round(rounds, p_values, alpha)
            p_values[CLEANSE] = rounds[searches - 1] if searches else None
            labels[CLEANSE] = row.cleanse_labels[searches - 1] if searches else None
        return Weighed(p_values, searches, judge(p_values, labels, alpha))

    def errors(self, witnesses: Sequence[str] = WITNESSES, alpha: float = ALPHA) -> list[dict]:
        """[{"attack", "models", "wrong", "undecided", "named"}] of the test models, benign ones first.

        wrong: benign ones suspected, or backdoored ones without a sign. named: backdoored ones suspected with their
        target. Models on which the attack did not take hold are not counted.
        """
        return self.count(lambda row: self.weigh(row, witnesses, alpha).judgment)

    def errors_of_cleanse_alone(self) -> list[dict]:
        """The same by the rule of defenses.neural_cleanse: a label whose anomaly index most searches flag."""
        return self.count(lambda row: Judgment(NO_SIGN if row.flagged is None else SUSPECT, None, (), row.flagged))

    def count(self, say: Callable[[Measured], Judgment]) -> list[dict]:
        """`errors` of what `say` makes of a model."""
        judged = {}
        for row in self.rows:
            if row.population == TEST and row.took_hold:
                judged.setdefault(row.attack, []).append((row, say(row)))
        return [errors_of(attack, judged[attack]) for attack in sorted(judged, key=lambda name: (name != BENIGN, name))]


def errors_of(attack: str, judged: Sequence[tuple[Measured, Judgment]]) -> dict:
    """An entry of Population.errors."""
    bad = SUSPECT if attack == BENIGN else NO_SIGN
    named = sum(said.verdict == SUSPECT and said.target is not None and said.target == row.target
                for row, said in judged)
    return {"attack": attack, "models": len(judged), "wrong": sum(said.verdict == bad for _, said in judged),
            "undecided": sum(said.verdict == UNDECIDED for _, said in judged), "named": named}


def missed_of(errors: Sequence[dict]) -> tuple[int, int]:
    """(how many have no sign, how many there are) of all backdoored models in Population.errors."""
    backdoored = [row for row in errors if row["attack"] != BENIGN]
    return sum(row["wrong"] for row in backdoored), sum(row["models"] for row in backdoored)


def populations_of(rows: Iterable[Measured]) -> list[Population]:
    """The rows by data set, Kind and settings."""
    found = {}
    for row in rows:
        found.setdefault((row.dataset, row.kind, row.settings), []).append(row)
    return [Population(*key, tuple(own)) for key, own in found.items()]


