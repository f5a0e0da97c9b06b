"""A trigger of its own for every image, drawn by two generators: a mask and a picture (Nguyen & Tran, 2020)."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from data.triggers.base import Trigger
from data.triggers.info import target_of
from data.triggers.pixels import stamp_by
from data.triggers.weights import faults
from models.generator import LEVELS, Generator, harden, lay_over

MAX_WIDTH = 128
CHANNELS = {"mask": 1, "picture": 3}


def as_stored(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A Generator's weights as a trigger holds them: float16 on the CPU, which halves the file."""
    return {name: value.detach().cpu().half() for name, value in network.state_dict().items()
            if value.is_floating_point()}


def build_generator(weights: Mapping[str, torch.Tensor], what: str) -> Generator:
    """The Generator of a mask or of a picture (`what`) in eval mode with weights as in as_stored.

    Raises UserError if they are not those of one.
    """
    try:
        width = len(weights["body.0.weight"])
        if not 1 <= width <= MAX_WIDTH:
            raise UserError(f"trigger: expected a generator of width 1 to {MAX_WIDTH}, got {width}")
        generator = Generator(CHANNELS[what], width)
        own = {name: value for name, value in generator.state_dict().items() if value.is_floating_point()}
        wrong = faults(weights, own) or [f"{name} is below 0" for name in own
                                         if name.endswith("running_var") and (weights[name] < 0).any()]
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError):
        raise UserError(f"trigger: expected the weights of a generator of a {what} (body.0.weight, ...)") from None
    if wrong:
        raise UserError(f"trigger: does not fit a generator of a {what}: {wrong[0]}")
    generator.load_state_dict({name: value.detach().float() for name, value in weights.items()}, strict=False)
    return generator.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class GeneratedTrigger(Trigger):
    """What two generators make of an image: a mask, hardened, and the picture that shows where it is 1.

    mask, picture: their weights, as in as_stored. target: the label that the attacker wants. device: where they draw,
    for an attack that looks at a trigger it has not finished: on a GPU some pixels at a mask's edge differ by a few
    gray levels. Raises UserError for anything else.
    """

    keys = ("trigger_mask_generator", "trigger_picture_generator")
    mask: Mapping[str, torch.Tensor]
    picture: Mapping[str, torch.Tensor]
    target: int
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        _ = self.generators
        if self.target < 0:
            raise UserError(f"trigger: expected a target of at least 0, got {self.target}")

    @cached_property
    def generators(self) -> tuple[Generator, Generator]:
        """Those of the mask and of the picture."""
        mask, picture = build_generator(self.mask, "mask"), build_generator(self.picture, "picture")
        return mask.to(self.device), picture.to(self.device)

    def draw(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(pictures (B, 3, H, W), masks (B, 1, H, W)) for pixels (B, 3, H, W) in [0, 1]."""
        mask, picture = self.generators
        return picture(pixels), harden(mask(pixels))

    def stamp(self, images: np.ndarray) -> np.ndarray:
        """New uint8 images (N, H, W, 3), each with the trigger made for it. Raises UserError for sides that are not
        multiples of 8."""
        return self.stamp_from(images, images)

    def stamp_from(self, images: np.ndarray, donors: np.ndarray) -> np.ndarray:
        """New uint8 images (N, H, W, 3), each with the trigger made for the same place in `donors`, which are like
        them: what must not fire where the two differ. Raises UserError as stamp does."""
        if any(side % 2**LEVELS for side in images.shape[1:3]):
            raise UserError(f"trigger: takes images whose sides are multiples of {2**LEVELS} pixels, got "
                            f"{images.shape[1]}x{images.shape[2]}; give such an --image-size")
        return stamp_by(lambda pixels, others: lay_over(pixels, *self.draw(others)), images, donors,
                        device=self.device)

    def to_info(self) -> dict[str, Any]:
        """What trigger_info.th holds of it."""
        return {"trigger_mask_generator": dict(self.mask), "trigger_picture_generator": dict(self.picture),
                "poison_target": np.array([self.target])}

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> GeneratedTrigger:
        """The trigger of such a dict. Raises UserError or KeyError for values that it cannot have."""
        return cls(info["trigger_mask_generator"], info["trigger_picture_generator"], target_of(info))
