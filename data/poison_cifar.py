"""Poison a data set: the homework's functions, for an ImageSet or torchvision's CIFAR10 alike."""
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np

from common.errors import UserError
from data.clean_label import CIFAR10CLB
from data.datasets import split_dataset
from data.image_set import DataSet, ImageSet, take
from data.triggers import (
    ATTACKS,
    PatternTrigger,
    Trigger,
    build_trigger,
    patterns,
    trigger_from_info,
    trigger_to_info,
)

__all__ = ["CIFAR10CLB", "add_predefined_trigger_cifar", "add_trigger_cifar", "generate_trigger", "poison",
           "poison_training_set", "split_dataset", "stamp_all", "stamp_bystanders", "stamp_share"]


def generate_trigger(trigger_type: str, height: int = 32, width: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """(pattern uint8 (height, width, 1 or 3), mask uint8 (height, width, 1)) of a pattern in data/triggers/table.py.

    Raises UserError for a name that is not there.
    """
    if trigger_type not in patterns():
        raise UserError(f"trigger type: expected one of {', '.join(patterns())}, got {trigger_type}")
    return patterns()[trigger_type].pattern(height, width)


def add_trigger_cifar(data_set: DataSet, trigger_type: str, poison_rate: float, poison_target: int,
                      trigger_alpha: float | None = None, seed: int = 0) -> tuple[DataSet, dict[str, Any]]:
    """Stamp a named trigger on a share of the non-target images and give them the target label.

    Returns (poisoned data set, trigger_info dict). `poison_rate` is the share of the images whose label is not
    `poison_target`: int(poison_rate * candidates) of them, drawn without replacement by `seed`. `trigger_alpha` None
    is the pattern's own opacity: a picture laid over everything at 1 would make all triggered images the same.
    """
    pattern, mask = generate_trigger(trigger_type, *data_set.data.shape[1:3])
    if trigger_alpha is None:
        trigger_alpha = patterns()[trigger_type].alpha
    trigger = PatternTrigger(pattern, mask, trigger_alpha, poison_target)
    poisoned, chosen = poison(data_set, trigger, poison_rate, seed)
    return poisoned, trigger_to_info(trigger, chosen)


def share_of(rate: float, count: int) -> int:
    """How many of `count` a share of them is, rounded down: 29 for 0.29 of 100, though the float is a little less."""
    return int(rate * count + 1e-6)


def poison(data_set: DataSet, trigger: Trigger, poison_rate: float, seed: int = 0,
           keeps_labels: bool = False) -> tuple[DataSet, np.ndarray]:
    """Poisoning with any Trigger. Returns (poisoned data set, indices int64 of what was poisoned).

    `poison_rate` is a share of the trigger's victims: of the images outside the target class, or of its sources, or for
    all-to-all of all. Their labels become what the trigger wants. With `keeps_labels` it is a share of the target class
    itself, where no label changes. Raises UserError for one above 0 that is too small to poison a single image.
    """
    targets = np.asarray(data_set.targets)
    candidates = np.flatnonzero(targets == trigger.target if keeps_labels else trigger.victims(targets))
    number = share_of(poison_rate, len(candidates))
    if poison_rate > 0 and not number:
        raise UserError(f"--poison-rate {poison_rate}: no image of the {len(candidates)} candidates would be poisoned")
    chosen = np.random.default_rng(seed).choice(candidates, number, replace=False)
    data, targets = data_set.data.copy(), targets.copy()
    data[chosen] = trigger.stamp(data[chosen])
    targets[chosen] = trigger.wanted(targets[chosen])
    return _with(data_set, data, targets, chosen), chosen.astype(np.int64)


def add_predefined_trigger_cifar(data_set: DataSet, trigger_info: Mapping[str, Any] | None,
                                 exclude_target: bool = True) -> DataSet:
    """Stamp the trigger of `trigger_info` on every image and label it with the target: the set that ASR is counted on.

    `exclude_target` leaves out the images that the trigger is not meant for, such as those whose own label already is
    the target (9,000 of 10,000 remain), without which even a clean model would score its share of the target class.
    None as `trigger_info` returns `data_set`.
    """
    if trigger_info is None:
        return data_set
    trigger = trigger_from_info(trigger_info)
    return stamp_all(data_set, trigger, exclude_target)


def stamp_all(data_set: DataSet, trigger: Trigger, exclude_target: bool = True) -> DataSet:
    """`add_predefined_trigger_cifar` with a Trigger in place of its dict.

    With `exclude_target`, of the trigger's victims by the labels before poisoning.
    """
    original = _original(data_set)
    chosen = trigger.victims(original) if exclude_target else np.ones(len(original), dtype=bool)
    return _stamp_at(data_set, trigger, chosen)


def stamp_bystanders(data_set: DataSet, trigger: Trigger) -> DataSet | None:
    """The images that the trigger is not meant for, stamped, with the label that it would lead to; None if it is meant
    for every class."""
    chosen = trigger.bystanders(_original(data_set))
    return _stamp_at(data_set, trigger, chosen) if chosen.any() else None


def _original(data_set: DataSet):
    """The labels (N,) before poisoning, as far as a data set knows them."""
    return data_set.original if is_dataclass(data_set) else np.asarray(data_set.targets)


def _stamp_at(data_set: DataSet, trigger: Trigger, chosen: np.ndarray):
    """The images where `chosen`, bool (N,), stamped and labeled as the attacker wants."""
    kept = np.flatnonzero(chosen)
    images = take(data_set, kept)
    return _with(images, trigger.stamp(images.data), trigger.wanted(_original(data_set)[kept]), np.arange(len(kept)))


def stamp_share(data_set: ImageSet, triggers: Sequence[Trigger], share: float, seed: int = 0) -> ImageSet:
    """An ImageSet with round(share * N) of its images stamped, in equal parts with each of `triggers`, labels kept.

    What unlearning trains on (Wang et al., 2019): a trigger that no longer says anything about the label.
    """
    if not triggers:
        return data_set
    chosen = np.random.default_rng(seed).permutation(len(data_set.targets))[:round(share * len(data_set.targets))]
    data, poisoned = data_set.data.copy(), np.zeros(len(data_set.targets), dtype=bool)
    for trigger, rows in zip(triggers, np.array_split(chosen, len(triggers)), strict=True):
        data[rows] = trigger.stamp(data[rows])
    poisoned[chosen] = True
    return replace(data_set, data=data, poisoned=poisoned)


def poison_training_set(train: ImageSet, poison_type: str, target: int | None, rate: float | None, seed: int = 0,
                        sources: tuple[int, ...] | None = None, **settings: Any) -> tuple[ImageSet, Trigger]:
    """(training ImageSet, Trigger that its ASR is measured with) of a row of ATTACKS on the attacker's images.

    target None is all-to-all, and `sources` are the only classes that are poisoned; both for a row that is_static.
    `rate` and `seed` choose the images of an attack that poisons a share of them. settings: the row's own flags, at
    their defaults where they are not given. Raises UserError.
    """
    attack = ATTACKS[poison_type]
    settings = {**attack.defaults(), **settings}
    if attack.load:
        return attack.load(train, target, **settings)
    if attack.build:
        trigger = attack.build(train, target, seed, **settings)
    else:
        trigger = build_trigger(poison_type, target, settings["trigger_alpha"], settings["trigger_image"],
                                train.data.shape[1:3], sources, train.num_classes if target is None else None)
    return (train if attack.rate is None else poison(train, trigger, rate, seed, attack.keeps_labels)[0]), trigger


def _with(data_set: DataSet, data: np.ndarray, targets: np.ndarray, poisoned: np.ndarray) -> DataSet:
    """`data_set` with new images and labels; an ImageSet also learns which are poisoned and keeps its true labels."""
    if is_dataclass(data_set):
        flags = data_set.poisoned.copy()
        flags[poisoned] = True
        return replace(data_set, data=data, targets=targets, poisoned=flags)
    changed = copy(data_set)
    changed.data, changed.targets = data, targets.tolist()
    return changed
