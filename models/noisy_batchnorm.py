"""Batch normalization whose channels can be masked and perturbed: what ANP optimizes (Wu & Wang, 2021)."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn


class NoisyBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d with a mask m and relative noise delta, xi on each channel: the paper's neurons.

    neuron_mask m starts at 1; neuron_noise delta and neuron_noise_bias xi start at 0; all are (C,). The scale is
    weight * (m + delta) and the shift bias * (1 + xi) while noise is included (see `perturbed`), weight * m and bias
    otherwise. The other state_dict keys are BatchNorm2d's. As in the paper the mask leaves the bias alone: a channel
    with m = 0 still emits it.
    """

    def __init__(self, num_features: int, **options):
        super().__init__(num_features, **options)
        self.neuron_mask = nn.Parameter(torch.ones(num_features))
        self.neuron_noise = nn.Parameter(torch.zeros(num_features))
        self.neuron_noise_bias = nn.Parameter(torch.zeros(num_features))
        self.is_perturbed = False

    def scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The scale and shift (C,) that count now: with the noise inside `perturbed`, without it elsewhere."""
        if self.is_perturbed:
            return self.weight * (self.neuron_mask + self.neuron_noise), self.bias * (1 + self.neuron_noise_bias)
        return self.weight * self.neuron_mask, self.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, shift = self.scale_and_shift()
        if self.training:
            self.num_batches_tracked += 1
        return F.batch_norm(x, self.running_mean, self.running_var, scale, shift, self.training, self.momentum,
                            self.eps)


def noisy_layers(model: nn.Module) -> list[tuple[str, NoisyBatchNorm2d]]:
    """[(name, layer)] of the model's NoisyBatchNorm2d layers."""
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, NoisyBatchNorm2d)]


def parameters_named(model: nn.Module, part: str) -> list[nn.Parameter]:
    """The model's parameters whose name has `part` in it: neuron_mask, or neuron_noise for both noises."""
    return [parameter for name, parameter in model.named_parameters() if part in name]


@contextmanager
def perturbed(model: nn.Module) -> Iterator[nn.Module]:
    """Include the noise in every NoisyBatchNorm2d of `model` for as long as the block lasts."""
    layers = [layer for _, layer in noisy_layers(model)]
    for layer in layers:
        layer.is_perturbed = True
    try:
        yield model
    finally:
        for layer in layers:
            layer.is_perturbed = False
