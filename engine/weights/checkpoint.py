"""Weights with what made them, and triggers."""
from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from common.errors import UserError
from common.files import atomic_file
from common.untrusted.limits import MAX_WEIGHTS
from common.untrusted.weights import read_tensors
from data.triggers import Trigger, trigger_from_info, trigger_to_info
from engine.missing import check_there
from engine.weights.backdoorbench import AttackResult, check_recognized, find_attack_result
from engine.weights.spec import check_fit, check_spec
from engine.weights.state_dicts import (
    INPUT_NAMES,
    MAX_CANDIDATES,
    all_names,
    describe_foreign,
    find_candidates,
    find_input,
)
from models import build_model
from models.base import MEAN, STD, PixelModel
from models.pixel_input import PixelInput, swap_channels

log = logging.getLogger("backdoor")


def save(path: str | Path, value: Any) -> None:
    """torch.save, whole or not at all."""
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError of its own; a plain write as the OSError it is
    torch.save(value, buffer)
    with atomic_file(path) as file:
        file.write(buffer.getbuffer())


def save_model(path: str | Path, model: PixelModel, args: dict, metrics: dict, classes: Sequence[str] = ()) -> None:
    """Write `model` with its spec, from which it is rebuilt, and the arguments and the metrics that go with it."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save(path, {"state_dict": weights, "spec": model.spec, "classes": list(classes), "args": args, "metrics": metrics})


@dataclass(frozen=True)
class Checkpoint:
    """A model as loaded, and what its file says about it (empty for a bare state_dict).

    has_spec: whether the file is one of ours, which says all of its network. says_input: whether it says how pixels
    enter it, as some other programs' do too; otherwise that is as given, or ours. result: what BackdoorBench's
    attack_result.pt says; None for another file.
    """

    model: PixelModel
    args: dict
    metrics: dict
    classes: tuple
    has_spec: bool = False
    says_input: bool = False
    result: AttackResult | None = None


def load_model(path: str | Path, device: str | torch.device = "cpu", classes: Sequence[str] | None = None,
               given: PixelInput | None = None, **options) -> Checkpoint:
    """The Checkpoint in `path`: one of ours, or a state_dict of a network of ours as another program saved it.

    One of ours is rebuilt from its spec. A stranger's state_dict may lie in any nesting of dicts and lists, and its
    names may have any common prefix (state_dicts.py); the network is told by keys and shapes (models.recognize).
    .safetensors are read too, and BackdoorBench's attack_result.pt (backdoorbench.py). `options` go to
    models.build_model (norm_layer); the masks and noises of a NoisyBatchNorm2d start at 1 and 0, whatever a file of
    another ANP may hold. given: how pixels enter a network whose file does not say it; refused for a file that does.

    Raises UserError if it is not a checkpoint, holds two networks, its weights do not fit the network (which keys), or
    it was made for other classes than `classes`, names in label order (of a bare state_dict only their number is
    known).
    """
    weights, meta, result, spec, says_input = _read_model(path)
    given = given or PixelInput()
    if given.flags() and "spec" in meta:
        raise UserError(f"{path}: says its own normalization, so {given.flags()} has no use; leave it out")
    if not says_input and not given.spec:
        _log_input(path, spec)
    spec = {**spec, **given.spec}
    own = _classes(path, meta)
    with torch.device("meta"):  # a model without memory, since a file may claim to be of any width
        own_weights = build_model(**spec, **options).state_dict()
        needed = 4 * sum(value.numel() for value in own_weights.values())
        if needed > MAX_WEIGHTS:
            raise UserError(f"{path}: {spec['arch']} of width {spec['width']} takes {needed} bytes; expected at most "
                            f"{MAX_WEIGHTS}")
        check_fit(path, own_weights, weights)
    model = build_model(**spec, **options)
    model.load_state_dict(weights, strict=False)
    if given.as_bgr:
        swap_channels(model)
    found = Checkpoint(model.to(device), meta.get("args", {}), meta.get("metrics", {}), own, "spec" in meta,
                       says_input, result)
    if classes is not None:
        check_classes(path, found, classes)
    return found


def saved_image_size(path: str | Path | None) -> int | None:
    """Pixels a side of the images that the model in `path` was trained on; None for no path. Raises UserError.

    Without building the network, which would draw random numbers.
    """
    return _read_model(path).spec["image_size"] if path else None


class _Read(NamedTuple):
    """What a file holds: a state_dict, what one of ours says beside it ({} of others), the AttackResult that one of
    BackdoorBench's is, the checked spec, and whether the file itself says how pixels enter the network."""

    weights: dict
    meta: dict
    result: AttackResult | None
    spec: dict
    says_input: bool


def _read_model(path: str | Path):
    """The _Read of `path`. Raises UserError."""
    check_there(path)
    content, result, own_input = read_tensors(path), None, {}
    meta = content if _is_ours(content) else {}
    if "spec" in meta:
        weights, spec = meta["state_dict"], meta["spec"]
    else:
        result = find_attack_result(path, content)
        content = result.weights if result else content
        found = _choose(path, find_candidates(content), content)
        weights, spec = found.weights, found.spec | ({"arch": meta["arch"]} if meta else {})
        if result:
            check_recognized(path, result, spec)
            spec |= result.spec
        own_input = find_input(content, found)
        spec |= own_input
        weights = {name: value for name, value in weights.items()
                   if not own_input or name.rpartition(".")[2] not in INPUT_NAMES}
    weights = {name.removeprefix("module."): value for name, value in weights.items() if "neuron_" not in name}
    says_input = "spec" in meta or bool(result or own_input)
    return _Read(weights, meta, result, check_spec(path, spec), says_input)


def _is_ours(content: Any):
    """Whether `content` is of save_model: a state_dict beside a spec, or beside an arch before there was a spec."""
    if not isinstance(content, dict) or not ("spec" in content or "arch" in content):
        return False
    weights = content.get("state_dict")
    return isinstance(weights, dict) and bool(weights) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items())


def _choose(path: str | Path, candidates: Any, content: Any):
    """The one Candidate that a file's content leaves to choose; of several the one that fits its network.

    Raises UserError if there is none, and by name if there are several that fit.
    """
    names = [] if candidates else all_names(content)
    if not candidates and not names:
        raise UserError(f"{path}: not a checkpoint (expected a state_dict, alone or in any dict)")
    if not candidates:
        raise UserError(f"{path}: {describe_foreign(names)}")
    if len(candidates) > MAX_CANDIDATES:
        raise UserError(f"{path}: refused, it holds more than {MAX_CANDIDATES} networks")
    fitting = candidates if len(candidates) == 1 else [one for one in candidates if _fits(path, one)]
    if len(fitting) > 1:
        raise UserError(f"{path}: holds several networks: {', '.join(one.name for one in fitting[:5])}; save the one "
                        f"that is meant by itself, as in torch.save({fitting[0].as_code(str(path))}, 'one.th')")
    return (fitting or candidates)[0]


def _fits(path: str | Path, candidate: Any):
    """Whether a Candidate's weights are all of its network's, and no others."""
    try:
        spec = check_spec(path, candidate.spec)
        with torch.device("meta"):
            check_fit(path, build_model(**spec).state_dict(), candidate.weights)
    except UserError:
        return False
    return True


def load_weights(path: str | Path, model: PixelModel) -> None:
    """Give `model` the weights in `path`, which an earlier stage left. Raises UserError for another network's."""
    found = load_model(path).model
    if found.spec != model.spec:
        raise UserError(f"{path}: of another network ({found.spec}, not {model.spec}); --overwrite starts over")
    model.load_state_dict(found.state_dict())


def check_classes(path: str | Path, found: Checkpoint, classes: Sequence[str]) -> None:
    """UserError unless the Checkpoint `found` in `path` was made for `classes`; see load_model."""
    if found.model.spec["num_classes"] != len(classes):
        raise UserError(f"{path}: has {found.model.spec['num_classes']} classes, but the data set has {len(classes)}")
    if found.classes and found.classes != tuple(classes):
        raise UserError(f"{path}: made for the classes {', '.join(found.classes[:3])}, ..., but the data set has "
                        f"{', '.join(classes[:3])}, ...")


def _log_input(path: str | Path, spec: dict):
    """Say how pixels enter a network whose file does not say it, where the field does it in another way than we do."""
    if (spec["mean"], spec["std"]) != (MEAN, STD):
        log.info("%s: weights without their normalization; pixels enter as is usual for %s (%s)", path, spec["arch"],
                 PixelInput(spec["mean"], spec["std"]).flags())


def _classes(path: str | Path, meta: dict):
    """The class names that the file gives, () for none. Raises UserError if they are not names."""
    classes = meta.get("classes") or ()
    if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{path}: damaged, its classes are not names")
    return tuple(classes)


def save_trigger(path: str | Path, trigger: Trigger, data_index: Sequence[int] = ()) -> None:
    """Write the homework's trigger_info dict."""
    save(path, trigger_to_info(trigger, data_index))


def load_trigger(path: str | Path) -> Trigger:
    """The Trigger in a trigger_info file. Raises UserError, naming the file, if it holds none."""
    check_there(path)
    info = read_tensors(path)
    if not isinstance(info, dict):
        raise UserError(f"{path}: expected a trigger_info dict, got {type(info).__name__}")
    try:
        return trigger_from_info(info)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
