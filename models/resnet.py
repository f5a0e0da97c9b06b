"""ResNet-18 for small images, with the parameter names that the field's CIFAR checkpoints use."""
from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from models.base import LastBlock, PixelModel

BLOCKS = (2, 2, 2, 2)  # of ResNet-18's four stages


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016, Fig. 5 left): (B, in_planes, H, W) to (B, planes, h, w)."""

    def __init__(self, in_planes: int, planes: int, stride: int, norm_layer: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = norm_layer(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = norm_layer(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False), norm_layer(planes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class ResNet(PixelModel):
    """A CIFAR ResNet: 3x3 stem, four stages of `width` x (1, 2, 4, 8) channels, mean over places, one linear layer.

    The stages halve the image three times, each ends in a ReLU; images of 32 pixels leave the last as 4x4. blocks: how
    many each stage has. pixels: image_size, mean and std of PixelModel.
    """

    stages = ("layer1", "layer2", "layer3", "layer4")
    head_name = "linear"

    def __init__(self, arch: str, blocks: tuple[int, ...], num_classes: int = 10, width: int = 64,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d, **pixels):
        super().__init__(arch, width, num_classes, **pixels)
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = norm_layer(width)
        planes = width
        for stage, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            out_planes, layers = width * 2**stage, []
            for block in range(count):
                layers.append(BasicBlock(planes, out_planes, 2 if stage and not block else 1, norm_layer))
                planes = out_planes
            setattr(self, name, nn.Sequential(*layers))
        self.linear = nn.Linear(planes, num_classes)
        last = f"{self.stages[-1]}.{blocks[-1] - 1}"
        self.last_block = LastBlock(last, f"{last}.conv2", f"{last}.bn2", f"{last}.shortcut")

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, H, W) after its ReLU, for normalized images (B, 3, H, W)."""
        return F.relu(self.bn1(self.conv1(x)), inplace=True)

    def entries(self, stage: str) -> list[nn.Module]:
        """The first block's first convolution and its shortcut's."""
        block = self.get_submodule(stage)[0]
        return [block.conv1, block.shortcut[0]]


def resnet18(num_classes: int = 10, width: int = 64, norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
             **pixels) -> ResNet:
    """The homework's model: 2 blocks a stage, 4,800 batch-norm channels at width 64. pixels: see ResNet."""
    return ResNet("resnet18", BLOCKS, num_classes, width, norm_layer, **pixels)


def recognize_weights(weights: Mapping[str, torch.Tensor]) -> dict | None:
    """ResNet-18's spec, as models.recognize gives it, of a state_dict with its first, its last and no third blocks.

    Pre-activation networks have a norm neither at the stem nor in their shortcuts.
    """
    first, last = weights.get("conv1.weight"), weights.get(f"{ResNet.head_name}.weight")
    third = tuple(f"{stage}.{count}." for stage, count in zip(ResNet.stages, BLOCKS, strict=True))
    if first is None or last is None or not first.ndim or not last.ndim or any(
            name.startswith(third) for name in weights):
        return None
    norms = ("bn1.", "layer2.0.shortcut.1.")
    if "layer1.0.bn1.weight" in weights and not any(name.startswith(norms) for name in weights):
        return None
    return {"arch": "resnet18", "width": first.shape[0], "num_classes": last.shape[0]}
