"""A clean-label training set on disk: what a crafting script writes and train_backdoor.py reads.

data.npy uint8 (N, H, W, 3), label.npy int64 (N,), backdoor_list.npy int64 (n,), of which a float64 (N,) of 0 and 1, as
the course's program writes it, is read too, and what the homework does not have: trigger.npz, the trigger of the test
images, and manifest.json, which attacker's images it was made from and for which attack.
"""
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.errors import UserError
from common.files import atomic_file, write_array, write_json
from common.untrusted import read_archive, read_array, read_json
from data.image_set import ImageSet
from data.triggers.base import Trigger
from data.triggers.info import trigger_from_info
from data.triggers.pattern import PatternTrigger

CRAFTER = "generate_clb_attack.py"  # the homework's


class CIFAR10CLB:
    """The clean-label training set in `root`, shaped like torchvision's CIFAR10.

    data: uint8 (N, H, W, 3). targets: list of N ints. backdoor_list: int64 indices of the poisoned images, empty
    where the folder does not say. made_by: the script that errors name. Raises UserError for files that are missing or
    not that.
    """

    def __init__(self, root: str | Path, transform: Callable[[Image.Image], Any] | None = None,
                 made_by: str = CRAFTER) -> None:
        root = Path(root)
        if not root.is_dir():
            beside = ", ".join(str(path.parent) for path in sorted(root.parent.glob("*/data.npy")))
            raise UserError(f"{root}: no such clean-label folder; {made_by} makes one"
                            + (f"; beside it: {beside}" if beside else ""))
        self.transform = transform
        self.data, labels = read_array(root / "data.npy"), read_array(root / "label.npy")
        shape_fits = self.data.ndim == 4 and self.data.shape[3] == 3 and self.data.size > 0
        _expect(root / "data.npy", self.data, self.data.dtype == np.uint8 and shape_fits,
                "uint8 (N, H, W, 3), N at least 1")
        _expect(root / "label.npy", labels, labels.size == len(self.data) and _is_whole(labels),
                f"{len(self.data)} integers, one for each image")
        self.targets = labels.reshape(-1).astype(np.int64).tolist()
        path, self.backdoor_list = root / "backdoor_list.npy", np.zeros(0, dtype=np.int64)
        if path.exists():
            self.backdoor_list = _poisoned_indices(path, read_array(path), len(self))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """(image, as a PIL image or what `transform` makes of it, label)."""
        image = Image.fromarray(self.data[index])
        return (image if self.transform is None else self.transform(image)), self.targets[index]


def _expect(path: str | Path, array: np.ndarray, good: bool, expected: str):
    if not good:
        raise UserError(f"{path}: expected {expected}, got {array.dtype} {array.shape}")


def _is_whole(array: np.ndarray):
    """Whether all values are integers, of whatever type, along one axis that is longer than 1."""
    is_flat = array.ndim >= 1 and array.size == max(array.shape)
    return is_flat and array.dtype.kind in "iuf" and bool((array == np.rint(array)).all() and np.isfinite(array).all())


def _poisoned_indices(path: str | Path, listed: np.ndarray, count: int):
    """int64 indices of the poisoned images: of an array of different indices, or of one 0 or 1 for each of `count`.

    The length tells the two apart. Raises UserError for other arrays, and for one of the set's length that is both.
    """
    listed = listed.astype(np.uint8) if listed.dtype.kind == "b" and listed.size == count else listed
    _expect(path, listed, not listed.size or _is_whole(listed),
            f"indices below {count}, or one 0 or 1 for each of {count} images")
    listed = listed.reshape(-1)
    are_indices = len(np.unique(listed)) == len(listed) and bool(((listed >= 0) & (listed < count)).all())
    are_flags = len(listed) == count and bool(np.isin(listed, (0, 1)).all())
    if are_indices and are_flags:
        raise UserError(f"{path}: {len(listed)} values for {count} images can be indices, or a 0 or 1 for each image; "
                        "leave the file out, or poison a larger set")
    _expect(path, listed, are_indices or are_flags,
            f"different indices below {count}, or one 0 or 1 for each of {count} images")
    return np.flatnonzero(listed) if are_flags else listed.astype(np.int64)


def save_clean_label(root: str | Path, image_set: ImageSet, trigger: Trigger,
                     manifest: Mapping[str, Any]) -> None:
    """Write an ImageSet whose `poisoned` images were crafted for `trigger`; `manifest` last of all.

    manifest: {"made_from": fingerprint of the attacker's images, "dataset": their name, "poisoned": how many,
    "attack": the --poison-type that it is for, ...}.
    """
    root = Path(root)
    write_array(root / "data.npy", image_set.data)
    write_array(root / "label.npy", image_set.targets)
    write_array(root / "backdoor_list.npy", np.flatnonzero(image_set.poisoned))
    with atomic_file(root / "trigger.npz") as file:
        np.savez(file, **_parts_of(trigger))
    write_json(root / "manifest.json", manifest)


def load_clean_label(root: str | Path, clean_train: ImageSet, target: int, attack: str = "clean-label",
                     made_by: str = CRAFTER, flag: str = "--clb-dir") -> tuple[ImageSet, Trigger | None]:
    """(poisoned training ImageSet, Trigger) of the folder `root`, in place of `clean_train`.

    attack: the --poison-type that reads it. made_by, flag: the script that leaves such a folder and the flag that names
    it, for errors. The Trigger is None for a folder without a manifest, made by another program in the homework's
    format. Raises UserError for a folder that was made from other images, for another target or for another attack.
    """
    found = CIFAR10CLB(root, made_by=made_by)
    targets = np.asarray(found.targets, dtype=np.int64)
    manifest = _read_manifest(root, made_by)
    if manifest and manifest["attack"] != attack:
        raise UserError(f"{root}: made for --poison-type {manifest['attack']}, not for {attack}")
    if manifest and len(found.backdoor_list) != manifest["poisoned"]:
        raise UserError(f"{Path(root) / 'backdoor_list.npy'}: expected {manifest['poisoned']} poisoned images, got "
                        f"{len(found.backdoor_list)}; make the folder anew with {made_by} --overwrite")
    size = clean_train.data.shape[1:3]
    if found.data.shape[1:3] != size:
        raise UserError(f"{Path(root) / 'data.npy'}: expected images of {size[1]}x{size[0]} as {clean_train.name} has, "
                        f"got {found.data.shape[2]}x{found.data.shape[1]}")
    if manifest and manifest["made_from"] != clean_train.fingerprint():
        raise UserError(f"{root}: made from other images ({manifest['dataset']}) than the attacker's part of "
                        f"{clean_train.name}; make it anew with {made_by}, or give {flag}")
    if targets.min() < 0 or targets.max() >= clean_train.num_classes:
        raise UserError(f"{Path(root) / 'label.npy'}: expected labels 0 to {clean_train.num_classes - 1}, got "
                        f"{targets.min()} to {targets.max()}")
    if (targets[found.backdoor_list] != target).any():
        wrong = targets[found.backdoor_list][targets[found.backdoor_list] != target][0]
        raise UserError(f"{root}: its poisoned images have the label {wrong}, but --poison-target is {target}")
    flags = np.zeros(len(targets), dtype=bool)
    flags[found.backdoor_list] = True
    image_set = replace(clean_train, data=found.data, targets=targets, original=targets, poisoned=flags)
    return image_set, _read_trigger(root, target) if manifest else None


def _parts_of(trigger: Trigger):
    """The arrays of trigger.npz: of a picture as they always were, of any other trigger those of trigger_info.th."""
    picture = trigger.as_pattern()
    if picture is None:
        return trigger.to_info()
    return {"pattern": picture.pattern, "mask": picture.mask, "alpha": picture.alpha, "target": picture.target}


def _read_manifest(root: Path, made_by: Any):
    path = Path(root) / "manifest.json"
    if not path.exists():
        if (Path(root) / "config.json").exists():
            raise UserError(f"{root}: {made_by} did not finish there; make it anew with --overwrite")
        return None
    try:
        manifest = read_json(path)
        return {"attack": str(manifest.get("attack", "clean-label")),
                **{key: manifest[key] for key in ("made_from", "dataset", "poisoned")}}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: not a clean-label manifest; make the folder anew with {made_by} "
                        "--overwrite") from None


def _read_trigger(root: Path, target: int):
    path = Path(root) / "trigger.npz"
    parts = read_archive(path)
    try:
        if any(key.startswith("trigger_") for key in parts):
            return trigger_from_info({**parts, "poison_target": target})
        return PatternTrigger(parts["pattern"], parts["mask"], float(parts["alpha"]), target)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a trigger ({error!r})") from None
