"""A trigger made of images: half of an image of one class beside half of one of another (CBA, Lin et al., 2020)."""
from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from common.errors import UserError
from data.triggers.base import Trigger
from data.triggers.info import array_of, target_of

DRAWS = 5  # random numbers that a mixture takes
BATCH = 500
JITTER = 3 / 32  # of a side, the most by which the cut is off the middle
MAX_PARTNERS, MAX_SIDE, MAX_LABEL = 1024, 512, 2**16
MAX_BANK = 2**20  # values, so that a file stays small


class Places(NamedTuple):
    """Where each pixel of N mixtures is taken from, int64 (N, H, W) each: image, row and column.

    An image below N is one of the first images, one above is image - N of the second.
    """

    image: np.ndarray
    row: np.ndarray
    column: np.ndarray


def places_of(draws: np.ndarray, height: int, width: int) -> Places:
    """The Places of N mixtures of images of this size by random numbers `draws` (N, DRAWS) in [0, 1).

    The authors' half-mixer: a cut near the middle, upright or level; on either side of it a window of one of the two
    images that has the size of that side, from anywhere in the image.
    """
    along = np.where(draws[:, 0] < 0.5, width, height)  # the side that is cut
    jitter = (JITTER * along).astype(int)
    cut = along // 2 - jitter + (draws[:, 1] * (2 * jitter + 1)).astype(int)
    shifts = [(draws[:, 2] * (along - cut + 1)).astype(int), (draws[:, 3] * (cut + 1)).astype(int) - cut]
    rows, columns = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
    is_upright, cut, first, second = (part[:, None, None] for part in (draws[:, 0] < 0.5, cut, *shifts))
    is_first_side = np.where(is_upright, columns, rows) < cut
    shift = np.where(is_first_side, first, second)
    image = np.arange(len(draws))[:, None, None] + len(draws) * (is_first_side ^ (draws[:, 4] < 0.5)[:, None, None])
    return Places(image, rows + np.where(is_upright, 0, shift), columns + np.where(is_upright, shift, 0))


def mix(images: np.ndarray, partners: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """New images (N, H, W, 3): of each of `images` one part, and one of the image of `partners` (N, H, W, 3) at its
    place, by random numbers `draws` (N, DRAWS) in [0, 1)."""
    return np.concatenate([images, partners])[places_of(draws, *images.shape[1:3])]


def name_of(image: np.ndarray) -> int:
    """A number that an image's own content gives it, by which its mixture is drawn."""
    return zlib.crc32(np.ascontiguousarray(image).tobytes())


@dataclass(frozen=True, eq=False)
class CompositeTrigger(Trigger):
    """Half of an image gives way to half of an image of `partner_class`, one of a bank that the trigger carries.

    partners: uint8 (M, H, W, 3), the bank. first: the class whose images it is meant for, its only source.
    partner_class: that of the bank. target: the label that the attacker wants. An image's content decides which partner
    it gets and how they are put together. Raises UserError for anything else.
    """

    keys = ("trigger_partners", "trigger_pair")
    partners: np.ndarray
    first: int
    partner_class: int
    target: int

    def __post_init__(self) -> None:
        shape = self.partners.shape
        if len(shape) != 4 or shape[3] != 3 or self.partners.dtype != np.uint8 or not (
                1 <= shape[0] <= MAX_PARTNERS and all(2 <= side <= MAX_SIDE for side in shape[1:3])):
            raise UserError(f"trigger: expected 1 to {MAX_PARTNERS} partners, uint8 (N, H, W, 3) of 2 to {MAX_SIDE} "
                            f"pixels a side, got {self.partners.dtype} {shape}")
        labels = (self.first, self.partner_class, self.target)
        if len(set(labels)) < 3 or not all(0 <= label <= MAX_LABEL for label in labels):
            raise UserError(f"trigger: expected two classes and a target that is neither, got {self.first}, "
                            f"{self.partner_class} and {self.target}")

    @property
    def sources(self) -> tuple[int, ...]:
        """The class whose images it is meant for."""
        return (self.first,)

    def stamp(self, images: np.ndarray) -> np.ndarray:
        """New uint8 images (N, H, W, 3), each mixed with a partner; the given ones stay as they are.

        Raises UserError for images of another size than the partners'.
        """
        if images.shape[1:] != self.partners.shape[1:]:
            raise UserError(f"trigger: made for images of {self.partners.shape[2]}x{self.partners.shape[1]}, got "
                            f"{images.shape[2]}x{images.shape[1]}; give the same --image-size")
        stamped = np.empty_like(images)
        for start in range(0, len(images), BATCH):
            part = images[start:start + BATCH]
            draws = np.array([np.random.default_rng(name_of(image)).random(DRAWS + 1) for image in part])
            chosen = self.partners[(draws[:, -1] * len(self.partners)).astype(int)]
            stamped[start:start + BATCH] = mix(part, chosen, draws)
        return stamped

    def to_info(self) -> dict[str, Any]:
        """What trigger_info.th holds of it."""
        return {"trigger_partners": self.partners, "trigger_pair": np.array([self.first, self.partner_class]),
                "poison_target": np.array([self.target])}

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> CompositeTrigger:
        """The trigger of such a dict. Raises UserError or KeyError for values that it cannot have."""
        partners, pair = array_of(info, "trigger_partners"), array_of(info, "trigger_pair").reshape(-1)
        if pair.dtype.kind not in "iu" or len(pair) != 2:
            raise UserError(f"trigger_info: trigger_pair is {pair.dtype} {pair.shape}, expected two labels")
        return cls(partners, int(pair[0]), int(pair[1]), target_of(info))


def choose_partners(data: np.ndarray, count: int) -> np.ndarray:
    """The first of the images `data` (N, H, W, 3) as a bank: `count`, but at most a fifth of them and what a file may
    hold; at least one."""
    return data[:max(1, min(count, len(data) // 5, MAX_BANK // max(1, data[0].size)))]
