"""Weights found in what other programs save: in any nesting, under any common prefix."""
from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from models import names, recognize
from models.pixel_input import are_of_pixels

log = logging.getLogger("backdoor")
INPUT_NAMES = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}  # as the field calls them
MAX_PREFIX = 6  # parts, as in module.model.backbone.
MAX_CANDIDATES = 50  # a file with more keeps a reader busy


class Candidate(NamedTuple):
    """Weights that a network of ours could have. spec: what models.recognize reads off their shapes.

    keys: what leads to their dict, keys of dicts and places in lists. prefix: of their names in it.
    """

    keys: tuple[str | int, ...]
    prefix: str
    weights: dict[str, torch.Tensor]
    spec: dict

    @property
    def name(self) -> str:
        """Where it is, in words."""
        return " > ".join([*(str(key)[:60] for key in self.keys), *([f"{self.prefix[:60]}*"] * bool(self.prefix))])

    def as_code(self, path: str) -> str:
        """Python that makes a state_dict of it alone, from the file `path`."""
        whole = f"torch.load({path!r}, weights_only=True){''.join(f'[{key!r}]' for key in self.keys)}"
        return f"{{k: v for k, v in {whole}.items() if k.startswith({self.prefix!r})}}" if self.prefix else whole


def find_candidates(content: Any) -> list[Candidate]:
    """The Candidates in `content`, as common.untrusted.weights.read_tensors gives it; two equal ones count once.

    Every dict in it, however deep in dicts and lists, is looked at, with every prefix that ends in a dot; beneath a
    prefix that leads to a network no further is tried. Numbers, texts and tensors of other names may lie beside.
    """
    found: list[Candidate] = []
    for keys, tensors in _named_tensors(content):
        fitting = []
        for prefix, weights in _by_prefix(tensors):
            spec = None if prefix.startswith(tuple(fitting)) else _recognized(weights)
            if spec is None:
                continue
            fitting.append(prefix)
            if not any(_are_equal(weights, one.weights) for one in found):
                found.append(Candidate(keys, prefix, weights, spec))
            if len(found) > MAX_CANDIDATES:
                return found
    return found


def find_input(content: Any, found: Candidate) -> dict[str, tuple[float, ...]]:
    """{"mean", "std"} of a layer that normalizes pixels before the network `found`; {} if the file holds none.

    Such a layer is a tensor for each, of three values, beside the network's in the same dict, perhaps under the same
    prefix; of 0 to 255 they are divided by that.
    """
    beside = next((tensors for keys, tensors in _named_tensors(content) if keys == found.keys), {})
    values = {}
    for name, tensor in beside.items():
        key = INPUT_NAMES.get(name.rpartition(".")[2])
        if key and tensor.numel() == 3:
            values.setdefault(key, []).append(tuple(tensor.double().flatten().tolist()))
    if values.keys() != {"mean", "std"} or any(len(own) > 1 for own in values.values()):
        return {}
    scale = 255 if max(values["mean"][0]) > 1 else 1
    read = {key: tuple(value / scale for value in own[0]) for key, own in values.items()}
    if not all(are_of_pixels(value, key) for key, value in read.items()):
        return {}
    log.info("pixels enter as the file's own layer says: mean %s, std %s", *(
        " ".join(f"{value:.4g}" for value in read[key]) for key in ("mean", "std")))
    return read


def all_names(content: Any) -> list[str]:
    """The names of all tensors in `content` that have one, the largest dict's first."""
    return [name for _, tensors in sorted(_named_tensors(content), key=lambda pair: -len(pair[1])) for name in tensors]


def _recognized(weights: dict):
    try:
        return recognize(weights)
    except IndexError:  # a weight of fewer axes than any network's
        return None


def _named_tensors(content: Any) -> Iterator[tuple[tuple[str | int, ...], dict[str, torch.Tensor]]]:
    """((key, ...), {name: tensor}) of each dict in `content` that has any, outer ones first, each object once."""
    seen, waiting = set(), [((), content)]
    for keys, value in waiting:  # which grows
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            named = {name: _as_tensor(part) for name, part in value.items() if isinstance(name, str)}
            tensors = {name: part for name, part in named.items() if part is not None}
            if tensors:
                yield keys, tensors
            waiting += [((*keys, name), part) for name, part in value.items()
                        if isinstance(part, (dict, list, tuple))]
        elif isinstance(value, (list, tuple)):
            waiting += [((*keys, place), part) for place, part in enumerate(value)
                        if isinstance(part, (dict, list, tuple))]


def _as_tensor(value: Any):
    """A tensor, or a NumPy array of numbers as one; None for anything else."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiu" and value.dtype.isnative:
        return torch.from_numpy(np.array(value))
    return None


def _by_prefix(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """(prefix, {the rest of the name: tensor}) for every prefix that ends in a dot, the empty one first."""
    groups = {"": dict(tensors)}
    for name, value in tensors.items():
        parts = name.split(".")
        for count in range(1, min(len(parts) - 1, MAX_PREFIX) + 1):
            prefix = ".".join(parts[:count]) + "."
            groups.setdefault(prefix, {})[name[len(prefix):]] = value
    yield from sorted(groups.items(), key=lambda pair: pair[0].count("."))


def _are_equal(one: dict, other: dict):
    """Whether two state_dicts hold the same tensors."""
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in one)


def describe_foreign(keys: list[str]) -> str:
    """What a file without a network of ours holds, by the names of its tensors, in words."""
    kind = next((words for words, wanted in FOREIGN.items() if _has(keys, *wanted)), None)
    if kind:
        return f"expected the weights of one of the networks {names()}; these are of {kind}; see docs/networks.md"
    shown = ", ".join(name[:60] for name in keys[:3]) or "none"
    return (f"expected the weights of one of the networks {names()} (as a CIFAR ResNet-18's: conv1.weight, ..., "
            f"linear.weight), got {shown}, ...")


def _has(keys: list[str], *wanted: str) -> bool:
    """Whether there are tensors of all `wanted` names, each under any prefix."""
    return all(any(key == name or key.endswith(f".{name}") for key in keys) for name in wanted)


# {what others save and none of our networks takes, in words: names by which it is known}
FOREIGN = {
    "a ResNet with torchvision's names (timm has the same), but of another depth or width than ResNet-18, 34 and 50, "
    "or with another first layer than one of 7x7": ("layer1.0.conv1.weight", "fc.weight"),
    "a CIFAR ResNet of another depth than 18, or of 18 with a norm before its pooling": (
        "layer1.0.conv1.weight", "linear.weight"),
    "a VGG with three layers in its classifier, as torchvision and BackdoorBench have it": (
        "features.0.weight", "classifier.6.weight"),
    "a VGG of another depth than VGG-19, or without batch norm": ("features.0.weight", "classifier.weight"),
}
