"""The table of models of ours that an audit compares a stranger's with, and how often it was wrong on them.

A row is a model, trained and measured by studies.calibrate_audit. Rows of the same data, network and settings are a
Population: its benign "calibrate" models say what is usual, its "test" models how often the verdict is wrong.
"""
from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from common.errors import UserError
from common.files import write_table
from methods.calibration import ALPHA, NO_SIGN, SUSPECT, UNDECIDED, Judgment, Null, fit_null, judge, last_round
from methods.witnesses import CHANNELS, CLEANSE, MARGINS, WITNESSES, Settings

TABLE = Path(__file__).resolve().parent.parent / "results/audit/rates.csv"
CALIBRATE, TEST, BENIGN = "calibrate", "test", "benign"
SEEN = "yes"  # in the column "seen"
LEARNED = 0.5  # ASR from which an attack has taken hold
SAME = 1e-5  # relative difference up to which CLP's statistic, which nothing random is in, is of one and the same model
COLUMNS = ("population", "dataset", "arch", "width", "image_size", "classes", "settings", "attack", "target",
           "training", "seed", "seen", "acc", "asr", *WITNESSES, "margins_label", "cleanse_labels", "flagged",
           *(f"p_{name}" for name in WITNESSES), "combined", "verdict", "target_named", "searches", "seconds_training",
           "seconds")


def digest_classes(names: Iterable[str]) -> str:
    """The number of classes and a hash of their names, whatever their order."""
    names = sorted(names)
    return f"{len(names)}:{hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Kind:
    """What a model has to share with those that it is compared with. width: None of a network of one size. classes: as
    digest_classes makes it."""

    arch: str
    width: int | None
    image_size: int
    classes: str

    @classmethod
    def of(cls, spec: Mapping, image_size: int, classes: Iterable[str]) -> Kind:
        """The Kind of a network's spec, the size of its images and the names of its classes."""
        return cls(spec["arch"], spec["width"], image_size, digest_classes(classes))

    @property
    def network(self) -> tuple:
        """The Kind without the names of the classes."""
        return self.arch, self.width, self.image_size, self.classes.partition(":")[0]

    def words(self) -> str:
        width = "" if self.width is None else f", width {self.width}"
        return f"{self.arch}{width}, {self.network[-1]} classes, {self.image_size} pixels"


@dataclass(frozen=True)
class Measured:
    """One model. channels, margins: statistics, None for a witness that had nothing to say. cleanse: the statistic
    after 1, 2, ... searches. margins_label, cleanse_labels: where these point. flagged: the label that Neural Cleanse
    by itself calls the target, by anomaly index and majority; None for none. training: the flags of its training.
    seen: whether something of the audit was settled after its statistics had been looked at.
    """

    population: str
    dataset: str
    kind: Kind
    settings: str
    attack: str
    target: int | None
    training: str
    seed: int
    acc: float
    asr: float | None
    channels: float | None
    margins: float | None
    cleanse: tuple[float | None, ...]
    margins_label: int | None = None
    cleanse_labels: tuple[int | None, ...] = ()
    flagged: int | None = None
    seconds_training: float = 0.0
    seconds: float = 0.0
    seen: bool = False

    @property
    def is_reference(self) -> bool:
        return self.population == CALIBRATE and self.attack == BENIGN

    @property
    def took_hold(self) -> bool:
        return self.attack == BENIGN or (self.asr or 0) >= LEARNED


def number(text: str, kind: type = float) -> float | int | None:
    """A cell of the table; None for an empty one."""
    return kind(text) if text else None


def label(text: str) -> int | None:
    """A cell of a label; None for an empty one."""
    return number(text, int)


def statistic(text: str) -> float | None:
    """A cell of a witness; None for an empty one. Raises ValueError for anything but a number above 0."""
    value = number(text)
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"expected a statistic above 0, got {text}")
    return value


def parse_row(row: Mapping[str, str]) -> Measured:
    """A row of the table. Raises KeyError, TypeError, ValueError or UserError for one that is none."""
    kind = Kind(row["arch"], number(row["width"], int), int(row["image_size"]), row["classes"])
    lists = {name: tuple(to(part) for part in row[name].split(";")) if row[name] else ()
             for name, to in ((CLEANSE, statistic), ("cleanse_labels", label))}
    if row["population"] not in (CALIBRATE, TEST) or len(lists[CLEANSE]) != len(lists["cleanse_labels"]):
        raise ValueError("expected a population of calibrate or test, and a label for each of Neural Cleanse's values")
    Settings.from_words(row["settings"])
    return Measured(
        row["population"], row["dataset"], kind, row["settings"], row["attack"], number(row["target"], int),
        row["training"], int(row["seed"]), float(row["acc"]), number(row["asr"]), statistic(row[CHANNELS]),
        statistic(row[MARGINS]), lists[CLEANSE], number(row["margins_label"], int), lists["cleanse_labels"],
        number(row["flagged"], int), float(row["seconds_training"]), float(row["seconds"]), row.get("seen") == SEEN)


def read_rows(path: str | Path = TABLE) -> list[Measured]:
    """The rows of the table; [] if there is no file. Raises UserError for a file that is no such table."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            return [parse_row(row) for row in reader]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error, UserError) as error:
        raise UserError(f"{path}: line {reader.line_num}: not a row of a table of studies.calibrate_audit: "
                        f"{error}") from None


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


def as_row(row: Measured, weighed: Weighed) -> dict:
    """A line of the table."""
    def text(value: float | str | None):
        return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    own = {name: getattr(row, name) for name in COLUMNS if hasattr(row, name)}
    own |= {"arch": row.kind.arch, "width": row.kind.width, "image_size": row.kind.image_size,
            "classes": row.kind.classes, "seen": SEEN if row.seen else "", CLEANSE: ";".join(map(text, row.cleanse)),
            "cleanse_labels": ";".join(map(text, row.cleanse_labels))}
    said = weighed.judgment
    own |= {f"p_{name}": weighed.p_values.get(name) for name in WITNESSES}
    own |= {"combined": said.combined, "verdict": said.verdict, "target_named": said.target,
            "searches": weighed.searches}
    return {name: text(value) for name, value in own.items()}


def write_rows(path: str | Path, rows: Sequence[Measured], alpha: float = ALPHA) -> None:
    """Write the table. Every p-value and verdict in it is worked out anew from the statistics, since each model that is
    added to the reference changes them."""
    weighed = {id(row): population.weigh(row, alpha=alpha) for population in populations_of(rows)
               for row in population.rows}
    write_table(path, COLUMNS, (as_row(row, weighed[id(row)]) for row in rows))
