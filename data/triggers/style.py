"""A trigger that is a style: the colors and the texture of a picture, over the whole image (Cheng et al., 2021)."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from data.triggers.base import Trigger
from data.triggers.info import array_of, one_value, target_of
from data.triggers.pixels import stamp_by
from data.triggers.weights import faults
from models.stylizer import Stylizer, stylize

MAX_WIDTH = 64


def build_stylizer(weights: Mapping[str, torch.Tensor]) -> Stylizer:
    """The Stylizer with the state_dict `weights`, its width read off them. Raises UserError if they are not of one."""
    try:
        width = len(weights["body.0.weight"])
        if not 1 <= width <= MAX_WIDTH:
            raise UserError(f"trigger: expected a stylizer of width 1 to {MAX_WIDTH}, got {width}")
        stylizer = Stylizer(width)
        wrong = faults(weights, stylizer.state_dict())
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError):
        raise UserError("trigger: expected the weights of a stylizer (body.0.weight, ...)") from None
    if wrong:
        raise UserError(f"trigger: does not fit a stylizer: {wrong[0]}")
    stylizer.load_state_dict({name: value.detach().float() for name, value in weights.items()})
    return stylizer.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class StyleTrigger(Trigger):
    """An image's own stylized picture, laid over it.

    weights: a Stylizer's state_dict. color: float32 (2, 3), mean and standard deviation of the style's channels, in
    [0, 1]. opacity: above 0, at most 1. target: the label that the attacker wants. Raises UserError for anything else.
    """

    keys = ("trigger_stylizer", "trigger_color", "trigger_opacity")
    weights: Mapping[str, torch.Tensor]
    color: np.ndarray
    opacity: float
    target: int

    def __post_init__(self) -> None:
        _ = self.stylizer
        color = self.color
        if color.shape != (2, 3) or color.dtype.kind != "f" or not ((color >= 0) & (color <= 1)).all():
            raise UserError(f"trigger: expected colors (2, 3) in [0, 1], got {color.dtype} {color.shape}")
        if not 0 < self.opacity <= 1:
            raise UserError(f"trigger: expected an opacity above 0, at most 1, got {self.opacity}")
        if self.target < 0:
            raise UserError(f"trigger: expected a target of at least 0, got {self.target}")

    @cached_property
    def stylizer(self) -> Stylizer:
        """The network with its weights."""
        return build_stylizer(self.weights)

    def stamp(self, images: np.ndarray) -> np.ndarray:
        """New uint8 images (N, H, W, 3), stylized and rounded; the given ones stay as they are.

        Raises UserError for images of fewer than 2 pixels a side, and for weights that lead to nan.
        """
        if min(images.shape[1:3]) < 2:
            raise UserError(f"trigger: expected images of at least 2 pixels a side, got {images.shape[1:3]}")
        color = torch.from_numpy(self.color.astype(np.float32))
        return stamp_by(lambda pixels: stylize(pixels, self.stylizer, color, self.opacity), images)

    def to_info(self) -> dict[str, Any]:
        """What trigger_info.th holds of it."""
        return {"trigger_stylizer": dict(self.weights), "trigger_color": self.color,
                "trigger_opacity": float(self.opacity), "poison_target": np.array([self.target])}

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> StyleTrigger:
        """The trigger of such a dict. Raises UserError or KeyError for values that it cannot have."""
        return cls(info["trigger_stylizer"], array_of(info, "trigger_color"),
                   float(one_value(info, "trigger_opacity")[0]), target_of(info))
