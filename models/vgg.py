"""VGG-19 with batch norm for small images: its classifier is one linear layer, as in the field's CIFAR checkpoints."""
from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import nn

from models.base import LastBlock, PixelModel

GROUPS = ((2, 1), (2, 2), (4, 4), (4, 8), (4, 8))  # VGG-19's: (convolutions, width in units of the first), a pooling
LAYERS = 3  # of a convolution: itself, its norm, its ReLU


def group_ends() -> list[int]:
    """The places in `features` of the poolings that end the five groups: 6, 13, 26, 39 and 52."""
    ends = []
    for count, _ in GROUPS:
        ends.append((ends[-1] + 1 if ends else 0) + LAYERS * count)
    return ends


ENDS = group_ends()


class VGG(PixelModel):
    """Five groups of 3x3 convolutions of `width` x (1, 2, 4, 8, 8) channels and a pooling, the mean, and `classifier`.

    A stage is a group, and has the name of its pooling. Images of 32 pixels leave the last as 1x1, smaller ones have no
    pixel left for the last pooling.
    """

    stages = tuple(f"features.{end}" for end in ENDS)
    head_name = "classifier"
    last_block = LastBlock(stages[-1], f"features.{ENDS[-1] - 3}", f"features.{ENDS[-1] - 2}")
    smallest = 32

    def __init__(self, arch: str, num_classes: int = 10, width: int = 64,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d, **pixels):
        super().__init__(arch, width, num_classes, **pixels)
        layers, planes = [], 3
        for count, factor in GROUPS:
            for _ in range(count):
                conv, planes = nn.Conv2d(planes, factor * width, 3, 1, 1), factor * width
                layers += [conv, norm_layer(planes), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(planes, num_classes)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """The same: the first group takes the normalized images."""
        return x

    def pass_stage(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The output (B, C, H/2, W/2) of a group."""
        index = self.stages.index(name)
        for place in range(ENDS[index - 1] + 1 if index else 0, ENDS[index] + 1):
            x = self.features[place](x)
        return x

    def readers(self, stage: str) -> list[nn.Module]:
        """The next group's first convolution; the linear layer for the last."""
        index = self.stages.index(stage)
        return [self.classifier if index == len(ENDS) - 1 else self.features[ENDS[index] + 1]]


def vgg19_bn(num_classes: int = 10, width: int = 64, norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
             **pixels) -> VGG:
    """VGG-19 with batch norm. pixels: image_size, mean and std of PixelModel."""
    return VGG("vgg19_bn", num_classes, width, norm_layer, **pixels)


def recognize_weights(weights: Mapping[str, torch.Tensor]) -> dict | None:
    """VGG-19's spec, as models.recognize gives it, by its last batch norm's place and its one linear layer."""
    first, last = weights.get("features.0.weight"), weights.get(f"{VGG.head_name}.weight")
    places = {int(match[1]) for name in weights if (match := re.match(r"features\.(\d{1,4})\.", name))}
    if first is None or last is None or not first.ndim or not last.ndim or max(places) != ENDS[-1] - 2:
        return None
    return {"arch": "vgg19_bn", "width": first.shape[0], "num_classes": last.shape[0]}
