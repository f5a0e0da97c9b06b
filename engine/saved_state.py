"""Whether what resume.th holds is what a stopped run of the same flags left there."""
import math

import torch

from common.untrusted import is_count, is_number, sound_fields

FIELDS = {"epoch": is_count,
          "state": lambda value: isinstance(value, dict),
          "generator": lambda value: isinstance(value, torch.Tensor),
          "rows": lambda value: isinstance(value, list) and all(isinstance(row, dict) for row in value),
          "seconds": lambda value: is_number(value) and value >= 0,
          "log_size": is_count}


def is_progress(saved):
    """Whether what resume.th held is what a stopped run leaves: a row for each of its epochs."""
    found = sound_fields(saved, FIELDS)
    return found.keys() == FIELDS.keys() and len(found["rows"]) == found["epoch"]


def is_alike(saved, own):
    """Whether a saved state can stand for a thing's `own`: the same names, lengths, shapes and kinds of value.

    The state of an optimizer's weights, which a new one has not, is not looked at.
    """
    if isinstance(own, torch.Tensor):
        return isinstance(saved, torch.Tensor) and saved.shape == own.shape
    if isinstance(own, dict):
        return isinstance(saved, dict) and saved.keys() == own.keys() and all(
            name == "state" or is_alike(saved[name], own[name]) for name in own)
    if isinstance(own, (list, tuple)):
        return type(saved) is type(own) and len(saved) == len(own) and all(map(is_alike, saved, own))
    if type(own) in (int, float):
        return type(saved) in (int, float) and math.isfinite(saved)
    if own is None or type(own) is bool:  # whether an optimizer's step is fused is up to the device
        return saved is None or type(saved) is bool
    return saved == own
