"""The face that every network has, so that no attack and no defense names a layer of one."""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError

# The homework's constants. The true pixel deviations are larger (about 0.247, 0.243, 0.262), but every
# published checkpoint of this family was trained with these, so a stranger's model needs them too.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)
IMAGE_SIZE = 32  # pixels a side, of a network that does not say; CIFAR-10's
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std that torchvision's networks were trained with


class LastBlock(NamedTuple):
    """Names of submodules: the last stage's last block, and what the channels that the head reads are made of.

    conv: its last convolution. norm: the batch norm behind it, and before the last ReLU, which takes what norm gives
    plus shortcut(the block's input); shortcut is None where nothing is added behind norm.
    """

    block: str
    conv: str
    norm: str
    shortcut: str | None = None


class PixelModel(nn.Module):
    """A network that takes pixels in [0, 1], float (B, 3, H, W), and returns logits (B, num_classes).

    Normalization by its own mean and std is its first step, so that every attack and defense works on pixels. The two
    constants belong to `spec` and not to the state_dict, whose keys stay those of the well-known network. A subclass
    sets `stages`, `head_name` and `last_block`, and defines `stem` and `readers`; `tail` where something stands between
    the last stage and the mean over places.

    stages: names of submodules that images pass one after another, each of which gives a stage's output. head_name: of
    the linear layer behind them. last_block: None for a network without a ReLU behind the last stage, whose channels no
    bias can silence. smallest: pixels a side of the smallest images that pass.

    spec: {"arch", "width", "num_classes", "image_size", "mean", "std"}, plain values from which models.build_model
    makes the same network; width is None for a network that has one size. image_size: pixels a side of the images that
    it was made for; others pass too. Raises UserError for fewer than `smallest`.
    """

    stages: tuple[str, ...]
    head_name: str
    last_block: LastBlock | None
    smallest: int = 1

    def __init__(self, arch: str, width: int | None, num_classes: int, image_size: int = IMAGE_SIZE,
                 mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD):
        super().__init__()
        self.check_size(arch, image_size)
        mean, std = (tuple(float(value) for value in values) for values in (mean, std))
        self.spec = {"arch": arch, "width": width, "num_classes": num_classes, "image_size": image_size, "mean": mean,
                     "std": std}
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def check_size(cls, arch: str, image_size: int) -> None:
        """UserError for images that are too small for the network's pooling; `arch` is its name."""
        if image_size < cls.smallest:
            raise UserError(f"{arch}: takes images of at least {cls.smallest} pixels a side, got {image_size}; see "
                            "--image-size")

    def take_size(self, image_size: int) -> None:
        """From here on the network is one for images of so many pixels a side, and says so where it is saved. Raises
        UserError as check_size does."""
        self.check_size(self.spec["arch"], image_size)
        self.spec["image_size"] = image_size

    @property
    def head(self) -> nn.Linear:
        """The linear layer that makes logits of the features."""
        return self.get_submodule(self.head_name)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        """What the first stage takes, for normalized images (B, 3, H, W)."""
        raise NotImplementedError

    def tail(self, x: torch.Tensor) -> torch.Tensor:
        """What the head averages over places, (B, C, h, w), for the last stage's output (B, C, h, w): the same."""
        return x

    def readers(self, stage: str) -> list[nn.Module]:
        """The convolutions or the linear layer whose input channels are the output of `stage`; nothing else reads it.

        Between the two may stand what keeps channels apart: pooling, or in a pre-activation network BN and ReLU.
        By default the head behind the last stage, and the `entries` of the next one elsewhere. Raises ValueError for a
        stage that the network does not have.
        """
        index = self.stages.index(stage)
        return [self.head] if index == len(self.stages) - 1 else self.entries(self.stages[index + 1])

    def entries(self, stage: str) -> list[nn.Module]:
        """The convolutions that read the input of `stage`."""
        raise NotImplementedError

    def stage_outputs(self, x: torch.Tensor, count: int) -> list[torch.Tensor]:
        """The outputs (B, C, h, w) of the first `count` stages for pixels (B, 3, H, W); of sums, before BN and ReLU, in
        a pre-activation network."""
        outputs, x = [], self.stem((x - self.mean) / self.std)
        for name in self.stages[:count]:
            x = self.pass_stage(name, x)
            outputs.append(x)
        return outputs

    def pass_stage(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The output of the stage `name` for that of the one before; where a stage is more than the submodule of its
        name, which then is its last layer, a subclass says what it is."""
        return self.get_submodule(name)(x)

    def feature_maps(self, x: torch.Tensor) -> torch.Tensor:
        """What the head averages over places, (B, C, h, w), for pixels (B, 3, H, W)."""
        x = self.stem((x - self.mean) / self.std)
        for name in self.stages:
            x = self.pass_stage(name, x)
        return self.tail(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.adaptive_avg_pool2d(self.feature_maps(x), 1).flatten(1))
