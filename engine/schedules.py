"""How the learning rate moves: in steps by the epoch, or in one cycle by the step."""
import torch

from common.errors import UserError

WARM_UP = 0.25  # of a cycle: the share in which its rate rises


def check_one_cycle(steps):
    """Raise UserError unless there are steps enough for the rate to rise and to fall."""
    if steps < 2 / WARM_UP:
        raise UserError(f"--recipe fast: {steps} steps in all; expected at least {2 / WARM_UP:.0f}, in which the "
                        "rate rises and falls; take more --epochs or a smaller --batch-size")


def scheduler_of(optimizer, milestones, one_cycle_steps=None):
    """The rate of `optimizer` a tenth after each of `milestones`, or one cycle of so many steps."""
    if one_cycle_steps is None:
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    return one_cycle_of(optimizer, one_cycle_steps)


def one_cycle_of(optimizer, steps):
    """A scheduler that lets the rate of `optimizer` rise to its value and fall to nothing in so many steps."""
    check_one_cycle(steps)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, optimizer.defaults["lr"], steps, pct_start=WARM_UP,
                                               anneal_strategy="linear", cycle_momentum=False)
