"""Schedules of the learning rate: steps after epochs, or one cycle over all steps."""
from collections.abc import Sequence

import torch

from common.errors import UserError

WARM_UP = 0.25  # share of a cycle in which its rate rises


def check_one_cycle(steps: int, recipe: str) -> None:
    """Raise UserError unless there are enough steps for the rate to rise and fall."""
    if steps < 2 / WARM_UP:
        raise UserError(f"--recipe {recipe}: expected at least {2 / WARM_UP:.0f} steps in all, in which the rate rises "
                        f"and falls, got {steps}; choose more --epochs or a smaller --batch-size")


def scheduler_of(optimizer: torch.optim.Optimizer, milestones: Sequence[int],
                 one_cycle_steps: int | None = None) -> torch.optim.lr_scheduler.LRScheduler:
    """A scheduler that divides the rate of `optimizer` by ten after each of `milestones`, or makes one cycle of this
    many steps."""
    if one_cycle_steps is None:
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    return one_cycle_of(optimizer, one_cycle_steps)


def one_cycle_of(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.OneCycleLR:
    """A scheduler in which the rate of `optimizer` rises to its value and falls to 0 in `steps` steps, which
    check_one_cycle allows."""
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, optimizer.defaults["lr"], steps, pct_start=WARM_UP,
                                               anneal_strategy="linear", cycle_momentum=False)
