"""The data sets that `--dataset` names, one row each.

To add one, add its row and a function that loads it. The flags, the checks and the tests of docs/data.md read this
table. A row needs no library: its function is imported when the data set is read.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from data.sources.signs import PLACES, SIGNS

DEFAULT = "cifar10"
DIGITS = tuple("0123456789")
Arrays = Mapping[str, tuple[np.ndarray, np.ndarray]]  # {"train" and "test": (uint8 (N, H, W, 3), int64 (N,))}


@dataclass(frozen=True)
class Source:
    """A row. title: its name in print. loader: "module:function" of (folder, image_size), which returns
    (Arrays, class names).

    classes: the names in label order, which is their sorted order too; () where the data set's own files have them.
    places: what it may be called in --data-dir, relative to it; none for a data set that comes with a library.
    archives: what torchvision makes there first. by_hand: which files go where without a network.
    is_mirrored: whether a mirrored image is still one of its class.
    """

    title: str
    loader: str
    classes: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()
    by_hand: str = ""
    is_mirrored: bool = False

    def is_in(self, folder: str | Path) -> bool:
        """Whether its files lie in a folder."""
        return any((Path(folder) / place).exists() for place in self.places)

    def load(self, folder: str | Path, image_size: int) -> tuple[Arrays, tuple[str, ...]]:
        """(Arrays, class names), its images resized to `image_size` pixels a side. Raises UserError."""
        module, _, function = self.loader.partition(":")
        return getattr(import_module(module), function)(folder, image_size)


SOURCES = {
    "cifar10": Source(
        "CIFAR-10", "data.sources.of_torchvision:load_cifar10", places=("cifar-10-batches-py",),
        archives=("cifar-10-python.tar.gz",), by_hand="cifar-10-python.tar.gz into it", is_mirrored=True),
    "cifar100": Source(
        "CIFAR-100", "data.sources.of_torchvision:load_cifar100", places=("cifar-100-python",),
        archives=("cifar-100-python.tar.gz",), by_hand="cifar-100-python.tar.gz into it", is_mirrored=True),
    "digits": Source("scikit-learn's digits", "data.sources.digits:load_digit_images", DIGITS),
    "gtsrb": Source(
        "GTSRB", "data.sources.gtsrb:load_gtsrb", SIGNS, PLACES, ("gtsrb",),
        "Final_Training/Images/00000 to 00042, Final_Test/Images/*.ppm and GT-final_test.csv into it"),
    "mnist": Source(
        "MNIST", "data.sources.of_torchvision:load_mnist", DIGITS, ("MNIST",), ("MNIST",),
        "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
        "t10k-labels-idx1-ubyte.gz into MNIST/raw/ in it"),
    "svhn": Source(
        "SVHN", "data.sources.of_torchvision:load_svhn", DIGITS, ("train_32x32.mat", "test_32x32.mat"),
        by_hand="train_32x32.mat and test_32x32.mat into it"),
}
DATASETS = tuple(SOURCES)
NOT_MIRRORED = tuple(name for name, source in SOURCES.items() if not source.is_mirrored)


def comes_alone(dataset: str, folder: str | Path) -> bool:
    """Whether a data set is read from its own files, whatever else lies in the folder.

    It comes with a library, or it was asked for by name and is there. DEFAULT may not have been asked for, so that a
    folder of images is taken before it.
    """
    source = SOURCES[dataset]
    return not source.places or (dataset != DEFAULT and source.is_in(folder))
