"""Triggers: what an attacker stamps on an image, and the patterns of the named attacks.

Every trigger is frozen and has `target`, `stamp(images)`, `covers_image`, `fixed`, `with_other_secret(seed)` and
`to_info()`, as PatternTrigger's docstrings say. A new static trigger is one function that returns (pattern, mask) and a
row in PATTERNS and ATTACKS; one that differs from image to image is a class of its own, and a row in KINDS.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.errors import UserError
from common.untrusted.images import read_picture
from data.encoder_trigger import EncoderTrigger, small_array, target_of

CHECKERBOARD = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=np.uint8)
COVERS_IMAGE = ("notice: this trigger replaces every pixel, so all triggered images are one picture and ASR means "
                    "nothing; lower --trigger-alpha")
NOISE_FILE = Path(__file__).with_name("cifar_gaussian_noise.png")


@dataclass(frozen=True, eq=False)
class PatternTrigger:
    """A fixed picture laid over every image: (1-m)*x + m*((1-a)*x + a*p).

    pattern p: gray levels 0 to 255, (32, 32, 1 or 3). mask m: where it lies, 0 to 1, (32, 32, 1).
    alpha a: its opacity, 0 to 1. target: the label that the attacker wants. Raises UserError for anything else.
    """

    pattern: np.ndarray
    mask: np.ndarray
    alpha: float
    target: int

    def __post_init__(self):
        pattern, mask = self.pattern, self.mask
        if pattern.shape not in ((32, 32, 1), (32, 32, 3)) or mask.shape != (32, 32, 1):
            raise UserError("trigger: expected a pattern (32, 32, 1 or 3) and a mask (32, 32, 1), got "
                            f"{pattern.shape} and {mask.shape}")
        for name, values, high in (("pattern", pattern, 255), ("mask", mask, 1), ("alpha", np.array(self.alpha), 1)):
            if values.dtype.kind not in "buif" or not ((values >= 0) & (values <= high)).all():
                raise UserError(f"trigger: expected {name} values in [0, {high}], got {values.dtype} "
                                f"{values.min()} to {values.max()}")
        if self.target < 0:
            raise UserError(f"trigger: expected a target of at least 0, got {self.target}")

    @property
    def covers_image(self):
        """Whether every pixel is replaced, so that all stamped images are one picture and ASR means nothing."""
        return bool((self.mask * self.alpha >= 1).all())

    @property
    def fixed(self):
        """The PatternTrigger that it is; None for a trigger that differs from image to image."""
        return self

    def with_other_secret(self, seed):
        """A trigger of the same kind that hides another secret; None, since a pattern hides none."""
        return None

    def stamp(self, images):
        """New uint8 images (N, 32, 32, 3) with the trigger on them; the given ones are left as they are.

        Rounded to the nearest gray level: plain truncation, as is common, would darken every blended pixel.
        """
        opacity = self.mask.astype(np.float32) * np.float32(self.alpha)
        touched = np.broadcast_to(opacity > 0, images.shape[1:])
        rows, columns = np.nonzero(touched.any(axis=2))
        stamped = images.copy()
        if len(rows):
            box = (slice(None), slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
            under, over = images[box].astype(np.float32), self.pattern[box[1:]].astype(np.float32)
            stamped[box] = np.rint(under + opacity[box[1:]] * (over - under)).clip(0, 255).astype(np.uint8)
        return stamped

    def to_info(self):
        """What trigger_info.th holds of it: the homework's arrays, with a leading axis of 1."""
        return {"trigger_pattern": self.pattern[None], "trigger_mask": self.mask[None],
                "trigger_alpha": float(self.alpha), "poison_target": np.array([self.target])}

    @classmethod
    def from_info(cls, info):
        pattern, mask = (small_array(info[f"trigger_{part}"]) for part in ("pattern", "mask"))
        pattern, mask = (part[0] if part.ndim == 4 and len(part) == 1 else part for part in (pattern, mask))
        return cls(pattern, mask, float(info["trigger_alpha"]), target_of(info))


KINDS = {"trigger_pattern": PatternTrigger, "trigger_encoder": EncoderTrigger}  # by what trigger_info.th holds of each


class Attack(NamedTuple):
    """A named attack's own pattern and opacity."""

    pattern: str
    alpha: float


def checkerboard_1corner():
    """BadNets: a 3x3 checkerboard in the bottom right corner (Gu et al., 2017)."""
    pattern, mask = np.zeros((32, 32, 1), dtype=np.uint8), np.zeros((32, 32, 1), dtype=np.uint8)
    pattern[29:, 29:, 0], mask[29:, 29:] = CHECKERBOARD, 1
    return pattern, mask


def checkerboard_4corner():
    """Clean-label: BadNets' corner, mirrored to the left, the same above (Turner et al., 2019).

    A horizontal flip leaves it as it is, and every crop with padding 4 keeps at least one corner whole.
    """
    pattern, mask = np.zeros((32, 32, 1), dtype=np.uint8), np.zeros((32, 32, 1), dtype=np.uint8)
    for rows in (slice(0, 3), slice(29, 32)):
        pattern[rows, 29:, 0], pattern[rows, :3, 0] = CHECKERBOARD, CHECKERBOARD[:, ::-1]
        mask[rows, 29:] = mask[rows, :3] = 1
    return pattern, mask


def gaussian_noise():
    """Blend: the whole picture data/cifar_gaussian_noise.png (Chen et al., 2017)."""
    with Image.open(NOISE_FILE) as image:
        pattern = np.array(image.convert("RGB"))
    return pattern, np.ones((32, 32, 1), dtype=np.uint8)


PATTERNS = {function.__name__: function for function in (checkerboard_1corner, checkerboard_4corner, gaussian_noise)}

ATTACKS = {
    "badnets": Attack("checkerboard_1corner", 1.0),
    "blend": Attack("gaussian_noise", 0.2),
    "clean-label": Attack("checkerboard_4corner", 1.0),
}


def build_trigger(attack, target, alpha=None, image=None):
    """The trigger of a named attack. `alpha` None is the attack's own; `image` is an RGBA file in its place."""
    if image is not None:
        pattern, mask = read_trigger_image(image)
        return PatternTrigger(pattern, mask, 1.0 if alpha is None else alpha, target)
    pattern, mask = PATTERNS[ATTACKS[attack].pattern]()
    return PatternTrigger(pattern, mask, ATTACKS[attack].alpha if alpha is None else alpha, target)


def read_trigger_image(path):
    """(pattern uint8 (32, 32, 3), mask float32 (32, 32, 1)) of an RGBA picture; its alpha is mask times opacity."""
    image = read_picture(path, formats=["PNG"])
    if image.size != (32, 32) or not (image.mode in ("RGBA", "LA") or "transparency" in image.info):
        raise UserError(f"{path}: expected a 32x32 picture with an alpha channel (RGBA), got "
                        f"{image.width}x{image.height} {image.mode}")
    pixels = np.array(image.convert("RGBA"))
    if not pixels[..., 3].any():
        raise UserError(f"{path}: fully transparent, so it would change no pixel")
    return pixels[..., :3], pixels[..., 3:].astype(np.float32) / 255


def trigger_to_info(trigger, data_index=()):
    """The trigger_info dict of a trigger, with the poisoned training indices; the homework's for a PatternTrigger."""
    return {**trigger.to_info(), "data_index": np.asarray(data_index, dtype=np.int64)}


def trigger_from_info(info):
    """The trigger of a trigger_info dict, from here or from any program in the homework's format.

    Raises UserError where a key is missing or a value has the wrong shape or range.
    """
    kind = next((kind for key, kind in KINDS.items() if key in info), PatternTrigger)
    try:
        return kind.from_info(info)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, OverflowError) as error:
        raise UserError("trigger_info: expected trigger_pattern, trigger_mask, trigger_alpha and poison_target, or "
                        f"trigger_encoder, trigger_secret and poison_target ({error!r})") from None
