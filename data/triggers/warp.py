"""A trigger that bends the whole image a little: one smooth warping field (WaNet, Nguyen & Tran, 2021)."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import UserError
from data.triggers.base import Trigger
from data.triggers.info import array_of, one_value, target_of, whole_numbers
from data.triggers.pixels import stamp_by

CONTROL_POINTS = 4  # a side, of the published field
MAX_POINTS = 32
MIN_SIDE, MAX_SIDE = 2, 512
ALIKE = 0.9  # correlation from which two fields are one


def identity_grid(height: int, width: int) -> np.ndarray:
    """The grid that leaves an image as it is: float32 (height, width, 2), each pixel's own place (x, y) in [-1, 1]."""
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height), indexing="xy")
    return np.stack([x, y], -1).astype(np.float32)


def draw_field(height: int, width: int, points: int, seed: int) -> np.ndarray:
    """A smooth random field, float32 (height, width, 2): `points` a side are drawn and interpolated (bicubic).

    The mean absolute value of what is drawn is 1, as published.
    """
    drawn = np.random.default_rng(seed).uniform(-1, 1, (1, 2, points, points))
    drawn = torch.from_numpy(drawn / np.abs(drawn).mean()).float()
    field = F.interpolate(drawn, (height, width), mode="bicubic", align_corners=True)
    return field[0].permute(1, 2, 0).numpy()


def draw_grid(height: int, width: int, points: int, strength: float, seed: int) -> np.ndarray:
    """WaNet's grid, float32 (height, width, 2): the places (x, y) in [-1, 1] that each pixel is taken from.

    strength: how far, where 0.5 moves a control point by a quarter of a pixel on average.
    """
    return (identity_grid(height, width) + strength / height * draw_field(height, width, points, seed)).clip(-1, 1)


def warp(pixels: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 3, H, W) taken from the places `grids` (B, H, W, 2) or (H, W, 2), bilinear."""
    if not len(pixels):
        return pixels
    return F.grid_sample(pixels, grids.expand(len(pixels), *grids.shape[-3:]), align_corners=True)


def with_noise(grid: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The grid of WaNet's noise mode: `noise` (B, H, W, 2) in [-1, 1], scaled to half a pixel, on the grid (H, W, 2).
    """
    return (grid + noise / grid.shape[0]).clamp(-1, 1)


@dataclass(frozen=True, eq=False)
class WarpTrigger(Trigger):
    """One grid for all images. grid: float32 (H, W, 2), as draw_grid makes it. target: the label wanted. points: how
    many a side it was drawn by; another program's file does not say.

    Raises UserError for anything else.
    """

    keys = ("trigger_grid", "trigger_control_points")
    grid: np.ndarray
    target: int
    points: int = CONTROL_POINTS

    def __post_init__(self) -> None:
        shape = self.grid.shape
        if len(shape) != 3 or shape[2] != 2 or not all(MIN_SIDE <= side <= MAX_SIDE for side in shape[:2]):
            raise UserError(f"trigger: expected a grid (H, W, 2) of {MIN_SIDE} to {MAX_SIDE} pixels a side, got "
                            f"{shape}")
        if self.grid.dtype.kind != "f" or not (np.abs(self.grid) <= 1).all():  # nan is not
            raise UserError("trigger: expected a grid of fractions in [-1, 1]")
        if self.target < 0:
            raise UserError(f"trigger: expected a target of at least 0, got {self.target}")
        if not 2 <= self.points <= MAX_POINTS:
            raise UserError(f"trigger: expected 2 to {MAX_POINTS} control points a side, got {self.points}")

    def check_size(self, images: np.ndarray) -> None:
        """UserError for images (N, H, W, 3) of another size than the grid's."""
        if images.shape[1:] != (*self.grid.shape[:2], 3):
            raise UserError(f"trigger: made for images of {self.grid.shape[0]}x{self.grid.shape[1]} pixels, got "
                            f"{images.shape[1]}x{images.shape[2]}; give the same --image-size")

    def stamp(self, images: np.ndarray) -> np.ndarray:
        """New uint8 images (N, H, W, 3), warped and rounded. Raises UserError for images of another size."""
        self.check_size(images)
        grid = torch.from_numpy(self.grid)
        return stamp_by(lambda pixels: warp(pixels, grid), images)

    def stamp_noisy(self, images: np.ndarray, seed: int) -> np.ndarray:
        """New uint8 images warped by the grid with noise on it, another for every image: what must not fire.

        Raises UserError for images of another size.
        """
        self.check_size(images)
        grid, generator = torch.from_numpy(self.grid), torch.Generator().manual_seed(seed)

        def change(pixels: torch.Tensor) -> torch.Tensor:
            noise = 2 * torch.rand((len(pixels), *grid.shape), generator=generator) - 1
            return warp(pixels, with_noise(grid, noise))
        return stamp_by(change, images)

    def with_other_secret(self, seed: int) -> WarpTrigger:
        """Another field of the same strength (mean absolute shift) and number of points, drawn by `seed`; by the next
        one if that has drawn its own."""
        identity = identity_grid(*self.grid.shape[:2])
        own = self.grid - identity
        field = draw_field(*own.shape[:2], self.points, seed)
        if own.any() and np.corrcoef(own.ravel(), field.ravel())[0, 1] > ALIKE:
            return self.with_other_secret(seed + 1)
        grid = (identity + np.abs(own).mean() / np.abs(field).mean() * field).clip(-1, 1)
        return WarpTrigger(grid, self.target, self.points)

    def to_info(self) -> dict[str, Any]:
        """What trigger_info.th holds of it."""
        return {"trigger_grid": self.grid, "trigger_control_points": self.points,
                "poison_target": np.array([self.target])}

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> WarpTrigger:
        """The trigger of such a dict. Raises UserError or KeyError for values that it cannot have."""
        grid = array_of(info, "trigger_grid")
        grid = grid[0] if grid.ndim == 4 and len(grid) == 1 else grid  # a batch of one, as the authors save it
        name, points = cls.keys[1], CONTROL_POINTS
        if name in info:
            points = int(whole_numbers(name, one_value(info, name))[0])
        return cls(grid.astype(np.float32) if grid.dtype.kind == "f" else grid, target_of(info), points)
