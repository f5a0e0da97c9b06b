"""A trigger of its own for every image: what an encoder makes of it to hide one secret (ISSBA, Li et al., 2021)."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from data.triggers.base import Trigger
from data.triggers.info import array_of, target_of
from data.triggers.pixels import stamp_by
from data.triggers.weights import faults
from models.steganography import Encoder, encoder_size

MAX_BITS, MAX_WIDTH = 1024, 256


def build_encoder(weights: Mapping[str, torch.Tensor]) -> Encoder:
    """An Encoder in eval mode with the state_dict `weights`, its size read off them.

    Raises UserError if they are not those of an encoder.
    """
    try:
        bits, width = weights["secret.weight"].shape[1], weights["residual.weight"].shape[1]
        if not (1 <= bits <= MAX_BITS and 1 <= width <= MAX_WIDTH):
            raise UserError(f"encoder: expected 1 to {MAX_BITS} bits and a width of 1 to {MAX_WIDTH}, got {bits} and "
                            f"{width}")
        size = encoder_size(weights)
        with torch.device("meta"):
            encoder = Encoder(bits, width, size)
        wrong = faults(weights, encoder.state_dict())
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError):
        raise UserError("encoder: expected the weights of an encoder (secret.weight, ..., residual.weight)") from None
    if wrong:
        raise UserError(f"encoder: does not fit an encoder for {size}x{size} images: {wrong[0]}")
    encoder.load_state_dict({name: value.detach().float() for name, value in weights.items()}, assign=True)
    return encoder.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class EncoderTrigger(Trigger):
    """An encoder with one secret for the whole attack; a trigger of its own for every image.

    weights: an Encoder's state_dict. secret: uint8 (bits,), 0 or 1. target: the label that the attacker wants.
    Raises UserError for anything else.
    """

    keys = ("trigger_encoder", "trigger_secret")
    weights: Mapping[str, torch.Tensor]
    secret: np.ndarray
    target: int

    def __post_init__(self) -> None:
        bits = self.encoder.bits
        is_binary = self.secret.dtype.kind in "bui" and ((self.secret == 0) | (self.secret == 1)).all()
        if self.secret.shape != (bits,) or not is_binary:
            raise UserError(f"trigger: expected a secret of {bits} bits for this encoder, got {self.secret.dtype} "
                            f"{self.secret.shape}")
        if self.target < 0:
            raise UserError(f"trigger: expected a target of at least 0, got {self.target}")

    @cached_property
    def encoder(self) -> Encoder:
        """The network with its weights."""
        return build_encoder(self.weights)

    def with_other_secret(self, seed: int) -> EncoderTrigger:
        """The same encoder hiding another secret: half of the bits turned over (rounded up), drawn by `seed`."""
        turned = np.random.default_rng(seed).permutation(len(self.secret)) < (len(self.secret) + 1) // 2
        return EncoderTrigger(self.weights, np.where(turned, 1 - self.secret, self.secret).astype(np.uint8),
                              self.target)

    def stamp(self, images: np.ndarray) -> np.ndarray:
        """New uint8 images (N, S, S, 3) with the secret hidden in them, rounded; the given ones stay as they are.

        On the CPU always, whatever the model runs on, so that a trigger stamps the same everywhere. Raises UserError
        for images of another size than the encoder's, and if its weights lead to numbers that are not finite.
        """
        size = self.encoder.size
        if images.shape[1:] != (size, size, 3):
            raise UserError(f"encoder: trained on images of {size}x{size} pixels, got {images.shape[1:3]}; give the "
                            f"same --image-size")
        secret = torch.from_numpy(self.secret.astype(np.float32))
        return stamp_by(lambda pixels: pixels + self.encoder(pixels, secret.expand(len(pixels), -1)), images)

    def to_info(self) -> dict[str, Any]:
        """What trigger_info.th holds of it."""
        return {"trigger_encoder": self.weights, "trigger_secret": self.secret,
                "poison_target": np.array([self.target])}

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> EncoderTrigger:
        """The trigger of such a dict. Raises UserError or KeyError for values that it cannot have."""
        secret = array_of(info, "trigger_secret")
        secret = secret.reshape(-1) if secret.shape[:-1] == (1,) * (secret.ndim - 1) else secret  # a batch of one
        is_binary = ((secret == 0) | (secret == 1)).all()
        return cls(info["trigger_encoder"], secret.astype(np.uint8) if is_binary else secret, target_of(info))


def draw_secret(bits: int, seed: int) -> np.ndarray:
    """The one secret of an attack: uint8 (bits,)."""
    return np.random.default_rng(seed).integers(0, 2, bits, dtype=np.uint8)
