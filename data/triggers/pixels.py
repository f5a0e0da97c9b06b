"""Stamping by arithmetic on pixels: what triggers that are a network or a warp have in common."""
from collections.abc import Callable

import numpy as np
import torch

from common.errors import UserError

BATCH = 100


def rounded(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels in [0, 1] as they are after a file: on the nearest of 256 gray levels. Without a gradient."""
    return (255 * pixels.clamp(0, 1)).round() / 255


@torch.inference_mode()
def stamp_by(change: Callable[..., torch.Tensor], *images: np.ndarray, device: torch.device | str = "cpu"
             ) -> np.ndarray:
    """uint8 (N, H, W, 3) that `change` makes of one or more arrays like it, rounded; the arrays stay as they are.

    change: takes pixels (B, 3, H, W) in [0, 1], one tensor for each array, and returns such pixels. device: where.
    On the CPU, whatever the model runs on, a trigger stamps the same everywhere; no other device promises that. Raises
    UserError for pixels that are not finite.
    """
    stamped = np.empty_like(images[0])
    for start in range(0, len(stamped), BATCH):
        rows = slice(start, start + BATCH)
        parts = (torch.from_numpy(np.ascontiguousarray(part[rows])) for part in images)
        pixels = change(*(part.to(device).permute(0, 3, 1, 2).float() / 255 for part in parts))
        if not pixels.isfinite().all():
            raise UserError("trigger: with its values, stamped images hold nan or infinite values")
        stamped[rows] = (255 * rounded(pixels)).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return stamped
