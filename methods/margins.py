"""How far an image can be made to lean to each class: the largest margins that MM-BD looks at (Wang et al., 2024)."""
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.measuring.evaluation import check_outputs
from engine.measuring.progress import progress
from models.folding import folded

LOOK_EVERY = {"cuda": 10}  # steps after which classes that are done leave; 1 on a CPU, which does not wait to be asked
AT_ONCE = 300 * 32 * 32  # pixels of one color that climb at a time, unless one class has more


@dataclass(frozen=True)
class Climb:
    """What the starts of one class reached. margins: float32 (starts,), the class's logit less the largest other one.
    """

    label: int
    margins: np.ndarray
    steps: int

    def row(self, classes: Sequence[str]) -> dict:
        """The row of margins.csv."""
        return {"label": self.label, "class": classes[self.label], "margin": float(self.margins.max()),
                "mean": float(self.margins.mean()), "lowest": float(self.margins.min()), "steps": self.steps}


def margins_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """float (B,): the logit of each image's label (B,) less the largest of its others, for logits (B, C)."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def climb(model: torch.nn.Module, labels: Sequence[int], images: torch.Tensor, steps: int, step: float, tolerance: float
          ) -> list[Climb]:
    """[Climb] of the classes `labels`, from images (classes, starts, 3, S, S) in [0, 1].

    Each step adds `step` times the gradient of the margin and clips to [0, 1]. A class is done when one step changes
    the sum of its margins by less than `tolerance`, relative; at the next look, by LOOK_EVERY, its images leave the
    batch. Raises UserError for NaN.
    """
    device, found, every = images.device, [], LOOK_EVERY.get(images.device.type, 1)
    labels = torch.tensor(labels, device=device)
    before = torch.full((len(labels),), torch.inf, device=device)  # from which no class is done
    reached, taken = torch.zeros(images.shape[:2], device=device), torch.zeros_like(labels)  # 0 steps: not done
    for number in progress(range(1, steps + 1), "climb"):
        margins, images = ascend(model, labels, images, step)
        sums = margins.sum(1)
        done = (((sums - before).abs() < tolerance * before.abs()) | (number == steps)) & (taken == 0)
        reached, taken = torch.where(done[:, None], margins, reached), torch.where(done, number, taken)
        before = sums
        if number % every == 0 or number == steps:
            check_outputs(margins)
            leave, stay = (where.nonzero().flatten() for where in (taken > 0, taken == 0))
            found += [Climb(*row) for row in zip(labels[leave].tolist(), reached[leave].cpu().numpy(),
                                                 taken[leave].tolist(), strict=True)]
            labels, images, before, reached, taken = (part[stay] for part in (labels, images, before, reached, taken))
            if not len(labels):
                break
    return sorted(found, key=lambda one: one.label)


def ascend(model: torch.nn.Module, labels: torch.Tensor, images: torch.Tensor, step: float
           ) -> tuple[torch.Tensor, torch.Tensor]:
    """(the margins (classes, starts) of images (classes, starts, 3, S, S), the images one step further)."""
    starts = images.shape[1]
    pixels = images.flatten(0, 1).requires_grad_()
    margins = margins_of(model(pixels), labels.repeat_interleave(starts))
    slope, = torch.autograd.grad(margins.sum(), pixels)
    moved = (pixels.detach() + step * slope).clamp(0, 1)
    return margins.detach().unflatten(0, (-1, starts)), moved.unflatten(0, (-1, starts))


def largest_margins(model: torch.nn.Module, num_classes: int, image_size: int, args: Namespace, device: torch.device,
                    generator: torch.Generator) -> list[Climb]:
    """[Climb] of every class; all classes together where their images fit into AT_ONCE.

    args: has starts, steps, step and tolerance. Random images are drawn class by class, so they do not depend on how
    many classes climb at a time.
    """
    model = folded(model).requires_grad_(False)
    at_once = max(1, AT_ONCE // (image_size**2 * args.starts))
    found = []
    for labels in torch.arange(num_classes).split(at_once):
        images = torch.stack([torch.rand(args.starts, 3, image_size, image_size, generator=generator) for _ in labels])
        found += climb(model, labels.tolist(), images.to(device), args.steps, args.step, args.tolerance)
    return found
