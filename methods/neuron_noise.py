"""Adversarial noise on neurons: the relative change of batch-norm scales and shifts that raises the loss most (ANP, eq.
3)."""
from collections.abc import Callable, Sequence

import torch

from data.batches import send
from models.noisy_batchnorm import perturbed


def start_noise(noises: Sequence[torch.Tensor], epsilon: float, generator: torch.Generator | None) -> None:
    """Set the noises, parameters (C,), to uniform random values in [-epsilon, epsilon] from a CPU generator."""
    sizes = [noise.numel() for noise in noises]
    drawn = send(torch.empty(sum(sizes)).uniform_(-epsilon, epsilon, generator=generator), noises[0].device)
    with torch.no_grad():
        torch._foreach_copy_(noises, drawn.split(sizes))  # one kernel for all noises: on a GPU each launch costs time


def ascend_noise(model: torch.nn.Module, criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
                 noises: Sequence[torch.Tensor], noise_opt: torch.optim.Optimizer, images: torch.Tensor,
                 labels: torch.Tensor, bound: float) -> None:
    """One ascent of the loss by the noises along the sign of the gradient, clipped to [-bound, bound].

    The step size is `noise_opt`'s learning rate. Only the noises' gradients are computed.
    """
    with perturbed(model):
        gradients = torch.autograd.grad(criterion(model(images), labels), noises)
    for noise, gradient in zip(noises, torch._foreach_neg(torch._foreach_sign(gradients)), strict=True):
        noise.grad = gradient  # optimizers descend
    noise_opt.step()
    clip(noises, -bound, bound)


def clip(parameters: Sequence[torch.Tensor], low: float, high: float) -> None:
    """Clamp parameters in place."""
    with torch.no_grad():
        torch._foreach_clamp_min_(parameters, low)
        torch._foreach_clamp_max_(parameters, high)
