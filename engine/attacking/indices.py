"""Indices into the attacker's training images: those that a detector names, and a training that leaves them out."""
from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.untrusted import read_array
from data.image_set import ImageSet
from engine.command_line.parser import Group
from engine.measuring.scores import Proportion
from engine.missing import check_there

log = logging.getLogger("backdoor")


def are_indices(array: np.ndarray, count: int) -> bool:
    """Whether an array is flat and holds different whole numbers from 0 to `count` - 1."""
    return (array.ndim == 1 and array.dtype.kind in "iu" and bool(((array >= 0) & (array < count)).all())
            and len(np.unique(array)) == len(array))


def read_indices(path: str | Path, count: int) -> np.ndarray:
    """The indices int64 (n,) of training images in a .npy file, counted as data_index of trigger_info.th is.

    Raises UserError for another array, an index that repeats, and one that is none of `count` images.
    """
    check_there(path)
    array = read_array(path)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(f"{path}: expected indices of training images, int64 (n,), got {array.dtype} {array.shape}")
    wrong = array[(array < 0) | (array >= count)]
    if len(wrong):
        raise UserError(f"{path}: expected indices from 0 to {count - 1} of the attacker's {count} training images, "
                        f"got {wrong[0]}; it may be of another data set")
    if not are_indices(array, count):
        raise UserError(f"{path}: expected different indices, got one of {len(array)} twice")
    return array.astype(np.int64)


def against_known(indices: np.ndarray, poisoned: np.ndarray) -> dict:
    """{"precision", "recall"} of indices int (n,) against what is really poisoned, bool (N,), which only evaluation
    knows; as results.json has shares, None where there is nothing to count."""
    hits = int(poisoned[indices].sum())
    return {"precision": Proportion(hits, len(indices)).as_dict(),
            "recall": Proportion(hits, int(poisoned.sum())).as_dict()}


def add_leave_out_flag(group: Group) -> None:
    group.add_argument("--leave-out", metavar="FILE.npy",
                       help="train without these images: their indices (int64) among the attacker's training images, "
                            "as detectors leave them in suspected.npy and ABL in isolated.npy")


@dataclass(frozen=True)
class Rest:
    """What a training is left with. images: an ImageSet. places: int64 (N,), where each of them stands among all; None
    where none is left out. figures: what results.json says of those that are left out."""

    images: ImageSet
    places: np.ndarray | None = None
    figures: dict = field(default_factory=dict)


def without(path: str | Path | None, poisoned: ImageSet) -> Rest:
    """The Rest of an attacker's images without those of the file --leave-out; all of them for None.

    Raises UserError as read_indices does, and where a class has no image left.
    """
    if path is None:
        return Rest(poisoned)
    indices = read_indices(path, len(poisoned))
    places = np.setdiff1d(np.arange(len(poisoned)), indices)
    rest = poisoned.subset(places)
    missing = sorted(set(poisoned.targets.tolist()) - set(rest.targets.tolist()))
    if missing:
        raise UserError(f"--leave-out {path}: leaves no training image of the class {poisoned.classes[missing[0]]}")
    number = int(poisoned.poisoned[indices].sum())
    log.info("left out %d of %d training images, %d of them poisoned (of %d)", len(indices), len(poisoned), number,
             poisoned.poisoned.sum())
    return Rest(rest, places, {"name": "retraining", "left_out": {"images": len(indices), "poisoned": number}})
