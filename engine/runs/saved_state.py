"""Checks that the content of resume.th was saved by a stopped run with the same flags."""
import math
from typing import Any

import torch

from common.untrusted import is_count, is_number, sound_fields

FIELDS = {"epoch": is_count,
          "state": lambda value: isinstance(value, dict),
          "generator": lambda value: isinstance(value, torch.Tensor),
          "rows": lambda value: isinstance(value, list) and all(isinstance(row, dict) for row in value),
          "seconds": lambda value: is_number(value) and value >= 0,
          "log_size": is_count}


def is_progress(saved: Any) -> bool:
    """Whether the content of resume.th is what a stopped run saves, with a row for each of its epochs."""
    found = sound_fields(saved, FIELDS)
    return found.keys() == FIELDS.keys() and len(found["rows"]) == found["epoch"]


def has_same_structure(saved: Any, own: Any) -> bool:
    """Whether a saved state can replace an object's `own`: the same names, lengths, shapes and types of value.

    The "state" entry of an optimizer is not compared, since a new optimizer has none for its weights yet.
    """
    if isinstance(own, torch.Tensor):
        return isinstance(saved, torch.Tensor) and saved.shape == own.shape
    if isinstance(own, dict):
        return isinstance(saved, dict) and saved.keys() == own.keys() and all(
            name == "state" or has_same_structure(saved[name], own[name]) for name in own)
    if isinstance(own, (list, tuple)):
        return type(saved) is type(own) and len(saved) == len(own) and all(map(has_same_structure, saved, own))
    if type(own) in (int, float):
        return type(saved) in (int, float) and math.isfinite(saved)
    if own is None or type(own) is bool:  # whether an optimizer's step is fused depends on the device
        return saved is None or type(saved) is bool
    return saved == own
