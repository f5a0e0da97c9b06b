"""CIFAR-10 and CIFAR-100, MNIST, and SVHN as torchvision has them, downloaded on first use.

torchvision compares each archive with the checksum of the published one before it unpacks it, and the files of CIFAR
and SVHN again before it reads them, of which CIFAR's are pickles.
"""
from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError
from common.locks import alone_in
from common.untrusted.limits import MAX_ARRAY, check_size
from data.image_folder import check_room, resized
from data.sources import SOURCES, Arrays, Source

if TYPE_CHECKING:
    from torchvision.datasets import VisionDataset


def load_cifar10(folder: str | Path, image_size: int) -> tuple[Arrays, tuple[str, ...]]:
    """CIFAR-10: 50,000 and 10,000 color images of 32x32 pixels."""
    return load_cifar("cifar10", "CIFAR10", folder, image_size)


def load_cifar100(folder: str | Path, image_size: int) -> tuple[Arrays, tuple[str, ...]]:
    """CIFAR-100 with its 100 fine labels: 50,000 and 10,000 color images of 32x32 pixels."""
    return load_cifar("cifar100", "CIFAR100", folder, image_size)


def load_cifar(dataset: str, name: str, folder: str | Path, image_size: int
               ) -> tuple[Arrays, tuple[str, ...]]:
    """One of the two by torchvision's class `name`."""
    sets = {split: fetch(dataset, name, folder, train=split == "train") for split in ("train", "test")}
    return ({split: as_arrays(cifar.data, cifar.targets, image_size) for split, cifar in sets.items()},
            tuple(sets["train"].classes))


def load_mnist(folder: str | Path, image_size: int) -> tuple[Arrays, tuple[str, ...]]:
    """MNIST: 60,000 and 10,000 gray images of 28x28 pixels. Unpacked files have no checksum, but a largest size."""
    for path in (Path(folder) / "MNIST").glob("*/*"):
        check_size(path, MAX_ARRAY)
    sets = {split: fetch("mnist", "MNIST", folder, train=split == "train") for split in ("train", "test")}
    return ({split: as_arrays(mnist.data.numpy(), mnist.targets.numpy(), image_size) for split, mnist in sets.items()},
            SOURCES["mnist"].classes)


def load_svhn(folder: str | Path, image_size: int) -> tuple[Arrays, tuple[str, ...]]:
    """SVHN's cropped digits: 73,257 and 26,032 color images of 32x32 pixels; its `extra` images are left out."""
    sets = {split: fetch("svhn", "SVHN", folder, split=split) for split in ("train", "test")}
    return ({split: as_arrays(svhn.data.transpose(0, 2, 3, 1), svhn.labels, image_size)
             for split, svhn in sets.items()}, SOURCES["svhn"].classes)


def fetch(dataset: str, name: str, folder: str | Path, **which: Any) -> VisionDataset:
    """torchvision's data set of the class `name` in a folder, to which it is downloaded where it is not there.

    Raises UserError, which says which files go where, if it can neither be read nor downloaded.
    """
    import torchvision.datasets
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with alone_in(folder):  # a second download at once would write into the first one's files
            return getattr(torchvision.datasets, name)(root=str(folder), download=True, **which)
    except Exception as error:  # no network, a full disk; and damaged files make its readers raise almost anything
        source = SOURCES[dataset]
        remove_empty(source, Path(folder))
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--data-dir {folder}: {source.title} could be neither read there nor downloaded ({reason}); "
                        f"without a network put {source.by_hand}, or take --dataset digits, which needs none"
                        ) from None


def remove_empty(source: Source, folder: Path) -> None:
    """Remove the empty folders that a download without a network leaves: they would look like the data set."""
    for name in source.archives:
        for path in (folder / name / "raw", folder / name):
            with suppress(OSError):  # it is not empty, no folder, or not there
                path.rmdir()


def as_arrays(data: np.ndarray, targets: np.ndarray | list[int], image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 (N, image_size, image_size, 3), int64 (N,)) of uint8 (N, H, W[, 3]); gray levels stand in each color."""
    if data.shape[1:3] != (image_size, image_size):
        check_room(len(data), image_size)
        data = np.stack([resized(image, image_size) for image in data])
    if data.ndim == 3:
        data = np.repeat(data[..., None], 3, axis=3)
    return np.ascontiguousarray(data), np.asarray(targets, dtype=np.int64)
