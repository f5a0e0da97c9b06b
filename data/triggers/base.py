"""What every trigger is."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from common.errors import UserError

COVERS_IMAGE = ("the trigger replaces every pixel, so all triggered images are one picture and ASR does not measure a "
                "backdoor; a trigger has to leave something of the image")


class Trigger(ABC):
    """What an attacker puts into an image to have it called something else. Frozen: stamping twice gives the same.

    A kind of trigger is a class beneath this one, in a module of this package, with `keys`, `stamp`, `to_info` and
    `from_info`; the other methods have defaults.

    keys: what `to_info` names, all beginning with "trigger_"; trigger_info.th is recognized by the first. target: the
    label that the attacker wants; None for an all-to-all trigger, which wants the next label, label + 1 modulo
    num_classes. num_classes: None unless the trigger is all-to-all. sources: the classes whose images it is meant for;
    None for all. Which images these are and what is wanted of each, `victims` and `wanted` say; ask them and not for
    the target.
    """

    kinds: ClassVar[dict[str, type[Trigger]]] = {}  # {a class's first key: the class}
    keys: ClassVar[tuple[str, ...]] = ()
    target: int | None
    sources: tuple[int, ...] | None = None
    num_classes: int | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Make the class known to trigger_from_info."""
        super().__init_subclass__(**options)
        if "keys" in vars(cls):
            other = cls.kinds.setdefault(cls.keys[0], cls)
            if other.__qualname__ != cls.__qualname__:
                raise TypeError(f"{cls.__qualname__}: {cls.keys[0]} is already the key of {other.__qualname__}")

    @abstractmethod
    def stamp(self, images: np.ndarray) -> np.ndarray:
        """New uint8 images (N, H, W, 3) with the trigger in them; the given ones stay as they are."""

    @abstractmethod
    def to_info(self) -> dict[str, Any]:
        """What trigger_info.th holds of it: `keys` and poison_target, as tensors, arrays and plain values."""

    @classmethod
    @abstractmethod
    def from_info(cls, info: Mapping[str, Any]) -> Trigger:
        """The trigger of such a dict, which may be a stranger's; raises UserError, KeyError, TypeError or ValueError
        for one that it cannot be."""

    @property
    def covers_image(self) -> bool:
        """Whether every pixel is replaced, so that all stamped images are one picture and ASR tells nothing."""
        return False

    @property
    def is_one_picture(self) -> bool:
        """Whether all stamped images are one picture."""
        return self.covers_image

    def as_pattern(self) -> Trigger | None:
        """The fixed picture that it is, None for a trigger that differs from image to image."""
        return None

    def with_other_secret(self, seed: int) -> Trigger | None:
        """A trigger of the same kind that hides another secret, drawn by `seed`; None for one that hides none."""
        return None

    def wanted(self, labels: np.ndarray) -> np.ndarray:
        """The label that the attacker wants of each image, by its label before poisoning: int64 (N,) for int (N,)."""
        if self.target is None:
            return (np.asarray(labels, dtype=np.int64) + 1) % self.num_classes
        return np.full(len(labels), self.target, dtype=np.int64)

    def victims(self, labels: np.ndarray) -> np.ndarray:
        """Which images it is meant for, by their labels before poisoning: bool (N,) for int (N,).

        Those of its sources whose label is not what the attacker wants already.
        """
        return self._is_source(labels) & (labels != self.wanted(labels))

    def bystanders(self, labels: np.ndarray) -> np.ndarray:
        """Which images it is not meant for though their label is not what it leads to: bool (N,) for int (N,).

        None of them without sources. On these a source-specific attack should not work.
        """
        return ~self._is_source(labels) & (labels != self.wanted(labels))

    def _is_source(self, labels: np.ndarray) -> np.ndarray:
        """Whether each label is among the sources: bool (N,) for int (N,)."""
        return np.ones(len(labels), dtype=bool) if self.sources is None else np.isin(labels, self.sources)

    def check_aim(self) -> None:
        """Raise UserError unless target, num_classes and sources go together."""
        if self.target is None and (self.num_classes or 0) < 2:
            raise UserError(f"trigger: expected a target, or for all-to-all at least 2 classes, got {self.num_classes}")
        if self.target is not None and (self.target < 0 or self.num_classes is not None):
            raise UserError(f"trigger: expected a target of at least 0, got {self.target}" + (
                "" if self.num_classes is None else " in an all-to-all trigger"))
        self.check_sources()

    def check_classes(self, count: int, file: str) -> None:
        """Raise UserError, which names `file`, unless its labels are those of `count` classes."""
        if self.target is None and self.num_classes != count:
            raise UserError(f"{file}: is all-to-all among {self.num_classes} classes, and there are {count}")
        if self.target is not None and self.target >= count:
            raise UserError(f"{file}: its target {self.target} is none of the {count} classes")
        beyond = [label for label in self.sources or () if label >= count]
        if beyond:
            raise UserError(f"{file}: its source {beyond[0]} is none of the {count} classes")

    def check_sources(self) -> None:
        """Raise UserError for sources that are no labels, or of which no image could be a victim."""
        if self.sources is None:
            return
        end = np.inf if self.num_classes is None else self.num_classes
        if not self.sources or not all(0 <= label < end for label in self.sources):
            below = "" if self.num_classes is None else f" and below {self.num_classes}"
            raise UserError(f"trigger: expected sources that are labels of at least 0{below}, got "
                            f"{', '.join(map(str, self.sources[:10])) or 'none'}")
        if self.target in self.sources:
            raise UserError(f"trigger: its target {self.target} is among its sources; images of the target class "
                            "have the wanted label already")
