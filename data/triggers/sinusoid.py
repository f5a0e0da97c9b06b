"""A sinusoid added to every row of an image (SIG, Barni et al., 2019)."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import UserError
from data.triggers.base import Trigger
from data.triggers.info import one_value, target_of

HIGHEST = 255


@dataclass(frozen=True, eq=False)
class SinusoidTrigger(Trigger):
    """Adds v(i, j) = delta * sin(2 pi j frequency / width) to pixel (i, j), the same in all rows, colors and images.

    delta: the amplitude in gray levels. frequency: periods across the image. target: the label that the attacker wants.
    Raises UserError for values that they cannot have.
    """

    keys = ("trigger_sig_delta", "trigger_sig_frequency")
    delta: float
    frequency: float
    target: int

    def __post_init__(self) -> None:
        if not 0.5 < self.delta <= HIGHEST:
            raise UserError(f"trigger: expected an amplitude (--sig-delta) above 0.5, at most {HIGHEST} gray levels, "
                            f"got {self.delta}")
        if not 0 < self.frequency <= 512:
            raise UserError("trigger: expected a frequency (--sig-frequency) above 0, at most 512 periods, got "
                            f"{self.frequency}")
        if self.target < 0:
            raise UserError(f"trigger: expected a target of at least 0, got {self.target}")

    def signal(self, width: int) -> np.ndarray:
        """What is added to a row of `width` pixels: float32 (width,), in gray levels."""
        return (self.delta * np.sin(2 * np.pi * np.arange(width) * self.frequency / width)).astype(np.float32)

    def stamp(self, images: np.ndarray) -> np.ndarray:
        """New uint8 images (N, H, W, 3), each sum rounded and clipped to 0 to 255; the given ones stay as they are.

        The sum is made in float32: in uint8 it would wrap around, as in a published file of this signal, whose darker
        half is nearly white.
        """
        added = images.astype(np.float32) + self.signal(images.shape[2])[:, None]
        return np.rint(added).clip(0, HIGHEST).astype(np.uint8)

    def to_info(self) -> dict[str, Any]:
        """What trigger_info.th holds of it."""
        return {"trigger_sig_delta": float(self.delta), "trigger_sig_frequency": float(self.frequency),
                "poison_target": np.array([self.target])}

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> SinusoidTrigger:
        """The trigger of such a dict. Raises UserError or KeyError for values that it cannot have."""
        delta, frequency = (float(one_value(info, key)[0]) for key in cls.keys)
        return cls(delta, frequency, target_of(info))
