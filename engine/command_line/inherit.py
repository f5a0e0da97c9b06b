"""What a script inherits from the run that made its masks, its model or its attack's input, whose config.json is
untrusted."""
from argparse import Action, ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import hash_file
from common.inputs import are_of_others
from common.untrusted import read_object
from data.image_folder import SPLITS, is_sorted_into_classes
from data.sources import DATASETS, DEFAULT, SOURCES
from data.triggers.table import ATTACKS
from engine.command_line.normalization import INPUT_FLAGS
from models.pixel_input import are_of_pixels

CROP_PADDING = 4  # pixels, where neither a flag nor a model says it
MODELS_BEHIND = 5  # runs that a model went through, one on what the other left


def inherit(args: Namespace) -> Namespace:
    """The parsed flags `args`, completed by the flags with which the masks of --mask-file were made; for masks from
    elsewhere, by what the model was trained on and the usual defaults.

    Raises UserError for a --val-frac with which images that made the masks would also choose the threshold.
    """
    folder = Path(args.mask_file).parent
    made_with = read_arguments(folder)
    model = made_with.get("checkpoint", str(folder.parent / "model_last.th"))
    of_model = Namespace(checkpoint=args.checkpoint or model, data_dir=args.data_dir)
    usual = {"checkpoint": model, "val_frac": 0.01, "dataset": dataset_of_model(of_model),
             "data_dir": folder_of_model(of_model) if args.dataset is None else "data", "trigger_info": None,
             "classes": None, "image_size": None, "crop_padding": crop_of_model(of_model),
             "flip": flip_of_model(of_model),
             **dict.fromkeys(INPUT_FLAGS)}
    taken = {name: made_with.get(name, default) for name, default in usual.items() if getattr(args, name) is None}
    filled = Namespace(**{**vars(args), **taken})
    if filled.val_frac < made_with.get("val_frac", 0):
        raise UserError(f"--val-frac {filled.val_frac}: the masks were made on {made_with['val_frac']} of the images, "
                        "which may not choose the threshold; give at least that")
    return filled


def dataset_of_model(args: Namespace) -> str:
    """The default of --dataset: the one that the model of --checkpoint, or else what the attack begins with, was made
    on, as config.json beside it says.

    The usual one without either, and where --data-dir names another folder although the model is one of digits, which
    are in none, or although there is no model: what an attack begins with may serve for other images.
    """
    _, made_with = run_before(args)
    dataset, folder = made_with.get("dataset", DEFAULT), args.data_dir
    if not isinstance(folder, str):
        return dataset
    if model_of(args) and (SOURCES[dataset].places or folder in ("data", made_with.get("data_dir"))):
        return dataset
    return DEFAULT


def folder_of_model(args: Namespace) -> str:
    """The default of --data-dir where no --dataset is given either: that of the same run, if it still holds images; of
    a run that is resumed its own.

    Not a folder that came with the model: whoever made the one would have chosen the images to look at it with.
    """
    if getattr(args, "resume", False):
        before = Path(args.output_dir(args) if callable(args.output_dir) else args.output_dir)
        made_with = read_arguments(before)
    else:
        before, made_with = run_before(args)
    folder = made_with.get("data_dir", "data")
    return "data" if before and is_beneath(folder, before) else folder


def flip_of_model(args: Namespace) -> bool:
    """The default of --flip: as the model of --checkpoint was trained, as config.json beside it says; True without."""
    return behind_model(args, "flip", True)


def crop_of_model(args: Namespace) -> int:
    """The default of --crop-padding: in the same way; 4 without."""
    return behind_model(args, "crop_padding", CROP_PADDING)


def behind_model(args: Namespace, name: str, usual: Any) -> Any:
    """What the model of --checkpoint was trained with, `usual` where none says it.

    A script that trains on no images, such as CLP, says which model it was given.
    """
    path = model_of(args)
    for _ in range(MODELS_BEHIND):
        made_with = read_arguments(Path(path).parent) if path else {}
        if name in made_with:
            return made_with[name]
        path = made_with.get("checkpoint")
    return usual


def model_of(args: Namespace) -> str | None:
    """The file of --checkpoint, as given or by default; None for a script that takes none."""
    path = getattr(args, "checkpoint", None)
    return path(args) if callable(path) else path


def run_before(args: Namespace) -> tuple[Path | None, dict]:
    """(the folder of the run that a script goes on from, its read_arguments).

    That of the model of --checkpoint; without a model, or with one that has no config.json, that of what another script
    left for the attack of --poison-type. (None, {}) if neither has one.
    """
    path = model_of(args)
    folders = [Path(path).parent] if path else []
    attack = ATTACKS.get(getattr(args, "poison_type", None))
    for name, flag in attack.flags.items() if attack else ():
        path = getattr(args, name, None) or flag.default
        if flag.is_made and path:
            folders.append(Path(path).parent if flag.metavar else Path(path))
    found = ((folder, read_arguments(folder)) for folder in folders)
    return next(((folder, arguments) for folder, arguments in found if arguments), (None, {}))


def is_beneath(folder: str, other: Path) -> bool:
    """Whether `folder` lies in the folder `other`, in which the current one does not lie."""
    other = other.resolve()
    return not Path.cwd().is_relative_to(other) and Path(folder).resolve().is_relative_to(other)


class NamedDataset(Action):
    """Takes --dataset. A data set that is named is looked for in its usual folder, not in that of the model's run."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
                 ) -> None:
        namespace.dataset = values
        if callable(namespace.data_dir):
            namespace.data_dir = "data"


def check_weights(mask_folder: Path, path: str) -> None:
    """Raise UserError if the masks name the weights that they were made from, and `path` holds others."""
    if are_of_others(read_config(mask_folder).get("inputs"), hash_file(path)):
        raise UserError(f"{path}: expected the weights that the masks in {mask_folder} were made from, got others")


def read_arguments(folder: Path) -> dict:
    """The arguments of the run in `folder` that pruning inherits, if they are valid."""
    arguments = read_config(folder).get("arguments")
    if not isinstance(arguments, dict):
        return {}
    return {name: arguments[name] for name, is_valid in INHERITED.items()
            if name in arguments and is_valid(arguments[name])}


def read_config(folder: Path) -> dict:
    """The config.json of the run in `folder`; {} if there is none or it cannot be read."""
    try:
        return read_object(folder / "config.json")
    except (OSError, ValueError):
        return {}


def is_path(value: Any) -> bool:
    """Whether a value can be a file's name."""
    return isinstance(value, str) and value.isprintable()


def holds_images(value: Any) -> bool:
    """Whether a folder, which an untrusted file may have named, holds images: nothing is downloaded into any other."""
    if not is_path(value):
        return False
    try:
        return (is_sorted_into_classes(value) or any((Path(value) / split).is_dir() for split in SPLITS)
                or any(source.is_in(value) for source in SOURCES.values()))
    except OSError:  # as for a name that is too long
        return False


def is_dataset(value: Any) -> bool:
    """Whether a value is the name of a data set."""
    return isinstance(value, str) and value in DATASETS


def is_fraction(value: Any) -> bool:
    """Whether a value is a float from 0 to 1."""
    return type(value) is float and 0 <= value <= 1


def is_switch(value: Any) -> bool:
    """Whether a value is true or false."""
    return type(value) is bool


def is_padding(value: Any) -> bool:
    """Whether a value is a number of pixels that --crop-padding takes."""
    return type(value) is int and 0 <= value <= 32


def is_image_size(value: Any) -> bool:
    """Whether a value is a size of images that --image-size takes."""
    return type(value) is int and 8 <= value <= 1024


# {inherited flag: whether a value is valid for it}
INHERITED = {"checkpoint": is_path, "trigger_info": is_path, "classes": is_path, "data_dir": holds_images,
             "dataset": is_dataset, "image_size": is_image_size, "val_frac": is_fraction,
             "crop_padding": is_padding, "flip": is_switch,
             "mean": partial(are_of_pixels, name="mean"), "std": partial(are_of_pixels, name="std"),
             "channels": ("rgb", "bgr").__contains__}
