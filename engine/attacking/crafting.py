"""Crafting training images on a benign model: which images of the target class are changed, and what is left of it.

For attacks that change pixels and no label, and leave a training set for train_backdoor.py.
"""
import logging
from argparse import Namespace
from dataclasses import replace

import numpy as np

from common.errors import UserError
from data.clean_label import save_clean_label
from data.image_set import ImageSet
from data.poison_cifar import share_of
from data.triggers import Trigger
from engine.runs.run import Run

SET = ("data.npy", "label.npy", "backdoor_list.npy", "trigger.npz", "manifest.json")  # the files that leave_set writes
log = logging.getLogger("backdoor")


def choose_images(image_set: ImageSet, target: int, rate: float, seed: int) -> np.ndarray:
    """Sorted indices of a share of the images of the target class, drawn by `seed`. UserError where that is none."""
    own = np.flatnonzero(image_set.targets == target)
    chosen = np.random.default_rng(seed).choice(own, share_of(rate, len(own)), replace=False)
    if not len(chosen):
        raise UserError(f"--poison-rate {rate}: no image of the {len(own)} of class {target} would be poisoned")
    return np.sort(chosen)


def log_shares(image_set: ImageSet, chosen: np.ndarray, target: int) -> dict:
    """What part of the target class and of the whole set the images `chosen` are, as results.json has it; logged."""
    of_class = int((image_set.targets == target).sum())
    shares = {"poisoned": len(chosen), "of_class": len(chosen) / of_class, "class_size": of_class,
              "of_training_set": len(chosen) / len(image_set), "training_set": len(image_set)}
    log.info("poisoning %(poisoned)d images: %(of_class).4f of the %(class_size)d of the target class, "
             "%(of_training_set).4f of the %(training_set)d training images", shares)
    return shares


def leave_set(run: Run, args: Namespace, attack: str, train: ImageSet, chosen: np.ndarray, images: np.ndarray,
              trigger: Trigger, **more) -> None:
    """Write the training set whose images `chosen` are `images`, uint8 (n, H, W, 3), into the run's folder.

    attack: the --poison-type that trains on it. args: of the script, with poison_target, poison_rate and seed. more:
    further entries of the manifest, which says which images the set was made from, and how: what training compares
    before it takes the set.
    """
    data, poisoned = train.data.copy(), np.zeros(len(train), dtype=bool)
    if np.array_equal(data[chosen], images):
        log.warning("no pixel of any crafted image differs from its original: this set attacks no model")
    data[chosen], poisoned[chosen] = images, True
    save_clean_label(run.folder, replace(train, data=data, poisoned=poisoned), trigger, {
        "attack": attack, "dataset": train.name, "made_from": train.fingerprint(), "poisoned": len(chosen),
        "poison_target": args.poison_target, "poison_rate": args.poison_rate, "seed": args.seed, **more})
