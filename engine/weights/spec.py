"""Whether what a file claims of a network can be, and whether its weights are that network's."""
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.untrusted.weights import fault_of_weight, is_weight
from models import find_architecture, names
from models.base import IMAGE_SIZE, MEAN, STD

MAX_WIDTH, MAX_CLASSES, MAX_IMAGE_SIZE = 2**12, 2**16, 2**10  # far beyond any; a file may claim anything
OPTIONAL = ("num_batches_tracked", "neuron_mask", "neuron_noise")  # weights that a file may leave out


def check_spec(path: str | Path, spec: dict) -> dict:
    """`spec`, perhaps a stranger's, with what it leaves out filled in. Raises UserError for one that no network has."""
    if not isinstance(spec, dict):
        raise UserError(f"{path}: damaged, expected a dict in its spec, got {type(spec).__name__}")
    spec = {"image_size": IMAGE_SIZE, "mean": MEAN, "std": STD, **spec}
    arch, sizes = spec.get("arch"), {"width": MAX_WIDTH, "num_classes": MAX_CLASSES, "image_size": MAX_IMAGE_SIZE}
    try:
        row = find_architecture(arch if isinstance(arch, str) else "")
    except KeyError:
        raise UserError(f"{path}: expected one of the networks {names()}, got "
                        f"{arch[:60] if isinstance(arch, str) else type(arch).__name__}") from None
    if not row.has_width:
        spec["width"] = None
        del sizes["width"]
    for name, most in sizes.items():
        value = spec.get(name)
        if type(value) is not int or not 1 <= value <= most:
            shown = value if isinstance(value, (int, float)) else type(value).__name__
            raise UserError(f"{path}: claims to be of {name} {str(shown)[:60]}; expected 1 to {most}")
    for name in ("mean", "std"):
        if not are_pixel_values(spec[name], name == "std"):
            raise UserError(f"{path}: damaged, expected three {name}s of pixels, none of them infinite"
                            f"{', above 0' if name == 'std' else ''}")
    return {name: spec[name] for name in ("arch", "width", "num_classes", "image_size", "mean", "std")}


def are_pixel_values(values: Any, are_positive: bool) -> bool:
    """Whether `values` is a value for each of the three colors that a network can compute with."""
    return isinstance(values, (list, tuple)) and len(values) == 3 and all(
        type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e6 and (value > 1e-6 or not are_positive)
        for value in values)


def check_fit(path: str | Path, own: dict, weights: dict) -> None:
    """UserError that lists what is missing, too much, of another shape or no weight, against the state_dict `own`."""
    problems = [f"missing {name}" for name in own if name not in weights and not any(part in name for part in OPTIONAL)]
    problems += [f"unexpected {name}" for name in weights if name not in own]
    problems += [f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}" for name in own
                 if name in weights and weights[name].shape != own[name].shape]
    problems += [f"{name} {fault_of_weight(value)}" for name, value in weights.items()
                 if name in own and value.shape == own[name].shape and not is_weight(name, value)]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        named = "; ".join(problem[:200] for problem in problems[:5])
        raise UserError(f"{path}: does not fit the network: {named}{more}")
