"""Whether what resume.th holds is what a stopped run left there: it is a file, and may be a stranger's."""
import math

import torch

RESUME_KEYS = {"epoch", "state", "generator", "rows", "seconds", "log_size"}


def is_progress(saved):
    """Whether what resume.th held is what a stopped run leaves."""
    return (isinstance(saved, dict) and saved.keys() >= RESUME_KEYS and isinstance(saved["state"], dict)
            and all(type(saved[name]) is int and saved[name] >= 0 for name in ("epoch", "log_size"))
            and type(saved["seconds"]) in (int, float) and 0 <= saved["seconds"] < math.inf
            and isinstance(saved["rows"], list) and all(isinstance(row, dict) for row in saved["rows"])
            and len(saved["rows"]) == saved["epoch"])


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
