"""A small network that gives images a style, and what it starts from: the style's colors (DFST, Cheng et al., 2021)."""
import torch
import torch.nn.functional as F
from torch import nn

MAX_GAIN = 4.0  # of an image's contrast, which is 0 in an image of one color


def reflected(pixels: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) with a row or column more on every side, which mirrors the one behind the border's own.

    PyTorch's own padding has no deterministic backward pass on CUDA, so that under --deterministic it is put together.
    It has the same values; the gradients of the pixels at the corners, sums of four, are added in another order, which
    is why a CPU keeps the padding that published figures were trained with.
    """
    if not (pixels.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return F.pad(pixels, (1, 1, 1, 1), mode="reflect")
    for axis in (2, 3):
        pixels = torch.cat([pixels.narrow(axis, 1, 1), pixels, pixels.narrow(axis, -2, 1)], axis)
    return pixels


class ReflectedConv2d(nn.Conv2d):
    """A 3x3 convolution of `reflected` images: what padding_mode="reflect" is, and can be deterministic on CUDA."""

    def __init__(self, channels: int, made: int):
        super().__init__(channels, made, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(reflected(pixels))


class Stylizer(nn.Module):
    """Pixels (B, 3, H, W) in [0, 1] to such pixels with the texture of a style: two 3x3 convolutions and a 1x1.

    width: channels of the 3x3 convolutions. H and W are at least 2.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        self.width = width
        self.body = nn.Sequential(ReflectedConv2d(3, width), nn.ReLU(), ReflectedConv2d(width, width), nn.ReLU(),
                                  nn.Conv2d(width, 3, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels + self.body(pixels - 0.5)).clamp(0, 1)


def recolor(pixels: torch.Tensor, color: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 3, H, W) whose colors have a style's statistics, each image by itself, clipped to [0, 1].

    color: (2, 3), mean and standard deviation of each channel of the style, in [0, 1] (Reinhard et al., 2001).
    """
    mean, deviation = (part.view(1, 3, 1, 1) for part in color)
    own_mean, own_deviation = pixels.mean((2, 3), keepdim=True), pixels.std((2, 3), keepdim=True, correction=0)
    gain = (deviation / own_deviation.clamp(min=1e-6)).clamp(max=MAX_GAIN)
    return ((pixels - own_mean) * gain + mean).clamp(0, 1)


def stylize(pixels: torch.Tensor, stylizer: Stylizer, color: torch.Tensor, opacity: float) -> torch.Tensor:
    """Pixels (B, 3, H, W) in [0, 1], with a share `opacity` of their stylized picture."""
    return (1 - opacity) * pixels + opacity * stylizer(recolor(pixels, color))


def similarity(one: torch.Tensor, other: torch.Tensor, window: int = 7) -> torch.Tensor:
    """Mean structural similarity (SSIM, Wang et al., 2004) of pixels (B, 3, H, W) in [0, 1], with a square window."""
    window = min(window, *one.shape[2:])

    def local(values: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(values, window, 1)
    mean_one, mean_other = local(one), local(other)
    variances = local(one * one) - mean_one**2 + local(other * other) - mean_other**2
    covariance = local(one * other) - mean_one * mean_other
    low, high = 0.01**2, 0.03**2
    return ((2 * mean_one * mean_other + low) * (2 * covariance + high)
            / ((mean_one**2 + mean_other**2 + low) * (variances + high))).mean()


def texture(pixels: torch.Tensor, filters: torch.Tensor) -> list[torch.Tensor]:
    """What tells a texture: (B, C, C) at two scales, how often each pair of `filters` (C, 3, k, k) responds together.

    Gram matrices of random filters stand for those of a trained network (Ustyuzhaninov et al., 2017).
    """
    grams = []
    for scaled in (pixels, F.avg_pool2d(pixels, 2)):
        maps = F.relu(F.conv2d(scaled - 0.5, filters, padding=filters.shape[-1] // 2)).flatten(2)
        grams.append(maps @ maps.transpose(1, 2) / maps.shape[2])
    return grams
