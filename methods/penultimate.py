"""What a network's last layer reads: its penultimate features."""
import torch

from models.base import PixelModel


def penultimate(model: PixelModel, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(features (B, D), logits (B, C)) of pixels (B, 3, H, W): what the head takes, and what it makes of them.

    Caught where it enters the head, so that it is the same for every network, whatever stands before.
    """
    caught = []
    hook = model.head.register_forward_pre_hook(lambda head, taken: caught.append(taken[0]))
    try:
        logits = model(pixels)
    finally:
        hook.remove()
    return caught[0], logits
