"""Images with labels in memory: what every part of the suite hands on."""
import hashlib
from copy import copy
from dataclasses import dataclass, field, is_dataclass, replace
from typing import TypeVar

import numpy as np

DataSet = TypeVar("DataSet")  # an ImageSet, or torchvision's CIFAR10 and what is shaped like it


@dataclass(frozen=True)
class ImageSet:
    """Images with labels, in memory.

    data: uint8 (N, H, W, 3), RGB. targets: int64 (N,), what a model is trained or scored on.
    poisoned: bool (N,), which images carry a trigger. original: int64 (N,), the labels before poisoning.
    classes: the class names in label order. name: what figures measured on it are labeled with.
    """

    data: np.ndarray
    targets: np.ndarray
    classes: tuple = ()
    name: str = ""
    poisoned: np.ndarray = field(default=None)
    original: np.ndarray = field(default=None)

    def __post_init__(self):
        if self.poisoned is None:
            object.__setattr__(self, "poisoned", np.zeros(len(self.targets), dtype=bool))
        if self.original is None:
            object.__setattr__(self, "original", self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_size(self) -> int:
        """Pixels a side; of images that are not square, their height."""
        return self.data.shape[1]

    def fingerprint(self) -> str:
        """A hash of the pixels and labels, to tell whether two runs saw the same."""
        digest = hashlib.sha256(np.ascontiguousarray(self.data))
        digest.update(np.ascontiguousarray(self.targets))
        return digest.hexdigest()

    def subset(self, indices: np.ndarray | slice) -> "ImageSet":
        """The images at `indices` (ints or a bool mask), as a new ImageSet."""
        return replace(self, data=self.data[indices], targets=self.targets[indices],
                       poisoned=self.poisoned[indices], original=self.original[indices])

    def spread(self, count: int) -> "ImageSet":
        """At most `count` of the images, evenly over the set: the first ones of an image folder are of one class."""
        rows = np.arange(len(self))
        return self.subset(rows if len(rows) <= count else rows[np.arange(count) * len(rows) // count])


def take(data_set: DataSet, indices: np.ndarray) -> DataSet:
    """The rows at `indices` (ints (n,) or a bool mask (N,)) of an ImageSet or of a torchvision-like data set, as a new
    one."""
    if is_dataclass(data_set):
        return data_set.subset(indices)
    taken = copy(data_set)
    taken.data, taken.targets = data_set.data[indices], np.asarray(data_set.targets)[indices].tolist()
    return taken
