"""A fixed picture as a trigger."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from data.triggers.base import Trigger
from data.triggers.info import aim_of, aim_to_info, array_of
from data.triggers.picture import gray_levels, placed, span, with_opacity, zero_to_one

ALL_COLORS = 3


@dataclass(frozen=True, eq=False)
class PatternTrigger(Trigger):
    """A fixed picture laid over images: (1-m)*x + m*((1-a)*x + a*p).

    pattern p: gray levels 0 to 255, (H, W, 1 or 3). mask m: where it lies, 0 to 1, (H, W, 1).
    alpha a: its opacity, 0 to 1. target, sources, num_classes: of which images the attacker wants which label, as
    Trigger says. Raises UserError for anything else.
    """

    keys = ("trigger_pattern", "trigger_mask", "trigger_alpha")
    pattern: np.ndarray
    mask: np.ndarray
    alpha: float
    target: int | None
    sources: tuple[int, ...] | None = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        pattern, mask = self.pattern, self.mask
        if pattern.shape not in [(*mask.shape[:2], colors) for colors in (1, ALL_COLORS)] or mask.shape[2:] != (1,):
            raise UserError("trigger: expected a pattern (height, width, 1 or 3) and a mask (height, width, 1), got "
                            f"{pattern.shape} and {mask.shape}")
        for name, values, high in (("pattern", pattern, 255), ("mask", mask, 1), ("alpha", np.array(self.alpha), 1)):
            if values.dtype.kind not in "buif" or not values.size or not ((values >= 0) & (values <= high)).all():
                raise UserError(f"trigger: expected {name} values in [0, {high}], got {values.dtype} {span(values)}")
        if not (mask * self.alpha).any():
            raise UserError("trigger: its mask and its opacity leave every pixel as it is, so it would stamp nothing")
        self.check_aim()

    @property
    def covers_image(self) -> bool:
        """Whether every pixel is replaced, so that all stamped images are one picture and ASR tells nothing."""
        return bool((self.mask * self.alpha >= 1).all())

    def as_pattern(self) -> PatternTrigger:
        """Itself."""
        return self

    def stamp(self, images: np.ndarray) -> np.ndarray:
        """New uint8 images (N, H, W, 3) with the trigger on them; the given ones are left as they are.

        Rounded to the nearest gray level: plain truncation, as is common, would darken every blended pixel. Raises
        UserError for images of another height or width than the picture's.
        """
        if images.shape[1:3] != self.mask.shape[:2]:
            raise UserError(f"trigger: made for images of {by(self.mask.shape[:2])}, got {by(images.shape[1:3])}")
        opacity = self.mask.astype(np.float32) * np.float32(self.alpha)
        touched = np.broadcast_to(opacity > 0, images.shape[1:])
        rows, columns = np.nonzero(touched.any(axis=2))
        stamped = images.copy()
        if len(rows):
            box = (slice(None), slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
            under, over = images[box].astype(np.float32), self.pattern[box[1:]].astype(np.float32)
            stamped[box] = np.rint(under + opacity[box[1:]] * (over - under)).clip(0, 255).astype(np.uint8)
        return stamped

    def to_info(self) -> dict[str, Any]:
        """What trigger_info.th holds of it: the homework's arrays, with a leading axis of 1."""
        return {"trigger_pattern": self.pattern[None], "trigger_mask": self.mask[None],
                "trigger_alpha": float(self.alpha), **aim_to_info(self)}

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> PatternTrigger:
        """The trigger of a dict in the homework's format; data/triggers/picture.py says which others are read.

        Raises UserError or KeyError for values that it cannot have, or that can be read in two ways.
        """
        pattern, mask = placed(array_of(info, "trigger_pattern"), array_of(info, "trigger_mask"))
        mask, alpha = with_opacity(zero_to_one(mask), array_of(info, "trigger_alpha"))
        return cls(gray_levels(pattern), mask, alpha, **aim_of(info))


def by(size: tuple[int, ...]) -> str:
    """(height, width) as pictures' sizes are written: width x height."""
    return "x".join(map(str, size[::-1]))


def read_trigger_image(path: str | Path, size: tuple[int, int] = (32, 32)) -> tuple[np.ndarray, np.ndarray]:
    """(pattern uint8 (H, W, 3), mask float32 (H, W, 1)) of an RGBA picture; its alpha is mask times opacity.

    size: (height, width) of the images that it is for. Raises UserError for a picture of another size, without an alpha
    channel, of gray levels or opacities that go to 1 instead of 255, or one that cannot be read.
    """
    from common.untrusted.images import read_picture
    image = read_picture(path)
    if image.size != size[::-1] or not (image.mode in ("RGBA", "LA") or "transparency" in image.info):
        raise UserError(f"{path}: expected a {by(size)} picture with an alpha channel (RGBA), got "
                        f"{by(image.size[::-1])} {image.mode}")
    pixels = np.array(image.convert("RGBA"))
    if not pixels[..., 3].any():
        raise UserError(f"{path}: fully transparent, so it would change no pixel")
    for name, values in (("gray level", pixels[..., :3]), ("opacity", pixels[..., 3])):
        if values.max() == 1:  # an array of 0 to 1 that was saved as it is; trigger_info.th could not tell either
            raise UserError(f"{path}: its largest {name} is 1 of 255, so nearly nothing of it would be seen; multiply "
                            "values of 0 to 1 by 255 before they are saved")
    return pixels[..., :3], pixels[..., 3:].astype(np.float32) / 255
