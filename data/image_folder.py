"""Read a folder of pictures, sorted into train/ and test/ or into classes alone, into cached uint8 arrays."""
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from common.files import atomic_file
from common.untrusted import read_archive
from common.untrusted.images import IN_WORDS, is_called_image, is_hidden, read_rgb

SPLITS = ("train", "test")
WHOLE = ("",)  # the one split of a folder <class>/*, which is not divided
CACHE_VERSION = 2
DARK = 16  # gray level of 255, that a sound folder goes beyond; 12 bits in 16 end there
MANY_TWINS = 0.01  # share of test images that are training images too; CIFAR-10 has a few
Row = tuple[str, int, int, int]  # (path, label, size, modification time in ns) of an image file
IMAGE_SIZE = 32  # pixels a side, where nothing else is asked for; CIFAR-10's
log = logging.getLogger("backdoor.data")


def read_image_folder(data_dir: str | Path, splits: Sequence[str] = SPLITS, image_size: int = IMAGE_SIZE) -> tuple[
        dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """Return ({split: (data, targets)}, classes) of an image folder <split>/<class>/*; of <class>/* with WHOLE.

    data is uint8 (N, image_size, image_size, 3), targets int64 (N,), classes the folder names in sorted order. The
    arrays are kept in `data_dir`/.decoded-32x32.npz (or another size) and read from there until any file's name, size
    or time changes.
    Raises UserError for fewer than two classes, an empty class, test classes that are not the training ones,
    and an image that cannot be read.
    """
    data_dir = Path(data_dir)
    classes = check_classes(data_dir, splits)
    files = {split: list_files(data_dir / split, classes) for split in splits}
    arrays = read_cached(data_dir, files, classes, image_size)
    warn_of_scale(data_dir, arrays)
    if splits == SPLITS:
        warn_of_twins(data_dir, *(arrays[split][0] for split in SPLITS))
    return arrays, classes


def warn_of_scale(data_dir: Path, arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Log a warning if all images uint8 (N, H, W, 3) are nearly black, as pixels of another scale are."""
    brightest = max(int(data.max()) for data, _ in arrays.values())
    if brightest <= DARK:
        log.warning("%s: no pixel of its images is brighter than %d of 255; were they saved on another scale (0 to 1, "
                    "or 12 of 16 bits)?", data_dir, brightest)


def warn_of_twins(data_dir: Path, train: np.ndarray, test: np.ndarray) -> None:
    """Log a warning if many test images, uint8 (N, H, W, 3), are among the training images: ACC is then too high."""
    known = set(map(digest_of, train))
    twins = sum(digest_of(image) in known for image in test)
    if twins > MANY_TWINS * len(test):
        log.warning("%s: %d of the %d images in test/ are in train/ too, so accuracy on them says little", data_dir,
                    twins, len(test))


def digest_of(image: np.ndarray) -> int:
    """A hash of some 3,000 of an image's values: equal images have equal ones."""
    return hash(image.reshape(-1)[::max(1, image.size // 3072)].tobytes())


def read_cached(data_dir: Path, files: Mapping[str, Sequence[Row]], classes: Sequence[str], image_size: int) -> dict[
        str, tuple[np.ndarray, np.ndarray]]:
    """{split: (data, targets)} of the listed files, from the cache in `data_dir` where it has them."""
    stamp, cache = fingerprint(files, classes, image_size), data_dir / cache_name(image_size)
    arrays = read_cache(cache, stamp, files, image_size)
    if arrays is None:
        arrays = {split: decode(rows, image_size) for split, rows in files.items()}
        write_cache(cache, stamp, arrays)
    return arrays


def cache_name(image_size: int = IMAGE_SIZE) -> str:
    """The file in an image folder that holds its images of this many pixels a side, decoded."""
    return f".decoded-{image_size}x{image_size}.npz"


def is_sorted_into_classes(data_dir: str | Path) -> bool:
    """Whether folders with images in them lie in `data_dir` itself, and neither train/ nor test/.

    One that a script of this suite has left there, with pictures of its own, is none of them.
    """
    if any((Path(data_dir) / split).is_dir() for split in SPLITS):
        return False
    try:
        folders = [entry.path for entry in os.scandir(data_dir) if entry.is_dir() and not is_hidden(entry.name)]
        return any(holds_image(folder) for folder in folders if not is_run(folder))
    except OSError:
        return False


def holds_image(folder: str | Path) -> bool:
    """Whether a file that is called an image lies in a folder itself."""
    with os.scandir(folder) as entries:
        return any(map(is_image, entries))


def is_run(folder: str | Path) -> bool:
    """Whether a script of this suite has left the folder."""
    return all((Path(folder) / name).is_file() for name in ("config.json", "output.log"))


def is_image(entry: os.DirEntry) -> bool:
    """Whether an entry of os.scandir is a file that is called an image."""
    return is_called_image(entry.name) and entry.is_file()


def check_classes(data_dir: Path, splits: Sequence[str]) -> tuple[str, ...]:
    """The class names that the splits share; UserError where they do not, or are fewer than two."""
    found = {}
    for split in splits:
        try:
            folders = [entry.name for entry in os.scandir(data_dir / split)
                       if entry.is_dir() and not is_run(entry.path)]
        except FileNotFoundError:
            folders = []
        found[split] = sorted(name for name in folders if not is_hidden(name))
        if not found[split]:
            raise UserError(f"{data_dir / split}: expected one folder per class with {IN_WORDS} files in it, found "
                            "none")
    first, last = found[splits[0]], found[splits[-1]]
    if first != last:
        odd = sorted(set(first) ^ set(last))
        raise UserError(f"{data_dir}: train/ and test/ must have the same classes, but only one of them has "
                        f"{', '.join(odd[:5])}")
    if len(first) < 2:
        raise UserError(f"{data_dir / splits[0]}: expected at least 2 classes, got 1 ({first[0]})")
    return tuple(first)


def list_files(folder: Path, classes: Sequence[str]) -> list[Row]:
    """[(path, label, size, modification time in ns)] of a split, in sorted order."""
    rows, ignored = [], 0
    for label, name in enumerate(classes):
        entries = sorted((entry for entry in os.scandir(folder / name) if not is_hidden(entry.name)),
                         key=lambda entry: entry.name)
        images = [entry for entry in entries if is_image(entry)]
        ignored += len(entries) - len(images)
        if not images:
            raise UserError(f"{folder / name}: expected {IN_WORDS} files, found none")
        for entry in images:
            status = entry.stat()
            rows.append((entry.path, label, status.st_size, status.st_mtime_ns))
    if ignored:
        log.warning("%s: ignored %d entries that are not %s files", folder, ignored, IN_WORDS)
    return rows


def find_files(path: str | Path) -> list[Path]:
    """Every file in a folder and beneath it, in sorted order, or the one file `path`; hidden ones are left out.

    So are hidden folders. A picture under another suffix is a picture too. Raises UserError if there is none.
    """
    if not str(path):
        raise UserError("expected a file or a folder, got an empty name")
    if Path(path).is_file():
        return [Path(path)]

    def complain(error: Exception):
        raise UserError(f"{error.filename}: {error.strerror}")
    found = []
    for folder, folders, names in os.walk(path, onerror=complain):
        folders[:] = [name for name in folders if not is_hidden(name)]  # which os.walk then leaves out
        found += [Path(folder) / name for name in names if not is_hidden(name)]
    if not found:
        raise UserError(f"{path}: expected an image, or a folder with images in it, found none")
    return sorted(found)


def fingerprint(files: Mapping[str, Sequence[Row]], classes: Sequence[str], image_size: int = IMAGE_SIZE) -> str:
    """A hash over every file's path, label, size and time, and what images are resized to: it changes when they do."""
    digest = hashlib.sha256(repr((CACHE_VERSION, classes, image_size)).encode())
    for split in files:
        for path, label, size, changed in files[split]:
            digest.update(f"{split}/{label}/{size}/{changed}/".encode() + os.fsencode(os.path.basename(path)))
    return digest.hexdigest()


def decode(rows: Sequence[Row], image_size: int = IMAGE_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 (N, image_size, image_size, 3), int64 (N,)) of the listed files."""
    check_room(len(rows), image_size)
    data = np.empty((len(rows), image_size, image_size, 3), dtype=np.uint8)
    others = 0
    for i, (path, *_) in enumerate(rows):
        data[i], was_other_size = read_image(path, image_size)
        others += was_other_size
    if others:
        log.warning("resized %d of %d images to %dx%d", others, len(rows), image_size, image_size)
    return data, np.array([row[1] for row in rows], dtype=np.int64)


def read_image(path: str | Path, image_size: int = IMAGE_SIZE) -> tuple[np.ndarray, bool]:
    """(uint8 (image_size, image_size, 3), whether it had another size) of one image file.

    Raises UserError if it is unreadable.
    """
    image = read_rgb(path)
    if image.size == (image_size, image_size):
        return np.asarray(image), False
    return resized(image, image_size), True


def check_room(count: int, image_size: int) -> None:
    """UserError if `count` images of that size are more than this machine's memory. A stranger's model may claim any
    size."""
    needed, there = count * image_size**2 * 3, memory()
    if needed > there:
        raise UserError(f"--image-size {image_size}: {count} images of that size take {needed / 2**30:.0f} GiB, and "
                        f"this machine has {there / 2**30:.0f}; give a smaller one")


def memory() -> int:
    """Bytes of memory that this machine has; more than any where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 2**63


def resized(image: Image.Image | np.ndarray, image_size: int, how: Image.Resampling = Image.Resampling.BILINEAR
            ) -> np.ndarray:
    """uint8 (image_size, image_size[, 3]) of a picture, or of uint8 (H, W[, 3]); not the proportions, but all of it."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    return np.asarray(image.resize((image_size, image_size), how))


def read_cache(path: Path, stamp: str, files: Mapping[str, Sequence[Row]], image_size: int) -> dict | None:
    """The cached arrays, or None where there are none for this state of the folder, whose `files` are {split: rows}."""
    try:
        cache = read_archive(path, 2**16 + 2 * sum(map(len, files.values())) * image_size**2 * 3)
        if str(cache["stamp"]) != stamp:
            return None
        arrays = {split: (cache[f"{split}_data"], cache[f"{split}_targets"]) for split in files}
    except (UserError, KeyError):
        return None  # none yet, or damaged: the images are still there
    sound = all(data.dtype == np.uint8 and data.shape == (len(files[split]), image_size, image_size, 3)
                and np.array_equal(targets, [row[1] for row in files[split]])
                for split, (data, targets) in arrays.items())
    return arrays if sound else None


def write_cache(path: Path, stamp: str, arrays: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Keep the arrays for the next start. A folder that cannot be written to is read anew each time."""
    flat = {f"{split}_{kind}": array for split in arrays
            for kind, array in zip(("data", "targets"), arrays[split], strict=True)}
    try:
        with atomic_file(path) as file:
            np.savez(file, stamp=np.array(stamp), **flat)
    except UserError as error:
        log.warning("%s; the next start decodes the images again", error)
