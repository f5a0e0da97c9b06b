"""What pruning takes over from the run that made its masks, whose config.json may be a stranger's."""
from argparse import Namespace
from pathlib import Path

from common.errors import UserError
from common.files import hash_file
from common.untrusted import read_object
from data.datasets import DATASETS
from data.image_folder import SPLITS, is_sorted_into_classes


def inherit(args: Namespace) -> Namespace:
    """The parsed flags `args`, with what was not given as the masks of --mask-file were made, or as usual for foreign
    ones. Raises UserError for a --val-frac that would let the images that made them choose."""
    folder = Path(args.mask_file).parent
    made_with = read_arguments(folder)
    usual = {"checkpoint": str(folder.parent / "model_last.th"), "val_frac": 0.01, "dataset": "cifar10",
             "data_dir": "data", "trigger_info": None, "classes": None}
    taken = {name: made_with.get(name, default) for name, default in usual.items() if getattr(args, name) is None}
    filled = Namespace(**{**vars(args), **taken})
    if filled.val_frac < made_with.get("val_frac", 0):
        raise UserError(f"--val-frac {filled.val_frac}: the masks were made on {made_with['val_frac']} of the images, "
                        "and none of those may choose the threshold")
    return filled


def check_weights(mask_folder: Path, path: str) -> None:
    """UserError if the masks say of which weights they are, and these are others."""
    inputs = read_config(mask_folder).get("inputs")
    if isinstance(inputs, str) and not inputs.startswith(hash_file(path)):
        raise UserError(f"{path}: not the weights that the masks in {mask_folder} were made from")


def read_arguments(folder: Path) -> dict:
    """The arguments of the run in `folder` that pruning takes over, as far as they make sense."""
    arguments = read_config(folder).get("arguments")
    if not isinstance(arguments, dict):
        return {}
    return {name: arguments[name] for name, makes_sense in INHERITED.items()
            if name in arguments and makes_sense(arguments[name])}


def read_config(folder: Path) -> dict:
    """The config.json of the run in `folder`, {} where no run of ours lies there."""
    try:
        return read_object(folder / "config.json")
    except (OSError, ValueError):
        return {}


def is_path(value) -> bool:
    """Whether a value can be the name of a file."""
    return isinstance(value, str) and value.isprintable()


def holds_images(value) -> bool:
    """Whether a folder that a stranger's file may have named holds images: nothing is downloaded into another."""
    if not is_path(value):
        return False
    folders = (*SPLITS, "cifar-10-batches-py")
    return is_sorted_into_classes(value) or any((Path(value) / name).is_dir() for name in folders)


def is_dataset(value) -> bool:
    """Whether a value is the name of a data set."""
    return isinstance(value, str) and value in DATASETS


def is_fraction(value) -> bool:
    """Whether a value is a float from 0 to 1."""
    return type(value) is float and 0 <= value <= 1


# Each flag that is taken over, with what makes sense for it.
INHERITED = {"checkpoint": is_path, "trigger_info": is_path, "classes": is_path, "data_dir": holds_images,
             "dataset": is_dataset, "val_frac": is_fraction}
