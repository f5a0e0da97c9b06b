"""What an attack made of a data set, as pictures in folders: what studies.export_images --poisoned writes.

train/<class>/<index>.png are the attacker's images with their labels after poisoning, test/ the clean test images,
test-triggered/ those with the trigger, and defender/ the clean images that the attacker never sees. images.csv has a
row an image, trigger_info.th the trigger, and poisoned.json, written last, the flags. Any program reads train/ and
test/ as an image folder; this suite reads the same images in the same order as the attack itself gives it.
"""
from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.errors import UserError
from common.files import write_json, write_table
from common.untrusted import is_text, read_object, read_text
from common.untrusted.images import is_called_image
from data.image_folder import Row, read_cached
from data.image_set import ImageSet

MANIFEST, TABLE, TRIGGER = "poisoned.json", "images.csv", "trigger_info.th"
COLUMNS = ("file", "index", "original_label", "label", "poisoned")
READ = ("train", "defender", "test")  # what load_splits returns; test-triggered/ is for other programs
Parts = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]


def write_exported(folder: Path, parts: Mapping[str, ImageSet], indices: Mapping[str, np.ndarray], dataset: str,
                   flags: Mapping[str, Any]) -> int:
    """Write ImageSets {split: ...} as PNG into the new `folder`, with TABLE and MANIFEST; returns how many images.

    indices: {split: int (N,)} of those that are not numbered from 0 through. dataset: what figures measured on it are
    labeled with. flags: the attack's, by name. Raises UserError for a class that no folder can be called.
    """
    rows = [row for split, images in parts.items() for row in write_part(folder, split, images, indices.get(split))]
    write_table(folder / TABLE, COLUMNS, rows)
    write_json(folder / MANIFEST, {"dataset": dataset, "classes": list(parts["train"].classes), "flags": dict(flags)})
    return len(rows)


def write_part(folder: Path, split: str, images: ImageSet, indices: np.ndarray | None = None) -> Iterator[dict]:
    """Write the images of one split; yields the rows of TABLE."""
    indices = range(len(images)) if indices is None else indices
    for name in images.classes:
        check_name(name)
        (folder / split / name).mkdir(parents=True, exist_ok=True)
    for index, pixels, label, original, is_poisoned in zip(
            indices, images.data, images.targets, images.original, images.poisoned, strict=True):
        file = name_of(split, images.classes[label], index)
        Image.fromarray(pixels).save(folder / file)
        yield {"file": file, "index": int(index), "original_label": images.classes[original],
               "label": images.classes[label], "poisoned": int(is_poisoned)}


def name_of(split: str, label: str, index: int) -> str:
    """Where an image lies in the folder."""
    return f"{split}/{label}/{index:05d}.png"


def check_name(name: str) -> None:
    """UserError for a class that no folder can be called."""
    if name in ("", ".", "..") or any(letter in name for letter in "/\\\0"):
        raise UserError(f"class {name!r}: cannot be the name of a folder")


def read_manifest(folder: str | Path) -> dict | None:
    """{"dataset", "classes", "flags"} of an exported folder; None for another folder. Raises UserError."""
    path = Path(folder) / MANIFEST
    if not path.exists():
        return None
    try:
        found = read_object(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); export the images again") from None
    classes, flags = found.get("classes"), found.get("flags")
    if not (is_text(found.get("dataset")) and isinstance(flags, dict) and isinstance(classes, list)
            and len(set(map(str, classes))) == len(classes) > 1 and all(map(is_text, classes))):
        raise UserError(f"{path}: expected dataset, classes and flags; export the images again")
    for name in classes:
        check_name(name)
    return found


def read_exported(folder: str | Path, image_size: int) -> tuple[Parts, tuple[str, ...], str]:
    """({split: (data, targets, original, poisoned)}, classes, name of the data set) of READ, as ImageSet has them.

    Raises UserError where the pictures are not those that TABLE names.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    classes = tuple(manifest["classes"])
    table = read_table(folder, classes)
    files = {split: list_rows(folder, split, table[split]) for split in READ}
    arrays = read_cached(folder, files, classes, image_size)
    parts = {split: (*arrays[split], np.array([row[1] for row in table[split]], dtype=np.int64),
                     np.array([row[2] for row in table[split]], dtype=bool)) for split in READ}
    return parts, classes, manifest["dataset"]


def read_table(folder: Path, classes: tuple[str, ...]) -> dict[str, list[tuple[int, int, bool]]]:
    """{split: [(label, original label, poisoned)]} of READ in TABLE, by index. Raises UserError."""
    path, table = folder / TABLE, {split: [] for split in READ}
    try:
        for row in csv.DictReader(read_text(path).splitlines()):
            split = row["file"].partition("/")[0]
            if split not in table:
                continue
            label, original = classes.index(row["label"]), classes.index(row["original_label"])
            if row["file"] != name_of(split, row["label"], len(table[split])) or row["poisoned"] not in ("0", "1"):
                raise ValueError(f"row {row['file'][:60]}")
            table[split].append((label, original, row["poisoned"] == "1"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: damaged ({error}); export the images again") from None
    for split, rows in table.items():
        if not rows:
            raise UserError(f"{path}: names no image in {split}/; export the images again")
    return table


def list_rows(folder: Path, split: str, rows: list[tuple[int, int, bool]]) -> list[Row]:
    """The files of one split in the order of TABLE. Raises UserError if one is missing, or there is one more."""
    classes = read_manifest(folder)["classes"]
    expected = [name_of(split, classes[label], index) for index, (label, *_) in enumerate(rows)]
    there = {path.relative_to(folder).as_posix(): path for path in (folder / split).glob("*/*")
             if is_called_image(path.name)}
    if there.keys() != set(expected):
        odd = min(there.keys() ^ set(expected))
        raise UserError(f"{folder / odd}: {'not named in' if odd in there else 'missing, though named in'} {TABLE}; to "
                        f"have the folder read as any other, remove {MANIFEST}")
    found = []
    for name, (label, *_) in zip(expected, rows, strict=True):
        status = there[name].stat()
        found.append((str(there[name]), label, status.st_size, status.st_mtime_ns))
    return found
