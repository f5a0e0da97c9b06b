"""Weights of a trigger's network, which may be a stranger's."""
from collections.abc import Mapping

import torch


def faults(weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> list[str]:
    """What speaks against loading `weights` into a network whose state_dict is `own`, in words; [] if nothing does.

    Raises KeyError or AttributeError where a weight is missing or is no tensor.
    """
    wrong = [f"{name} is {tuple(weights[name].shape)}, expected {tuple(value.shape)}"
             for name, value in own.items() if weights[name].shape != value.shape]
    wrong += [f"unexpected {name}" for name in weights if name not in own]
    return wrong or [f"{name} holds values that it cannot have" for name in own if not is_finite(weights[name])]


def is_finite(value: torch.Tensor) -> bool:
    """Whether a weight is of finite real numbers."""
    return value.is_floating_point() and bool(value.float().isfinite().all())
