"""Wide ResNets for small images (Zagoruyko & Komodakis, 2016), with the parameter names of the field's checkpoints."""
from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from models.base import LastBlock, PixelModel
from models.preact_resnet import PreActBlock

NOT_NORMALIZED = {"mean": (0.0,) * 3, "std": (1.0,) * 3}  # what the published checkpoints of NAD and ABL take


class Block(PreActBlock):
    """The same, whose 1x1 convolution has another name."""

    def add_projection(self, conv: nn.Conv2d) -> None:
        self.convShortcut = conv

    def project(self, active: torch.Tensor) -> torch.Tensor:
        return self.convShortcut(active)


class Stage(nn.Module):
    """Blocks one after another, called `layer` as in the field's checkpoints."""

    def __init__(self, *blocks: Block):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class WideResNet(PixelModel):
    """WRN-depth-factor: a stem of 16 channels, three stages of `factor` x (16, 32, 64), a last BN and ReLU, the mean.

    depth: 6n + 4, for n blocks a stage. The stages' outputs are sums, before any BN or ReLU: what NAD and ABL read.
    """

    stages = ("block1", "block2", "block3")
    head_name = "fc"

    def __init__(self, depth: int, factor: int, num_classes: int = 10,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d, **pixels):
        super().__init__(f"wrn{depth}-{factor}", None, num_classes, **pixels)
        count, planes = (depth - 4) // 6, 16
        self.conv1 = nn.Conv2d(3, planes, 3, 1, 1, bias=False)
        for stage, name in enumerate(self.stages):
            out_planes, blocks = 16 * factor * 2**stage, []
            for block in range(count):
                blocks.append(Block(planes, out_planes, 2 if stage and not block else 1, norm_layer))
                planes = out_planes
            setattr(self, name, Stage(*blocks))
        self.bn1 = norm_layer(planes)
        self.fc = nn.Linear(planes, num_classes)
        last = f"{self.stages[-1]}.layer.{count - 1}"
        self.last_block = LastBlock(last, f"{last}.conv2", "bn1")
        self._initialize()

    def _initialize(self):
        """The published code's first weights (He et al., 2015, by what a filter gives)."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels)))
        nn.init.zeros_(self.fc.bias)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 16, H, W), not yet activated, for normalized images (B, 3, H, W)."""
        return self.conv1(x)

    def tail(self, x: torch.Tensor) -> torch.Tensor:
        """The last BN and ReLU."""
        return F.relu(self.bn1(x), inplace=True)

    def entries(self, stage: str) -> list[nn.Module]:
        """The first block's first convolution and its shortcut's, which see the activated input."""
        block = self.get_submodule(stage).layer[0]
        return [block.conv1, block.convShortcut]


def recognize_weights(weights: Mapping[str, torch.Tensor]) -> dict | None:
    """A wide ResNet's spec, as models.recognize gives it, by its first and last layers and the number of its blocks."""
    first, last = weights.get("block1.layer.0.conv1.weight"), weights.get(f"{WideResNet.head_name}.weight")
    if first is None or last is None or not first.ndim or not last.ndim or "conv1.weight" not in weights:
        return None
    blocks = {match[1] for name in weights if (match := re.match(r"block1\.layer\.(\d+)\.", name))}
    return {"arch": f"wrn{6 * len(blocks) + 4}-{max(first.shape[0] // 16, 1)}", "num_classes": last.shape[0],
            **NOT_NORMALIZED}
