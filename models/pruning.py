"""Channels of a stage's output pruned: a mask while the model is still trained, zero columns once it is done."""
from contextlib import contextmanager

import torch

STAGES = ("layer1", "layer2", "layer3", "layer4")


@contextmanager
def output_masked(model, stage, mask):
    """Multiply the output of `stage`, after its ReLU, by mask (C,) of 0 and 1 for as long as the block lasts.

    What is masked neither counts nor learns; fold_mask afterwards makes it part of the weights, whatever momentum and
    weight decay did to them meanwhile.
    """
    shaped = mask.view(1, -1, 1, 1)

    def mask_output(module, inputs, output):
        return output * shaped.to(output.dtype)  # bfloat16 times float32 would be float32 from here on
    handle = model.get_submodule(stage).register_forward_hook(mask_output)
    try:
        yield model
    finally:
        handle.remove()


def readers(model, stage):
    """The weights whose second axis is the channels of the output of `stage`; nothing else reads it."""
    if stage == STAGES[-1]:
        return [model.linear.weight]
    block = model.get_submodule(STAGES[STAGES.index(stage) + 1])[0]
    return [block.conv1.weight, block.shortcut[0].weight]


def fold_mask(model, stage, mask):
    """Set what reads the masked channels to 0, in place: the network of `output_masked`, without a mask."""
    for weight in readers(model, stage):
        weight.data[:, mask == 0] = 0


@torch.inference_mode()
def stage_means(model, batches, stage):
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


def dormant_mask(activations, fraction):
    """float (C,): 0 for the `fraction` of the channels with the lowest activations (C,), 1 for the others."""
    return mask_of(activations.argsort(stable=True), round(fraction * len(activations)))


def mask_of(order, count):
    """float (C,): 0 for the first `count` channels of `order`, a permutation (C,), 1 for the others."""
    mask = torch.ones(len(order), device=order.device)
    mask[order[:count]] = 0
    return mask
