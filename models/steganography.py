"""An encoder that hides a bit string in an image, and a decoder that reads it (Li et al., 2021, after StegaStamp)."""
from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError

HALVED = 16  # how many times smaller the lowest level is; sizes are multiples of it
MAX_WEIGHTS = 2**26  # of the layer that spreads the bits over the image; 61,440 for 20 bits and 32 pixels


def check_size(size: int) -> int:
    """`size`, pixels a side of images that both networks take. Raises UserError unless it is a multiple of HALVED."""
    if size < HALVED or size % HALVED:
        raise UserError(f"an encoder takes images whose sides are multiples of {HALVED} pixels, got {size}")
    return size


def encoder_size(weights: Mapping[str, torch.Tensor]) -> int:
    """Pixels a side of the images that the Encoder with the state_dict `weights` takes.

    Raises UserError for no square whose sides are multiples of HALVED and for more than MAX_WEIGHTS, which a stranger's
    file can claim without holding them; KeyError or IndexError for other weights.
    """
    if weights["secret.weight"].numel() > MAX_WEIGHTS:
        raise UserError(f"encoder: expected at most {MAX_WEIGHTS} weights in secret.weight, got "
                        f"{weights['secret.weight'].numel()}")
    return check_size(math.isqrt(weights["secret.weight"].shape[0] // 3))


class Encoder(nn.Module):
    """A U-Net of four strided convolutions: pixels (B, 3, S, S) in [0, 1] and bits (B, `bits`) to a residual.

    `width` is the channels of the first two levels, then twice, four and eight times as many. size: S, a multiple of
    16. Without batch norm, so that what is hidden in one image does not depend on what else is in the batch. Raises
    UserError for another size.
    """

    def __init__(self, bits: int, width: int = 16, size: int = 32):
        super().__init__()
        self.bits, self.width, self.size = bits, width, check_size(size)
        self.secret = nn.Linear(bits, 3 * size * size)
        channels = (width, width, 2 * width, 4 * width, 8 * width)
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 3, 2 if level else 1, 1)
            for level, (before, after) in enumerate(zip((6, *channels[:-1]), channels, strict=True)))
        self.up = nn.ModuleList(nn.Conv2d(before, after, 3, 1, 1)
                                for before, after in zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.join = nn.ModuleList(nn.Conv2d(2 * channel, channel, 3, 1, 1) for channel in channels[-2::-1])
        self.residual = nn.Conv2d(width, 3, 1)

    def forward(self, pixels: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
        """The residual (B, 3, S, S) that hides `bits`, float 0 or 1, once it is added to the pixels."""
        plane = F.relu(self.secret(bits - 0.5)).view(-1, 3, self.size, self.size)
        x, levels = torch.cat([plane, pixels - 0.5], 1), []
        for conv in self.down:
            x = F.relu(conv(x))
            levels.append(x)
        for up, join, skip in zip(self.up, self.join, levels[-2::-1], strict=True):
            x = F.relu(up(F.interpolate(x, scale_factor=2)))
            x = F.relu(join(torch.cat([skip, x], 1)))
        return self.residual(x)


class Decoder(nn.Module):
    """Seven convolutions, four of them strided, and two linear layers: pixels (B, 3, S, S) to bits' logits.

    bits, width and size as of the Encoder. Raises UserError unless size is a multiple of 16.
    """

    def __init__(self, bits: int, width: int = 16, size: int = 32):
        super().__init__()
        places = (check_size(size) // HALVED) ** 2
        layers, before = [], 3
        for after, stride in ((1, 2), (1, 1), (2, 2), (2, 1), (4, 2), (4, 2), (4, 1)):
            layers += [nn.Conv2d(before, after * width, 3, stride, 1, bias=False), nn.BatchNorm2d(after * width),
                       nn.ReLU(inplace=True)]
            before = after * width
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * places, 512), nn.ReLU(inplace=True))
        self.bits = nn.Linear(512, bits)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (B, bits): positive where a 1 is read."""
        return self.bits(self.body(pixels - 0.5))
