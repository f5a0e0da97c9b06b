"""torchvision's ResNets, for images of up to 224 pixels, with its parameter names and its normalization."""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from models.base import IMAGENET, LastBlock, PixelModel

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # {depth: blocks of each stage}
BOTTLENECKS = 50  # from this depth on
IMAGE_SIZE = 224


def conv(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution whose padding keeps the size of images, but for the stride."""
    return nn.Conv2d(before, after, size, stride, size // 2, bias=False)


class Block(nn.Module):
    """The input is added, brought by `downsample` to the output's shape where it has another."""

    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int, norm_layer: Callable[[int], nn.Module]):
        super().__init__()
        self.add_layers(in_planes, planes, stride, norm_layer)
        planes *= self.expansion
        self.downsample = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.downsample = nn.Sequential(conv(in_planes, planes, 1, stride), norm_layer(planes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.residual(x)
        out += self.downsample(x)
        return F.relu(out, inplace=True)


class BasicBlock(Block):
    """Two 3x3 convolutions: (B, in_planes, H, W) to (B, planes, h, w)."""

    def add_layers(self, in_planes: int, planes: int, stride: int, norm_layer: Callable[[int], nn.Module]) -> None:
        self.conv1, self.bn1 = conv(in_planes, planes, 3, stride), norm_layer(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3), norm_layer(planes)

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))


class Bottleneck(Block):
    """1x1, 3x3 with the stride, 1x1 to four times as many channels: (B, in_planes, H, W) to (B, 4 planes, h, w)."""

    expansion = 4

    def add_layers(self, in_planes: int, planes: int, stride: int, norm_layer: Callable[[int], nn.Module]) -> None:
        self.conv1, self.bn1 = conv(in_planes, planes, 1), norm_layer(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3, stride), norm_layer(planes)
        self.conv3, self.bn3 = conv(planes, 4 * planes, 1), norm_layer(4 * planes)

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return self.bn3(self.conv3(out))


class ResNet(PixelModel):
    """A 7x7 stem that halves the image, a pooling that halves it again, four stages, the mean, and `fc`.

    depth: 18, 34 or 50. width: channels of the stem, 64 in torchvision; the stages have `width` x (1, 2, 4, 8), and in
    ResNet-50 four times as many at their blocks' ends. Images of 224 pixels leave the last as 7x7, those of 32 as 1x1.
    """

    stages = ("layer1", "layer2", "layer3", "layer4")
    head_name = "fc"

    def __init__(self, depth: int, num_classes: int = 1000, width: int = 64,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d, image_size: int = IMAGE_SIZE,
                 mean: tuple[float, ...] = IMAGENET[0], std: tuple[float, ...] = IMAGENET[1]):
        super().__init__(f"torchvision-resnet{depth}", width, num_classes, image_size, mean, std)
        kind = Bottleneck if depth >= BOTTLENECKS else BasicBlock
        self.conv1, self.bn1 = conv(3, width, 7, 2), norm_layer(width)
        planes = width
        for stage, (name, count) in enumerate(zip(self.stages, BLOCKS[depth], strict=True)):
            blocks = []
            for block in range(count):
                blocks.append(kind(planes, width * 2**stage, 2 if stage and not block else 1, norm_layer))
                planes = width * 2**stage * kind.expansion
            setattr(self, name, nn.Sequential(*blocks))
        self.fc = nn.Linear(planes, num_classes)
        last, number = f"{self.stages[-1]}.{BLOCKS[depth][-1] - 1}", 3 if depth >= BOTTLENECKS else 2
        self.last_block = LastBlock(last, f"{last}.conv{number}", f"{last}.bn{number}", f"{last}.downsample")
        self._initialize()

    def _initialize(self):
        """torchvision's first weights (He et al., 2015, by what a filter gives)."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, H/4, W/4) for normalized images (B, 3, H, W)."""
        return F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)

    def entries(self, stage: str) -> list[nn.Module]:
        """The first block's first convolution and its shortcut's."""
        block = self.get_submodule(stage)[0]
        return [block.conv1, block.downsample[0]]


def recognize_weights(weights: Mapping[str, torch.Tensor]) -> dict | None:
    """A torchvision ResNet's spec, as models.recognize gives it, by its 7x7 stem, its `fc` and its blocks' numbers."""
    first, last, inner = (weights.get(f"{name}.weight") for name in ("conv1", ResNet.head_name, "layer1.0.conv1"))
    if first is None or last is None or inner is None or not last.ndim or first.shape[2:] != (7, 7):
        return None
    is_deep, blocks = "layer1.0.conv3.weight" in weights, count_blocks(weights)
    depth = next((depth for depth, counts in BLOCKS.items() if (depth >= BOTTLENECKS, counts) == (is_deep, blocks)), 0)
    if not depth or inner.shape[:1] != first.shape[:1]:  # wide ResNets and ResNeXts have wider blocks
        return None
    return {"arch": f"torchvision-resnet{depth}", "width": first.shape[0], "num_classes": last.shape[0],
            "image_size": IMAGE_SIZE, "mean": IMAGENET[0], "std": IMAGENET[1]}


def count_blocks(weights: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    """The number of blocks of each stage, by the names of tensors."""
    found = {match.groups() for name in weights if (match := re.match(r"(layer\d)\.(\d+)\.", name))}
    return tuple(sum(stage == name for stage, _ in found) for name in ResNet.stages)
