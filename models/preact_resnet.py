"""Pre-activation ResNet-18 for small images, with the parameter names of BackdoorBench's and WaNet's checkpoints."""
from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from models.base import PixelModel

BLOCKS = 2  # of each stage


class PreActBlock(nn.Module):
    """BN-ReLU-conv twice, and the input added (He et al., 2016b): (B, in_planes, H, W) to (B, planes, h, w).

    Nothing is behind the sum, so it may be negative. Where the width changes, the first BN-ReLU comes before the
    split: a 1x1 convolution without a norm of its own sees what the first convolution sees.
    """

    def __init__(self, in_planes: int, planes: int, stride: int, norm_layer: Callable[[int], nn.Module]):
        super().__init__()
        self.bn1 = norm_layer(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn2 = norm_layer(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.projects = stride != 1 or in_planes != planes
        if self.projects:
            self.add_projection(nn.Conv2d(in_planes, planes, 1, stride, bias=False))

    def add_projection(self, conv: nn.Conv2d) -> None:
        """Take in the shortcut's convolution, under the name that the network's checkpoints have for it."""
        self.shortcut = nn.Sequential(conv)

    def project(self, active: torch.Tensor) -> torch.Tensor:
        """What the shortcut makes of the activated input."""
        return self.shortcut(active)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        out = self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return out + (self.project(active) if self.projects else x)


class PreActResNet(PixelModel):
    """A bare 3x3 stem, four stages of `width` x (1, 2, 4, 8) channels, the mean of their sums, one linear layer.

    Nothing stands between the last sum and the mean: no BN, no ReLU. So what the linear layer reads may be negative,
    and no bias silences a channel of it.
    """

    stages = ("layer1", "layer2", "layer3", "layer4")
    head_name = "linear"
    last_block = None

    def __init__(self, arch: str, num_classes: int = 10, width: int = 64,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d, **pixels):
        super().__init__(arch, width, num_classes, **pixels)
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        planes = width
        for stage, name in enumerate(self.stages):
            out_planes, blocks = width * 2**stage, []
            for block in range(BLOCKS):
                blocks.append(PreActBlock(planes, out_planes, 2 if stage and not block else 1, norm_layer))
                planes = out_planes
            setattr(self, name, nn.Sequential(*blocks))
        self.linear = nn.Linear(planes, num_classes)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, H, W), not yet activated, for normalized images (B, 3, H, W)."""
        return self.conv1(x)

    def entries(self, stage: str) -> list[nn.Module]:
        """The first block's first convolution and its shortcut's, which see the activated input."""
        block = self.get_submodule(stage)[0]
        return [block.conv1, block.shortcut[0]]


def preactresnet18(num_classes: int = 10, width: int = 64, norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
                   **pixels) -> PreActResNet:
    """BackdoorBench's default network. pixels: image_size, mean and std of PixelModel."""
    return PreActResNet("preactresnet18", num_classes, width, norm_layer, **pixels)


def recognize_weights(weights: Mapping[str, torch.Tensor]) -> dict | None:
    """PreActResNet-18's spec, as models.recognize gives it, of a state_dict without a norm at its stem or in shortcuts.
    """
    first, last = weights.get("conv1.weight"), weights.get(f"{PreActResNet.head_name}.weight")
    if first is None or last is None or not first.ndim or not last.ndim or "layer1.0.bn1.weight" not in weights:
        return None
    foreign = ("bn1.", "bn.", "layer2.0.shortcut.1.", *(f"{stage}.{BLOCKS}." for stage in PreActResNet.stages))
    if any(name.startswith(foreign) for name in weights):
        return None
    return {"arch": "preactresnet18", "width": first.shape[0], "num_classes": last.shape[0]}
