"""Batch norm statistics estimated anew, for a model whose weights are not those that its own were collected with.

MCR does so at each place of its curve, and `prune_network.py --recalibrate` after pruning. The images are augmented as
in training: crops have black borders, which shift the statistics of every layer, and a model that was trained on crops
loses points of accuracy with the statistics of whole images.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.optim.swa_utils import update_bn

from data.batches import Batches
from data.image_set import ImageSet
from models.base import PixelModel


class StatisticsBatches:
    """Iterate over (images, labels) of an ImageSet for update_bn; every pass has the same images and the same draws.

    Sizes of batches are at most `batch_size` and differ by one at most, since update_bn weights batches alike.
    `crop_padding` and `flip` are those of Batches, `seed` decides their draws.
    """

    def __init__(self, images: ImageSet, batch_size: int, device: torch.device | str, crop_padding: int, flip: bool,
                 seed: int) -> None:
        self.seed, self.generator = seed, torch.Generator()
        parts = np.array_split(np.arange(len(images)), math.ceil(len(images) / batch_size))
        self.parts = [Batches(images.subset(part), len(part), device, self.generator, crop_padding, flip)
                      for part in parts]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.generator.manual_seed(self.seed)
        for part in self.parts:
            yield from part


def recalibrated(model: PixelModel, batches: StatisticsBatches) -> PixelModel:
    """A copy of the model in eval mode whose batch norms' statistics are those of `batches`, the mean over batches."""
    model = copy.deepcopy(model)
    update_bn(batches, model)
    return model.eval()
