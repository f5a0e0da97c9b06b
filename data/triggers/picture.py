"""The parts of a picture trigger as other programs write them, read as this suite has them.

A part with one sensible reading is read: with any number of leading axes of 1, copies of one picture, channels first,
no axis of channels, a mask of 0 and 255 or of three equal channels, an opacity for every pixel. A part that can be read
in two ways is refused in one line that says how to write it.
"""
from itertools import product

import numpy as np

from common.errors import UserError

CHANNELS = (1, 3)
LEVELS = 255


def placed(pattern: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A stranger's pattern as (H, W, 1 or 3) and its mask as (H, W, 1).

    Which axis holds the channels follows from the two shapes. Raises UserError if none fits or more than one does.
    """
    pattern, mask = single("trigger_pattern", pattern), single("trigger_mask", mask)
    fitting = [(one, other) for one, other in product(layouts(pattern), layouts(mask))
               if one.shape[:2] == other.shape[:2]]
    if not fitting:
        raise UserError("trigger: expected a pattern (height, width, 1 or 3) and a mask (height, width, 1), got "
                        f"{pattern.shape} and {mask.shape}")
    if len(fitting) > 1:
        raise UserError(f"trigger_info: trigger_pattern {pattern.shape} and trigger_mask {mask.shape} can be read with "
                        "their channels first or last; write both as (1, height, width, channels)")
    return fitting[0][0], one_channel(fitting[0][1])


def single(key: str, values: np.ndarray) -> np.ndarray:
    """`values` without leading axes beyond three, which may hold copies of one picture. UserError if they differ."""
    if values.ndim <= 3:
        return values
    pictures = values.reshape(-1, *values.shape[-3:]) if values.size else values[:0]
    if not len(pictures):
        raise UserError(f"trigger_info: {key} {values.shape} holds no values")
    if len(pictures) > 1 and (pictures != pictures[0]).any():
        raise UserError(f"trigger_info: {key} {values.shape} holds different pictures, expected one; a trigger that "
                        "differs from image to image is not read")
    return pictures[0]


def layouts(part: np.ndarray) -> list[np.ndarray]:
    """The ways of reading an array as (H, W, 1 or 3)."""
    if part.ndim == 2:
        return [part[..., None]]
    if part.ndim != 3:
        return []
    return ([part] if part.shape[-1] in CHANNELS else []) + (
        [np.moveaxis(part, 0, -1)] if part.shape[0] in CHANNELS else [])


def one_channel(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W, 1 or 3) as (H, W, 1). Raises UserError for channels that differ."""
    if mask.shape[-1] > 1 and (mask != mask[..., :1]).any():
        raise UserError("trigger_info: trigger_mask has channels that differ, expected one channel, or three equal "
                        "ones; a mask for each color is not read")
    return mask[..., :1]


def gray_levels(pattern: np.ndarray) -> np.ndarray:
    """A pattern's values as gray levels 0 to 255: from these, from True and False, or from fractions of 0 to 1.

    Raises UserError for values of 0 and 1 alone: white, or next to black.
    """
    if pattern.dtype.kind == "b":
        return pattern.astype(np.uint8) * LEVELS
    largest = pattern.max() if pattern.size else 0
    if not 0 < largest <= 1:
        return pattern
    if (pattern == np.rint(pattern)).all() or largest * LEVELS <= 1:
        raise UserError(f"trigger_pattern: expected gray levels 0 to 255, got {pattern.dtype} {span(pattern)}; if 1 is "
                        "white, multiply a pattern of 0 to 1 by 255")
    return pattern * pattern.dtype.type(LEVELS)


def zero_to_one(mask: np.ndarray) -> np.ndarray:
    """A mask's values as 0 to 1: from these, or from gray levels of which the largest is 255; others as they are."""
    is_gray = mask.size and mask.max() == LEVELS and mask.min() >= 0 and (mask == np.rint(mask)).all()
    return (mask / LEVELS).astype(np.float32) if is_gray else mask


def with_opacity(mask: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, float]:
    """(mask, one opacity) for an opacity that is one number, or one for every pixel, which goes into the mask.

    Raises UserError for other counts, and for an opacity above 1: 20 may be a percentage or a gray level.
    """
    if not alpha.size or not ((alpha >= 0) & (alpha <= 1)).all():
        unsure = "; write 20 % as 0.2" if alpha.size and 1 < alpha.max() <= LEVELS else ""
        raise UserError(f"trigger_info: trigger_alpha: expected values in [0, 1], got {alpha.dtype} {span(alpha)}"
                        f"{unsure}")
    if (alpha == alpha.flat[0]).all():
        return mask, float(alpha.flat[0])
    fitting = [own for own in layouts(single("trigger_alpha", alpha)) if own.shape == mask.shape]
    if len(fitting) != 1:
        raise UserError(f"trigger_info: trigger_alpha has {alpha.size} values, expected one, or one for every pixel of "
                        "the mask")
    if not ((mask >= 0) & (mask <= 1)).all():
        return mask, 1.0  # which the trigger refuses by its mask
    return mask.astype(np.float32) * fitting[0].astype(np.float32), 1.0


def span(values: np.ndarray) -> str:
    """The least and the largest of some values, in words."""
    return f"{values.min()} to {values.max()}" if values.size else "without any"
