"""What BackdoorBench's attack_result.pt says beside its weights: the network, how pixels enter it, and the target.

Of its triggered test images the file has the labels that they were given. The trigger itself is not in it.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from common.untrusted.attack_result import is_attack_result
from models.base import MEAN
from models.pixel_input import NORMALIZATIONS

# {BackdoorBench's name of a network: what its weights may be called here}. Its ResNets are torchvision's.
ARCHITECTURES = {
    "preactresnet18": ("preactresnet18",), "resnet18": ("resnet18", "torchvision-resnet18"),
    "resnet34": ("torchvision-resnet34",), "resnet50": ("torchvision-resnet50",), "vgg19_bn": ("vgg19_bn",)}
# {its name of a data set: (mean, std) of pixels from 0 to 1}, as its code has them.
PIXELS = {
    "cifar10": (MEAN, (0.247, 0.243, 0.261)), "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "gtsrb": NORMALIZATIONS["none"], "celeba": NORMALIZATIONS["none"], "imagenet": NORMALIZATIONS["imagenet"],
    "tiny": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))}
MAX_LABELS = 2**20  # that are looked at


@dataclass(frozen=True)
class AttackResult:
    """What an attack_result.pt says. weights: its state_dict. architectures: what they may be called here.

    spec: what it says of image_size, mean and std. target: the label of its triggered images; None where it says no
    single one. why: where the target comes from, or why there is none, in words.
    """

    weights: dict[str, torch.Tensor]
    architectures: tuple[str, ...]
    num_classes: int
    spec: dict
    target: int | None
    why: str


def find_attack_result(path: str | Path, content: Any) -> AttackResult | None:
    """The AttackResult in what common.untrusted.weights.read_tensors gives; None for another file.

    Raises UserError, naming the file, for a network that the suite has under no name.
    """
    if (not is_attack_result(content) or not {"bd_test", "bd_train"} & content.keys()
            or type(content.get("num_classes")) is not int):
        return None
    name = content["model_name"]
    if name not in ARCHITECTURES:
        raise UserError(f"{path}: BackdoorBench's file of the network {name[:60]!r}; of its networks, "
                        f"{', '.join(ARCHITECTURES)} are read")
    target, why = target_of(content, content["num_classes"])
    return AttackResult(content["model"], ARCHITECTURES[name], content["num_classes"], _spec(content), target, why)


def check_recognized(path: str | Path, result: AttackResult, spec: dict) -> None:
    """UserError unless weights whose shapes say `spec` are those that the file says they are."""
    if spec["arch"] not in result.architectures:
        raise UserError(f"{path}: says that it holds {' or '.join(result.architectures)}, but its weights are of "
                        f"{spec['arch']}")
    if result.num_classes != spec["num_classes"]:
        raise UserError(f"{path}: says that it has {result.num_classes} classes, but its weights have "
                        f"{spec['num_classes']}")


def target_of(content: dict, num_classes: int) -> tuple[int | None, str]:
    """(target, where it comes from) of an attack_result's content; (None, why not) where it says no single one."""
    for part in ("bd_test", "bd_train"):
        labels = set(_labels(content.get(part), part))
        if len(labels) == 1:
            target = labels.pop()
            if 0 <= target < num_classes:
                return target, f"all triggered images of its {part} are labeled so"
            return None, f"the triggered images of its {part} are labeled {target}, which is none of its classes"
        if labels:
            return None, (f"the triggered images of its {part} have {len(labels)} labels, as of an attack with a "
                          "target for each class")
    return None, "it has no labels of triggered images"


def _labels(part: Any, name: str) -> list[int]:
    """The labels given to the triggered images of bd_test or bd_train, in either of the forms that there are."""
    if not isinstance(part, dict):
        return []
    container = part.get("bd_data_container")
    rows = container.get("data_dict") if isinstance(container, dict) else None
    if isinstance(rows, dict):  # {index: (image, label, own label)}, or with the image in a file of its own
        return _whole(_label_of(row) for row in rows.values())
    labels = part.get("y", part.get("targets"))
    chosen = part.get("poison_indicator")
    if labels is None or (name == "bd_train" and chosen is None and part.get("original_index") is None):
        return []  # an older file without it has the labels of all training images
    labels = _whole(_flat(labels))
    if chosen is None or len(chosen := _flat(chosen)) != len(labels):
        return labels
    return [label for label, is_triggered in zip(labels, chosen, strict=True) if is_triggered]


def _label_of(row: Any):
    if isinstance(row, dict):
        row = [None, *(row["other_info"] if isinstance(row.get("other_info"), (list, tuple)) else [])]
    return row[1] if isinstance(row, (list, tuple)) and len(row) > 1 else None


def _flat(values: Any) -> list:
    """The first MAX_LABELS values of a tensor, array or list of one axis; [] of anything else."""
    if isinstance(values, (torch.Tensor, np.ndarray)):
        return values[:MAX_LABELS].tolist() if values.ndim == 1 else []
    return list(values[:MAX_LABELS]) if isinstance(values, (list, tuple)) else []


def _whole(values: Iterable) -> list[int]:
    """Those of the values that are whole numbers."""
    plain = [value.item() if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and not value.ndim)
             else value for value in values]
    return [value for value in plain if type(value) is int]


def _spec(content: dict) -> dict:
    """image_size, mean and std, as far as the file says them."""
    spec, sizes, data = {}, content.get("img_size"), content.get("clean_data")
    if isinstance(sizes, (list, tuple)) and sizes and type(sizes[0]) is int:
        spec["image_size"] = sizes[0]
    if isinstance(data, str) and data in PIXELS:
        spec["mean"], spec["std"] = PIXELS[data]
    return spec
