"""How much each channel of a layer can amplify its input, by weights alone, and whether one lies far outside its layer.

The bounds are those of Channel Lipschitz Pruning (Zheng et al., 2022), Eq. 7.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from models.folding import conv_norm_pairs

TO_SD = 1.4826  # a normal distribution's standard deviation in units of its MAD


class Farthest(NamedTuple):
    """The channel that lies farthest above its layer's median; deviation: in the layer's robust standard deviations."""

    layer: str
    channel: int
    deviation: float


def channel_bounds(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> torch.Tensor:
    """float (C,): how much channel k of norm(conv(x)) can change per unit of its patch of x (the paper's Eq. 7).

    The largest singular value of the kernel as a matrix (inputs, kh * kw), times |gamma / sqrt(var + eps)|.
    """
    kernels = conv.weight.detach().flatten(2)
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return torch.linalg.matrix_norm(kernels, ord=2) * scale.abs()


def layer_bounds(model: nn.Module) -> dict[str, torch.Tensor]:
    """{name of a batch norm: bounds (C,)} of every one whose input is one convolution's output and nothing else, in the
    order they run; {} if there is none.

    A batch norm behind a sum, as a pre-activation block's first, is no convolution's own.
    """
    pairs = ((conv, name, model.get_submodule(name)) for conv, name in conv_norm_pairs(model))
    return {name: channel_bounds(model.get_submodule(conv), norm) for conv, name, norm in pairs
            if norm.affine and norm.track_running_stats and norm.num_features > 1}  # one channel has no deviation


def robust_deviations(bounds: torch.Tensor) -> torch.Tensor:
    """float (C,): how far each of the bounds (C,) lies from their median, in units of 1.4826 MADs.

    Unlike a mean and a standard deviation, these are not moved by the outlier itself. All 0 where the MAD is 0: half
    of the channels are alike, as closed ones are, and there is no unit.
    """
    distance = bounds - bounds.quantile(0.5)
    mad = TO_SD * distance.abs().quantile(0.5)
    return distance / mad if mad > 0 else torch.zeros_like(distance)


def farthest_channel(layers: dict[str, torch.Tensor]) -> Farthest:
    """The Farthest of all layers, {name: bounds (C,)}, at least one."""
    found = {name: robust_deviations(bounds.cpu()) for name, bounds in layers.items()}
    name = max(found, key=lambda layer: found[layer].max().item())
    return Farthest(name, int(found[name].argmax()), found[name].max().item())
