"""Write images as PNG: clean ones that no attack has seen, or what an attack makes of a data set.

    python -m studies.export_images --dataset digits --output-dir output/digits-clean

The defender's tenth of the training images and the test images, as <class>/<number>.png: what `make audit` and every
defense take as a folder of clean images. With --poisoned and an attack's flags instead train/, test/, test-triggered/
and defender/ of such folders, with images.csv: any program trains on train/<class>/*, and so do this suite's trainings
with the same flags and --data-dir.
"""
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from common.files import atomic_folder
from data.datasets import load_splits
from data.exported import TRIGGER, write_exported
from data.poison_cifar import stamp_all
from data.triggers import ATTACKS
from engine.attacking.aim import aim_in_words
from engine.attacking.attack import poison_by
from engine.command_line import flags, poison_flags
from engine.command_line.command import command
from engine.weights.checkpoint import save_trigger

POISONING = tuple(name for name in ATTACKS if name != "benign")


def export(images, folder):
    """Write ImageSets one after another into `folder`, numbered through. Returns how many images there are."""
    number = 0
    for part in images:
        for pixels, label in zip(part.data, part.targets, strict=True):
            path = Path(folder) / part.classes[label] / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            number += 1
    return number


def export_poisoned(args, train, defender, test, folder):
    """Write what the attack of the flags makes of the training and the test images. Returns how many images there are.
    """
    poisoned, trigger = poison_by(args, train)
    print(f"{aim_in_words(trigger, train.classes)}: {poisoned.poisoned.sum()} of {len(poisoned)} training images "
          "poisoned")
    parts = {"train": poisoned, "defender": defender, "test": test, "test-triggered": stamp_all(test, trigger)}
    save_trigger(folder / TRIGGER, trigger, np.flatnonzero(poisoned.poisoned))
    used = {name: getattr(args, name) for name in poison_flags.POISON_FLAGS if getattr(args, name) is not None}
    return write_exported(folder, parts, {"test-triggered": np.flatnonzero(trigger.victims(test.original))}, train.name,
                          used)


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--output-dir", required=True, help="a folder that is new or empty")
    parser.add_argument("--poisoned", action="store_true", help="what the attack below makes of the data set")
    parser.add_argument("--seed", type=flags.integer(0), default=0, help="with --poisoned: of the poisoned indices")
    poison_flags.add_poison_flags(parser, types=POISONING)
    flags.add_data_flags(parser)
    args = parser.parse_args(argv)
    if args.poisoned:
        poison_flags.check_poison(parser, args)
    else:
        parser.refuse(argv, ("seed", *poison_flags.POISON_FLAGS), "without --poisoned")
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    if Path(args.output_dir).exists() and any(Path(args.output_dir).iterdir()):
        raise UserError(f"{args.output_dir}: is not empty")

    train, defender, test = load_splits(args.dataset, args.data_dir, image_size=args.image_size)
    with atomic_folder(args.output_dir) as folder:
        if args.poisoned:
            count = export_poisoned(args, train, defender, test, folder)
        else:
            count = export([defender, test], folder)
    print(f"{count} images in {args.output_dir}")


if __name__ == "__main__":
    main()
