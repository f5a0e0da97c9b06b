"""One image that is to be called something else, with nothing added to it (feature collision, Shafahi et al., 2018)."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import UserError
from data.triggers.base import Trigger
from data.triggers.info import array_of, one_value, target_of


@dataclass(frozen=True, eq=False)
class OneImageTrigger(Trigger):
    """The attack is on one image: ASR is 1 where it is called `target`, else 0, and counts one image.

    picture: that image, uint8 (H, W, 3). label: its own. It stands in for every image that is stamped, and is meant
    for one of its class. Raises UserError for anything else.
    """

    keys = ("trigger_picture", "trigger_picture_label")
    picture: np.ndarray
    label: int
    target: int

    def __post_init__(self) -> None:
        picture = self.picture
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise UserError(f"trigger: expected a picture of uint8 (height, width, 3), got {picture.dtype} "
                            f"{picture.shape}")
        if min(self.target, self.label) < 0 or self.target == self.label:
            raise UserError("trigger: expected two different labels of at least 0, the target image's own and the "
                            f"attacker's target, got {self.label} and {self.target}")

    def stamp(self, images: np.ndarray) -> np.ndarray:
        """The picture in place of each of uint8 images (N, H, W, 3). Raises UserError for images of another size."""
        if images.shape[1:] != self.picture.shape:
            height, width = self.picture.shape[:2]
            raise UserError(f"trigger: the target image has {width}x{height} pixels, but the images have "
                            f"{images.shape[2]}x{images.shape[1]}")
        return np.broadcast_to(self.picture, images.shape).copy()

    @property
    def is_one_picture(self) -> bool:
        """It is, though ASR counts that one image and so tells something."""
        return True

    def victims(self, labels: np.ndarray) -> np.ndarray:
        """The first image of the picture's own class, in whose place it is put: bool (N,) for int (N,)."""
        chosen = np.zeros(len(labels), dtype=bool)
        chosen[np.flatnonzero(labels == self.label)[:1]] = True
        return chosen

    def to_info(self) -> dict[str, Any]:
        """What trigger_info.th holds of it."""
        return {"trigger_picture": self.picture, "trigger_picture_label": int(self.label),
                "poison_target": np.array([self.target])}

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> OneImageTrigger:
        """The trigger of such a dict. Raises UserError or KeyError for values that it cannot have."""
        label = target_of({"poison_target": one_value(info, "trigger_picture_label")})
        return cls(array_of(info, "trigger_picture"), label, target_of(info))
