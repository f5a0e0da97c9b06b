"""A model that an audit's statistics have been measured on, and what it must share with those it is compared with."""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CALIBRATE, TEST, BENIGN = "calibrate", "test", "benign"
LEARNED = 0.5  # ASR from which an attack has taken hold


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
