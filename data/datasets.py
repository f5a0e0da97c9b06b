"""Where images come from, and how they are split between attacker and defender."""
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.untrusted import read_text
from data.exported import read_exported, read_manifest
from data.image_folder import IMAGE_SIZE, SPLITS, WHOLE, is_sorted_into_classes, read_image_folder
from data.image_set import DataSet, ImageSet, take
from data.sources import SOURCES, comes_alone
from data.sources.folders import check_folder

SHUFFLE_FILE = Path(__file__).with_name("cifar_shuffle.txt")
SPLIT_SEED = 0
log = logging.getLogger("backdoor.data")


def split_dataset(dataset: DataSet, val_frac: float, perm: np.ndarray) -> tuple[DataSet, DataSet]:
    """Split into (attacker's, defender's): the defender gets the first int(val_frac * N) of `perm`.

    perm: (N,) indices, np.loadtxt("data/cifar_shuffle.txt", dtype=int) for CIFAR-10. Returns two data sets of the
    same kind as `dataset`, which is left as it is.
    """
    held_out = int(val_frac * len(dataset.targets))
    return take(dataset, perm[held_out:]), take(dataset, perm[:held_out])


def load_splits(dataset: str, data_dir: str | Path, val_frac: float = 0.1, image_size: int | None = None) -> tuple[
        ImageSet, ImageSet, ImageSet]:
    """The attacker's training images, the defender's held-out images, and the test images, as ImageSets.

    image_size: pixels a side that all images are resized to; None for IMAGE_SIZE.

    `val_frac` of the training images, the first of one fixed permutation, are the defender's (0.1 in the
    homework: 5,000 of CIFAR-10's 50,000). A folder of studies.export_images --poisoned says itself whose its images
    are; the attacker's are poisoned there. Raises UserError if the data cannot be had.
    """
    if not SOURCES[dataset].places and (has_splits(data_dir) or read_manifest(data_dir)):
        raise two_data_sets(dataset, data_dir)
    if not comes_alone(dataset, data_dir) and read_manifest(data_dir):
        parts, classes, name = read_exported(data_dir, image_size or IMAGE_SIZE)
        log_images(name, data_dir)
        return tuple(ImageSet(data, targets, classes, name, poisoned, original)
                     for data, targets, original, poisoned in parts.values())
    train, test = load_train_and_test(dataset, data_dir, image_size)
    log_images(train.name, data_dir if SOURCES[dataset].places else None)
    attacker, defender = split_dataset(train, val_frac, fixed_permutation(len(train)))
    missing = sorted(set(range(train.num_classes)) - set(attacker.targets.tolist()))
    if missing:
        raise UserError(f"{data_dir}: after a tenth went to the defender, no training image of the class "
                        f"{train.classes[missing[0]]} is left; it needs more images")
    return attacker, defender, test


def load_clean(dataset: str, data_dir: str | Path, image_size: int | None = None) -> tuple[ImageSet, ImageSet]:
    """What a defense has: the defender's held-out images and the test images, as ImageSets.

    Those of `load_splits`; of a folder <class>/* of clean images, which no training set comes with, one half each.
    image_size: as for load_splits.
    """
    is_alone = comes_alone(dataset, data_dir)
    is_beside = not SOURCES[dataset].places and str(data_dir) != "data"  # the default, in which anything may lie
    if (not is_alone or is_beside) and is_sorted_into_classes(data_dir):
        if is_alone:
            raise two_data_sets(dataset, data_dir)
        return halve(load_clean_folder(data_dir, image_size))
    _, defender, test = load_splits(dataset, data_dir, image_size=image_size)
    return defender, test


def log_images(name: str, folder: str | Path | None) -> None:
    """Log which images were read, and the folder that they lie in; None where they come with a library."""
    log.info("images: %s%s", name, f" in {folder}" if folder is not None else "")


def two_data_sets(dataset: str, data_dir: str | Path) -> UserError:
    """The error for a data set that comes with a library, and a folder that is one too."""
    return UserError(f"--dataset {dataset}: comes with a library, but the images in {data_dir} are a data set too; "
                     "leave out --dataset or --data-dir")


def load_clean_folder(data_dir: str | Path, image_size: int | None = None) -> ImageSet:
    """The ImageSet of a folder <class>/*, its images resized to `image_size` pixels a side (None: IMAGE_SIZE)."""
    arrays, classes = read_image_folder(data_dir, WHOLE, image_size or IMAGE_SIZE)
    images = ImageSet(*arrays[""], classes, Path(data_dir).resolve().name)
    log_images(images.name, data_dir)
    return images


def halve(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Two ImageSets in random order, of every class one half each, by a fixed seed.

    In random order, since a defense takes the first of its images for one thing and the rest for another. Raises
    UserError for a class of one image.
    """
    counts = np.bincount(images.targets, minlength=images.num_classes)
    if counts.min() < 2:
        raise UserError(f"{images.name}: one image of the class {images.classes[counts.argmin()]}, and the defense and "
                        "its test need one each")
    from sklearn.model_selection import train_test_split
    halves = train_test_split(np.arange(len(images)), test_size=0.5, random_state=SPLIT_SEED, stratify=images.targets)
    return tuple(images.subset(half) for half in halves)


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """The names in a text file, one a line, in label order. Raises UserError for fewer than two, and for one that is
    empty or there twice."""
    try:
        lines = [line.strip() for line in read_text(path).rstrip().splitlines()]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: expected a text file in UTF-8 or UTF-16 with a class name a line ({error})") from None
    for number, name in enumerate(lines, 1):
        if not name or name in lines[:number - 1]:
            raise UserError(f"{path}: line {number}: expected the name of one more class, got {name or 'an empty line'}"
                            f"{', which is there twice' if name else ''}")
    if len(lines) < 2:
        raise UserError(f"{path}: expected a class name a line, two or more, got {len(lines)}")
    return tuple(lines)


def in_label_order(images: ImageSet, classes: Sequence[str]) -> ImageSet:
    """The same images with the labels that `classes`, the same names in another order, give them."""
    new_label = np.array([classes.index(name) for name in images.classes])
    return replace(images, targets=new_label[images.targets], original=new_label[images.original],
                   classes=tuple(classes))


def fixed_permutation(n: int) -> np.ndarray:
    """The permutation of n images that splits attacker from defender: data/cifar_shuffle.txt when n is 50,000.

    That file was made by the same seeded rule, and is committed so that other programs can read it.
    """
    if n == 50_000:
        return np.loadtxt(SHUFFLE_FILE, dtype=int)
    return np.random.default_rng(SPLIT_SEED).permutation(n)


def load_train_and_test(dataset: str, data_dir: str | Path, image_size: int | None = None) -> tuple[ImageSet, ImageSet]:
    """(train, test) ImageSets. A `data_dir` with train/ and test/ in it is read as an image folder.

    dataset: a name in data.sources. image_size: as for load_splits. Raises UserError if the data cannot be had.
    """
    image_size, is_alone = image_size or IMAGE_SIZE, comes_alone(dataset, data_dir)
    if not is_alone and has_splits(data_dir):
        arrays, classes = read_image_folder(data_dir, image_size=image_size)
        name = Path(data_dir).resolve().name
    else:
        if not is_alone:
            check_folder(dataset, data_dir)
        arrays, classes = SOURCES[dataset].load(data_dir, image_size)
        name = dataset
    for _, targets in arrays.values():
        if not len(targets) or targets.min() < 0 or targets.max() >= len(classes):
            raise UserError(f"{data_dir}: damaged, {name} has no images or labels beyond its {len(classes)} classes")
    return tuple(ImageSet(*arrays[split], classes, name) for split in SPLITS)


def has_splits(data_dir: str | Path) -> bool:
    """Whether a folder is divided into train/ and test/. Raises UserError where one of them is missing."""
    found = [split for split in SPLITS if (Path(data_dir) / split).is_dir()]
    if len(found) == 1:
        raise UserError(f"{data_dir}: has {found[0]}/ but not both of {' and '.join(SPLITS)}")
    return bool(found)
