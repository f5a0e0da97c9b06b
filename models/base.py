"""The face that every network has, so that no attack and no defense names a layer of one."""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

# The homework's constants. The true pixel deviations are larger (about 0.247, 0.243, 0.262), but every
# published checkpoint of this family was trained with these, so a stranger's model needs them too.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)
IMAGE_SIZE = 32  # pixels a side, of a network that does not say; CIFAR-10's


class LastBlock(NamedTuple):
    """Names of submodules: the block whose output is the last stage's, and what its channels are made of.

    Before its ReLU the output is norm(conv(...)) plus shortcut(the block's input); shortcut is None where nothing is
    added.
    """

    block: str
    conv: str
    norm: str
    shortcut: str | None = None


class PixelModel(nn.Module):
    """A network that takes pixels in [0, 1], float (B, 3, H, W), and returns logits (B, num_classes).

    Normalization by its own mean and std is its first step, so that every attack and defense works on pixels. The two
    constants belong to `spec` and not to the state_dict, whose keys stay those of the well-known network. A subclass
    sets `stages`, `head_name` and `last_block`, and defines `stem` and `readers`.

    stages: names of the submodules that images pass one after another. head_name: of the linear layer behind them.
    spec: {"arch", "width", "num_classes", "image_size", "mean", "std"}, plain values from which models.build_model
    makes the same network; width is None for a network that has one size. image_size: pixels a side of the images that
    it was made for; others pass too if its pooling allows them.
    """

    stages: tuple[str, ...]
    head_name: str
    last_block: LastBlock

    def __init__(self, arch: str, width: int | None, num_classes: int, image_size: int = IMAGE_SIZE,
                 mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD):
        super().__init__()
        mean, std = (tuple(float(value) for value in values) for values in (mean, std))
        self.spec = {"arch": arch, "width": width, "num_classes": num_classes, "image_size": image_size, "mean": mean,
                     "std": std}
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def head(self) -> nn.Linear:
        """The linear layer that makes logits of the features."""
        return self.get_submodule(self.head_name)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """What the first stage takes, for normalized images (B, 3, H, W)."""
        raise NotImplementedError

    def readers(self, stage: str) -> list[nn.Parameter]:
        """The weights whose second axis is the channels of the output of `stage`; nothing else reads it.

        Raises ValueError for a stage that the network does not have.
        """
        raise NotImplementedError

    def stage_outputs(self, x: torch.Tensor, count: int) -> list[torch.Tensor]:
        """The outputs (B, C, h, w) of the first `count` stages for pixels (B, 3, H, W)."""
        outputs, x = [], self.stem((x - self.mean) / self.std)
        for name in self.stages[:count]:
            x = self.get_submodule(name)(x)
            outputs.append(x)
        return outputs

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the last stage, (B, C, h, w), for pixels (B, 3, H, W)."""
        x = self.stem((x - self.mean) / self.std)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
