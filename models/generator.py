"""A U-shaped generator of triggers: an image to a picture of its size (Nguyen & Tran, 2020)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

LEVELS = 3  # times that an image is halved, and then doubled again
MOMENTUM = 0.05  # of the batch norms, as published


def block(before: int, after: int) -> list[nn.Module]:
    """A 3x3 convolution with batch norm and ReLU: (B, before, H, W) to (B, after, H, W)."""
    return [nn.Conv2d(before, after, 3, 1, 1), nn.BatchNorm2d(after, momentum=MOMENTUM), nn.ReLU(inplace=True)]


class Generator(nn.Module):
    """Pixels (B, 3, H, W) in [0, 1] to a picture (B, `channels`, H, W) in (0, 1).

    `width` channels at the first level, then twice and four times as many; no skips from one side to the other. H and W
    are multiples of 8.
    """

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        sizes, layers, before = [width * 2**level for level in range(LEVELS)], [], 3
        for size in sizes:
            layers += [*block(before, size), *block(size, size), nn.MaxPool2d(2)]
            before = size
        layers += block(before, before)
        for size in (*sizes[-2::-1], channels):
            layers += [nn.Upsample(scale_factor=2, mode="bilinear"), *block(before, before), *block(before, size)]
            before = size
        layers.pop()  # the last picture has no ReLU
        self.body = nn.Sequential(*layers)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.body(2 * pixels - 1)) / 2 + 0.5


def harden(mask: torch.Tensor) -> torch.Tensor:
    """A mask's values in (0, 1), nearly 0 or 1 where they were on either side of a half."""
    return torch.tanh(20 * (mask - 0.5)) / 2 + 0.5


def lay_over(pixels: torch.Tensor, pictures: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 3, H, W) with pictures like them where masks (B, 1, H, W) are 1."""
    return pixels + (pictures - pixels) * masks


def rms_distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The root mean squared difference of each pair of (B, C, H, W): float32 (B,)."""
    return F.mse_loss(one.float(), other.float(), reduction="none").mean((1, 2, 3)).clamp(min=1e-12).sqrt()
