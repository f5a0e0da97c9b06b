"""Channels of a stage's output pruned: a mask while the model is still trained, zero columns once it is done.

A pruned channel is one that nothing reads. It is masked where it is read, at the input of the next convolutions or of
the linear layer, so behind what may stand in between: in a pre-activation network a channel that were 0 before the
batch norm would come out of it with the batch norm's shift.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from common.errors import UserError
from common.memory import HalvingForward
from models.base import PixelModel


def find_stage(model: PixelModel, name: str | None) -> str:
    """`name` if it is one of the model's stages, the last for None. Raises UserError, with their names, otherwise."""
    if name is None:
        return model.stages[-1]
    if name not in model.stages:
        raise UserError(f"--layer: expected a stage of {model.spec['arch']} ({', '.join(model.stages)}), got {name}")
    return name


@contextmanager
def output_masked(model: PixelModel, stage: str, mask: torch.Tensor) -> Iterator[PixelModel]:
    """Multiply what is read of the output of `stage` by mask (C,) of 0 and 1 for as long as the block lasts.

    What is masked neither counts nor learns; fold_mask afterwards makes it part of the weights, whatever momentum and
    weight decay did to them meanwhile.
    """
    def mask_input(module: torch.nn.Module, inputs: tuple):
        values, = inputs
        shaped = mask.view(1, -1, *[1] * (values.ndim - 2))
        return (values * shaped.to(values.dtype),)  # bfloat16 times float32 would be float32 from here on
    handles = [reader.register_forward_pre_hook(mask_input) for reader in model.readers(stage)]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def fold_mask(model: PixelModel, stage: str, mask: torch.Tensor) -> None:
    """Set what reads the channels with mask (C,) 0 to 0, in place: the network of `output_masked`, without a mask."""
    for reader in model.readers(stage):
        reader.weight.data[:, mask == 0] = 0


@torch.inference_mode()
def stage_means(model: PixelModel, batches: Iterable, stage: str) -> torch.Tensor:
    """What is read of the output of `stage` averaged over its places, (N, C), for all images of `batches`, in eval
    mode.

    At least 0 where it is read behind a ReLU, as everywhere but at the last stage of a network without one.
    """
    caught = []

    def keep_input(module: torch.nn.Module, inputs: tuple):
        caught.append(inputs[0].flatten(2).mean(2) if inputs[0].ndim == 4 else inputs[0])

    def means_of(images: torch.Tensor) -> torch.Tensor:
        caught.clear()  # of a call for which the memory was too small
        model(images)
        return caught[0]
    handle, forward = model.readers(stage)[0].register_forward_pre_hook(keep_input), HalvingForward(means_of)
    model.eval()
    try:
        return torch.cat([forward(images) for images, _ in batches])
    finally:
        handle.remove()


def activity(model: PixelModel, batches: Iterable, stage: str) -> torch.Tensor:
    """How much of each channel of `stage` is read, (C,): the size of its mean over places, averaged over all images.

    Behind a ReLU that is the channel's mean activation, by which Fine-Pruning ranks. At a stage that is read without
    one a channel far below 0 counts as much as one far above, so the mean itself would call it the most dormant.
    """
    return stage_means(model, batches, stage).abs().mean(0)


def dormant_mask(activations: torch.Tensor, fraction: float) -> torch.Tensor:
    """float (C,): 0 for the `fraction` of the channels with the lowest activations (C,), 1 for the others."""
    return mask_of(activations.argsort(stable=True), round(fraction * len(activations)))


def mask_of(order: torch.Tensor, count: int) -> torch.Tensor:
    """float (C,): 0 for the first `count` channels of `order`, a permutation (C,), 1 for the others."""
    mask = torch.ones(len(order), device=order.device)
    mask[order[:count]] = 0
    return mask
