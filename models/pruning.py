"""Channels of a stage's output pruned: a mask while the model is still trained, zero columns once it is done."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from common.errors import UserError
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
    """Multiply the output of `stage`, after its ReLU, by mask (C,) of 0 and 1 for as long as the block lasts.

    What is masked neither counts nor learns; fold_mask afterwards makes it part of the weights, whatever momentum and
    weight decay did to them meanwhile.
    """
    shaped = mask.view(1, -1, 1, 1)

    def mask_output(module: torch.nn.Module, inputs: tuple, output: torch.Tensor):
        return output * shaped.to(output.dtype)  # bfloat16 times float32 would be float32 from here on
    handle = model.get_submodule(stage).register_forward_hook(mask_output)
    try:
        yield model
    finally:
        handle.remove()


def fold_mask(model: PixelModel, stage: str, mask: torch.Tensor) -> None:
    """Set what reads the channels with mask (C,) 0 to 0, in place: the network of `output_masked`, without a mask."""
    for weight in model.readers(stage):
        weight.data[:, mask == 0] = 0


@torch.inference_mode()
def stage_means(model: PixelModel, batches: Iterable, stage: str) -> torch.Tensor:
    """The output of `stage` averaged over its places, (N, C), for all images of `batches`, in eval mode."""
    means = []
    handle = model.get_submodule(stage).register_forward_hook(
        lambda module, inputs, output: means.append(output.mean((2, 3))))
    model.eval()
    try:
        for images, _ in batches:
            model(images)
    finally:
        handle.remove()
    return torch.cat(means)


def dormant_mask(activations: torch.Tensor, fraction: float) -> torch.Tensor:
    """float (C,): 0 for the `fraction` of the channels with the lowest activations (C,), 1 for the others."""
    return mask_of(activations.argsort(stable=True), round(fraction * len(activations)))


def mask_of(order: torch.Tensor, count: int) -> torch.Tensor:
    """float (C,): 0 for the first `count` channels of `order`, a permutation (C,), 1 for the others."""
    mask = torch.ones(len(order), device=order.device)
    mask[order[:count]] = 0
    return mask
