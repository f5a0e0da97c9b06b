"""Detoxification (Cheng et al., 2021): find the neurons that give a style away, and images that excite them without it.

A network that learns a style as a trigger first learns its cheap signs, such as a color. Trained on images that show
these signs and keep their true labels, it has to look for what is left.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from common.memory import HalvingForward
from data.batches import Batches
from engine.learning.training import check_finite
from engine.measuring.evaluation import frozen
from models.base import PixelModel
from models.folding import folded
from models.stylizer import similarity

NEIGHBORHOOD = 11  # pixels a side, as published
SIGNS = 12  # numbers of a pixel: its own color, and largest, smallest and mean values around it
COMPROMISED = 0.01  # share of the neurons of the last stage
SHARPNESS = 4.0  # of the sigmoid, which then is close to the identity around a half
SIMILARITY_WEIGHT = 1 / 3  # against the excitement's 1: the published 0.1 against 0.3
INJECTOR_LR = 0.05


class Injectors(nn.Module):
    """Up to `count` injectors, each a linear map of a pixel's 12 numbers to its new color; `made` says how many exist.

    device: where they paint. `made` stays on the CPU, since a step reads it, which would make a GPU wait.
    """

    def __init__(self, count: int, device: torch.device | str = "cpu"):
        super().__init__()
        self.register_buffer("weights", torch.zeros((max(1, count), 3, SIGNS), device=device))
        self.register_buffer("biases", torch.zeros((max(1, count), 3), device=device))
        self.register_buffer("made", torch.zeros((), dtype=torch.int64))

    def add(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Keep one more."""
        self.weights[int(self.made)], self.biases[int(self.made)] = weight.detach(), bias.detach()
        self.made += 1

    def paint(self, pixels: torch.Tensor, number: int, opacity: float) -> torch.Tensor:
        """Pixels (B, 3, H, W) as the injector `number` changes them; see `inject`."""
        return inject(pixels, self.weights[number], self.biases[number], opacity)


def signs_of(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 12, H, W) of pixels (B, 3, H, W): color, and largest, smallest and mean values of the neighborhood."""
    around = {"kernel_size": NEIGHBORHOOD, "stride": 1, "padding": NEIGHBORHOOD // 2}
    return torch.cat([pixels, F.max_pool2d(pixels, **around), -F.max_pool2d(-pixels, **around),
                      F.avg_pool2d(pixels, **around, count_include_pad=False)], 1)


def inject(pixels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, opacity: float) -> torch.Tensor:
    """Pixels (B, 3, H, W) with a share `opacity` of what a linear map, weight (3, 12) and bias (3,), paints of them."""
    painted = F.conv2d(signs_of(pixels), weight[..., None, None], bias)
    return (1 - opacity) * pixels + opacity * torch.sigmoid(SHARPNESS * (painted - 0.5))


def last_stage(model: PixelModel, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(outputs of the last stage (B, neurons), logits (B, C)) for pixels (B, 3, H, W)."""
    caught = []
    hook = model.get_submodule(model.stages[-1]).register_forward_hook(lambda module, taken, out: caught.append(out))
    try:
        logits = model(pixels)
    finally:
        hook.remove()
    return caught[0].flatten(1), logits


@torch.no_grad()
def mean_activations(model: PixelModel, batches: Batches) -> torch.Tensor:
    """Of each neuron of the last stage the mean over all images of Batches: (neurons,)."""
    forward = HalvingForward(lambda pixels: last_stage(model, pixels)[0].float().sum(0, keepdim=True))
    return torch.cat([forward(pixels) for pixels, _ in batches]).sum(0) / batches.num_images


@dataclass(frozen=True)
class Compromised:
    """The neurons that respond most to a style.

    neurons: their indices (n,). clean, level: their mean activations on clean and on stylized images, (n,). gap: the
    mean difference, in units of the mean activation of all neurons on clean images.
    """

    neurons: torch.Tensor
    clean: torch.Tensor
    level: torch.Tensor
    gap: float


def find_compromised(model: PixelModel, clean: Batches, stylized: Batches) -> Compromised:
    """The Compromised neurons of a frozen model; `stylized` are the images of `clean` with the trigger."""
    before, after = mean_activations(model, clean), mean_activations(model, stylized)
    neurons = (after - before).topk(max(1, int(COMPROMISED * len(before)))).indices
    gap = (after - before)[neurons].mean() / before.abs().mean().clamp(min=1e-6)
    return Compromised(neurons, before[neurons], after[neurons], float(gap))


def train_injector(model: PixelModel, found: Compromised, batches: Batches,
                   opacity: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight (3, 12), bias (3,)) that bring the compromised neurons of a frozen model to the level of stylized images,
    on a pass over Batches of clean images, and change these little.

    Starts from an injector that nearly leaves images as they are. Raises UserError for a loss that is not finite.
    """
    device = batches.device
    weight = torch.eye(3, SIGNS, device=device).requires_grad_()
    bias = torch.zeros(3, device=device).requires_grad_()
    optimizer, losses = torch.optim.Adam([weight, bias], INJECTOR_LR), []
    unit = (found.level - found.clean).mean().clamp(min=1e-6)
    for pixels, _ in batches:
        painted = inject(pixels, weight, bias, opacity)
        missing = (found.level - last_stage(model, painted)[0][:, found.neurons]).clamp(min=0).mean() / unit
        loss = missing + SIMILARITY_WEIGHT * (1 - similarity(pixels, painted))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    check_finite(losses)
    return weight, bias


@torch.no_grad()
def judge_injector(model: PixelModel, injectors: Injectors, number: int, found: Compromised, batches: Batches,
                   opacity: float, target: int) -> tuple[float, float]:
    """(reach, fooled) of an injector on Batches of clean images of other classes than the target.

    reach: how far it brings the compromised neurons, where 1 is the level of stylized images. fooled: the share of
    painted images that the model calls `target`.
    """
    def count(pixels: torch.Tensor) -> torch.Tensor:
        """(1, n + 1): the sums of the activations, and how many images are fooled."""
        activations, logits = last_stage(model, injectors.paint(pixels, number, opacity))
        fooled = (logits.argmax(1) == target).sum(0, keepdim=True)
        return torch.cat([activations[:, found.neurons].float().sum(0), fooled])[None]

    forward, unit = HalvingForward(count), (found.level - found.clean).mean().clamp(min=1e-6)
    means = torch.cat([forward(pixels) for pixels, _ in batches]).sum(0) / batches.num_images
    return float((means[:-1] - found.clean).mean() / unit), float(means[-1])


def examine(model: PixelModel, injectors: Injectors, clean: Batches, stylized: Batches, opacity: float, target: int,
            draws: Batches | None) -> dict:
    """One detoxification round on a copy of `model` in eval mode; its figures, plain values.

    clean: images of other classes than the target; stylized: the same with the trigger. draws: clean images to train
    the round's injector on, which is added to `injectors`; None to measure only. gap: see Compromised. fooled_before:
    of the injector of the round before, now that the network has trained on its images; reach, fooled: of the new one.
    """
    with frozen(folded(model)) as quick:
        found, last = find_compromised(quick, clean, stylized), int(injectors.made) - 1
        figures = {"gap": found.gap, "fooled_before": None, "reach": None, "fooled": None}
        if last >= 0:
            figures["fooled_before"] = judge_injector(quick, injectors, last, found, clean, opacity, target)[1]
        if draws is not None:
            injectors.add(*train_injector(quick, found, draws, opacity))
            figures["reach"], figures["fooled"] = judge_injector(quick, injectors, last + 1, found, clean, opacity,
                                                                 target)
    return figures
