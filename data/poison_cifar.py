"""Poison a data set: the homework's functions, for an ImageSet or torchvision's CIFAR10 alike."""
from copy import copy
from dataclasses import is_dataclass, replace

import numpy as np

from common.errors import UserError
from data.clean_label import CIFAR10CLB, load_clean_label
from data.encoder_trigger import EncoderTrigger, build_encoder, draw_secret
from data.triggers import ATTACKS, PATTERNS, PatternTrigger, build_trigger, trigger_from_info, trigger_to_info

__all__ = ["CIFAR10CLB", "add_predefined_trigger_cifar", "add_trigger_cifar", "generate_trigger", "poison",
           "poison_training_set", "split_dataset", "stamp_all", "stamp_share"]


def split_dataset(dataset, val_frac, perm):
    """Split into (attacker's, defender's): the defender gets the first int(val_frac * N) of `perm`.

    perm: (N,) indices, np.loadtxt("data/cifar_shuffle.txt", dtype=int) for CIFAR-10. Returns two data sets of the
    same kind as `dataset`, which is left as it is.
    """
    held_out = int(val_frac * len(dataset.targets))
    return _take(dataset, perm[held_out:]), _take(dataset, perm[:held_out])


def generate_trigger(trigger_type):
    """(pattern uint8 (32, 32, 1 or 3), mask uint8 (32, 32, 1)) of a trigger in data/triggers.py.

    Raises UserError for a name that is not there.
    """
    if trigger_type not in PATTERNS:
        raise UserError(f"trigger type: expected one of {', '.join(PATTERNS)}, got {trigger_type}")
    return PATTERNS[trigger_type]()


def add_trigger_cifar(data_set, trigger_type, poison_rate, poison_target, trigger_alpha=None, seed=0):
    """Stamp a named trigger on a share of the non-target images and give them the target label.

    Returns (poisoned data set, trigger_info dict). `poison_rate` is the share of the images whose label is not
    `poison_target`: int(poison_rate * candidates) of them, drawn without replacement by `seed`. `trigger_alpha` None
    is the pattern's own opacity: a picture laid over everything at 1 would make all triggered images the same.
    """
    pattern, mask = generate_trigger(trigger_type)
    if trigger_alpha is None:
        trigger_alpha = next(attack.alpha for attack in ATTACKS.values() if attack.pattern == trigger_type)
    trigger = PatternTrigger(pattern, mask, trigger_alpha, poison_target)
    poisoned, chosen = poison(data_set, trigger, poison_rate, seed)
    return poisoned, trigger_to_info(trigger, chosen)


def poison(data_set, trigger, poison_rate, seed=0):
    """Dirty-label poisoning with any Trigger. Returns (poisoned data set, indices int64 of what was poisoned).

    Raises UserError for a rate above 0 that is too small to poison a single image.
    """
    targets = np.asarray(data_set.targets)
    candidates = np.flatnonzero(targets != trigger.target)
    number = int(poison_rate * len(candidates))
    if poison_rate > 0 and not number:
        raise UserError(f"--poison-rate {poison_rate}: no image of the {len(candidates)} candidates would be poisoned")
    chosen = np.random.default_rng(seed).choice(candidates, number, replace=False)
    data, targets = data_set.data.copy(), targets.copy()
    data[chosen] = trigger.stamp(data[chosen])
    targets[chosen] = trigger.target
    return _with(data_set, data, targets, chosen), chosen.astype(np.int64)


def add_predefined_trigger_cifar(data_set, trigger_info, exclude_target=True):
    """Stamp the trigger of `trigger_info` on every image and label it with the target: the set that ASR is counted on.

    `exclude_target` leaves out the images whose own label already is the target (9,000 of 10,000 remain), without
    which even a clean model would score its share of the target class. None as `trigger_info` returns `data_set`.
    """
    if trigger_info is None:
        return data_set
    trigger = trigger_from_info(trigger_info)
    return stamp_all(data_set, trigger, exclude_target)


def stamp_all(data_set, trigger, exclude_target=True):
    """`add_predefined_trigger_cifar` with a Trigger in place of its dict."""
    targets = np.asarray(data_set.targets)
    kept = np.flatnonzero(targets != trigger.target) if exclude_target else np.arange(len(targets))
    victims = _take(data_set, kept)
    return _with(victims, trigger.stamp(victims.data), np.full(len(kept), trigger.target), np.arange(len(kept)))


def stamp_share(data_set, triggers, share, seed=0):
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


def poison_training_set(train, poison_type, target, rate, alpha=None, trigger_image=None, clb_dir=None,
                        eval_trigger="badnets", seed=0, encoder=None):
    """(training ImageSet, Trigger that its ASR is measured with) of a named attack on the attacker's images.

    poison_type: a name in data.triggers.ATTACKS; issba, whose EncoderTrigger hides a secret drawn by `seed` with the
    weights `encoder`; or benign, which poisons nothing and is measured with `eval_trigger`. `rate` and `seed` choose
    the images of a dirty-label attack; `clb_dir` holds the clean-label one, whose own trigger is used unless `alpha` or
    `trigger_image` ask for another at test time. Raises UserError.
    """
    if poison_type == "clean-label":
        poisoned, trigger = load_clean_label(clb_dir, train, target)
        if alpha is not None or trigger_image is not None:
            trigger = build_trigger(poison_type, target, alpha, trigger_image)
        return poisoned, trigger
    if poison_type == "issba":
        trigger = EncoderTrigger(encoder, draw_secret(build_encoder(encoder).bits, seed), target)
    else:
        trigger = build_trigger(eval_trigger if poison_type == "benign" else poison_type, target, alpha, trigger_image)
    if poison_type == "benign":
        return train, trigger
    return poison(train, trigger, rate, seed)[0], trigger


def _take(data_set, indices):
    """The rows at `indices` of an ImageSet or of a torchvision-like data set, as a new one."""
    if is_dataclass(data_set):
        return data_set.subset(indices)
    taken = copy(data_set)
    taken.data, taken.targets = data_set.data[indices], np.asarray(data_set.targets)[indices].tolist()
    return taken


def _with(data_set, data, targets, poisoned):
    """`data_set` with new images and labels; an ImageSet also learns which are poisoned and keeps its true labels."""
    if is_dataclass(data_set):
        flags = data_set.poisoned.copy()
        flags[poisoned] = True
        return replace(data_set, data=data, targets=targets, poisoned=flags)
    changed = copy(data_set)
    changed.data, changed.targets = data, targets.tolist()
    return changed
