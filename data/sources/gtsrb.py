"""GTSRB, the German traffic signs, as people have it in a folder or as torchvision downloads it.

Images are resized whole: they are not cropped to the sign, whose place (Roi) the benchmark's tables give too.
"""
import csv
import logging
from pathlib import Path

from common.errors import UserError
from common.untrusted import read_text
from common.untrusted.images import is_called_image
from data.image_folder import Row, read_cached
from data.sources import Arrays
from data.sources.of_torchvision import fetch
from data.sources.signs import NESTINGS, SIGNS, TABLE, TEST, TRAINING

COLUMNS = ("Filename", "ClassId")
DOWNLOADED = "gtsrb/GTSRB/Training"  # as torchvision leaves it
log = logging.getLogger("backdoor.data")


def load_gtsrb(folder: str | Path, image_size: int) -> tuple[Arrays, tuple[str, ...]]:
    """GTSRB: 39,209 and 12,630 color images of 15 to 250 pixels a side; torchvision has 26,640 for training.

    The decoded images are kept beside the training folder as those of an image folder are. Raises UserError.
    """
    folder = Path(folder)
    found = find_training(folder)
    if found is None or found == folder / DOWNLOADED:  # whose download may have been stopped
        for split in ("train", "test"):
            fetch("gtsrb", "GTSRB", folder, split=split)
        found = find_training(folder)
    if found == folder / DOWNLOADED:
        log.info("GTSRB as torchvision has it: the competition's 26,640 training images of the benchmark's 39,209")
    if found is None:
        raise UserError(f"{folder}: expected {' or '.join(TRAINING)} with 00000, 00001, ... in it, found none")
    base = found.parent.parent if found.name == "Images" else found.parent
    files = {"train": list_training(found), "test": list_test(base)}
    return read_cached(base, files, SIGNS, image_size), SIGNS


def find_training(folder: Path) -> Path | None:
    """The folder with the folders 00000, 00001, ... of training images in any of the usual nestings; None without."""
    places = (folder / nesting / training for nesting in NESTINGS for training in TRAINING)
    return next((place for place in places if (place / "00000").is_dir()), None)


def list_training(folder: Path) -> list[Row]:
    """The training images by class and name. Raises UserError for a folder that is no class's."""
    rows = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        if not (path.name.isdecimal() and path.name.isascii() and int(path.name) < len(SIGNS)):
            raise UserError(f"{path}: expected a class, 00000 to {len(SIGNS) - 1:05d}")
        rows += [row_of(image, int(path.name)) for image in sorted(path.iterdir()) if is_called_image(image.name)]
    return rows


def list_test(base: Path) -> list[Row]:
    """The test images in the order of TABLE. Raises UserError where it, an image or a column is missing."""
    folder = next((base / name for name in TEST if (base / name).is_dir()), None)
    if folder is None:
        raise UserError(f"{base}: expected {' or '.join(TEST)} with the test images, found neither")
    places = (folder, folder.parent, base, base.parent)
    table = next((place / TABLE for place in places if (place / TABLE).is_file()), None)
    if table is None:
        raise UserError(f"{folder / TABLE}: no such file; the benchmark has it in GTSRB_Final_Test_GT.zip")
    return [row_of(folder / name, label) for name, label in read_table(table)]


def read_table(path: Path) -> list[tuple[str, int]]:
    """[(file name, label)] of the benchmark's table of test images, whose columns a semicolon parts. UserError."""
    try:
        lines = csv.DictReader(read_text(path).removeprefix("\ufeff").splitlines(), delimiter=";",
                               skipinitialspace=True)
        rows = [(str(line[COLUMNS[0]]), int(line[COLUMNS[1]])) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: expected a table with {' and '.join(COLUMNS)}, parted by semicolons ({error!r})"
                        ) from None
    for name, label in rows:
        if name != Path(name).name or not 0 <= label < len(SIGNS):
            raise UserError(f"{path}: expected a file's name and a class of 0 to {len(SIGNS) - 1}, got {name[:60]!r} "
                            f"and {label}")
    if not rows:
        raise UserError(f"{path}: names no image")
    return rows


def row_of(path: Path, label: int) -> Row:
    """A row of read_cached. Raises UserError for a file that is not there."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', error)}, though {TABLE} names it") from None
    return str(path), label, status.st_size, status.st_mtime_ns
