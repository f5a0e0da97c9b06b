"""What every trigger is."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import torch

    from data.triggers.pattern import PatternTrigger

COVERS_IMAGE = ("this trigger replaces every pixel, so all triggered images are one picture and ASR has no "
                "meaning; lower --trigger-alpha")


class Trigger(ABC):
    """What an attacker puts into an image to have it called `target`. Frozen: stamping twice gives the same.

    A kind of trigger is a class beneath this one, in a module of this package, with `keys`, `stamp`, `to_info` and
    `from_info`; the other methods have defaults.

    keys: what `to_info` names, all beginning with "trigger_"; trigger_info.th is recognized by the first. target: the
    label that the attacker wants. sources: the classes whose images it is meant for; None for all but the target.
    """

    kinds: ClassVar[dict[str, type[Trigger]]] = {}  # {a class's first key: the class}
    keys: ClassVar[tuple[str, ...]] = ()
    target: int
    sources: tuple[int, ...] | None = None

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

    def as_pattern(self) -> PatternTrigger | None:
        """The fixed picture that it is, None for a trigger that differs from image to image."""
        return None

    def with_other_secret(self, seed: int) -> Trigger | None:
        """A trigger of the same kind that hides another secret, drawn by `seed`; None for one that hides none."""
        return None

    def victims(self, labels: np.ndarray) -> np.ndarray:
        """Which images it is meant for, by their labels before poisoning: bool (N,) for int (N,)."""
        return labels != self.target if self.sources is None else np.isin(labels, self.sources)

    def stamp_on_device(self, images: torch.Tensor) -> torch.Tensor:
        """`stamp` for a uint8 tensor (N, H, W, 3) on any device: over the CPU, unless a class knows a shorter way."""
        return images.new_tensor(self.stamp(images.cpu().numpy()))
