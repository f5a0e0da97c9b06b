"""What the flags of poison_flags.add_poison_flags make of a training set, and how an attack's run begins and ends."""
import argparse
import logging
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.untrusted.weights import read_tensors
from data.datasets import load_splits
from data.exported import TRIGGER, read_manifest
from data.image_set import ImageSet
from data.poison_cifar import poison_training_set, share_of
from data.sources import comes_alone
from data.triggers import ATTACKS, COVERS_IMAGE, Trigger
from engine.attacking.aim import note_aim
from engine.cells import as_flags
from engine.command_line import aim_flags, flags, poison_flags
from engine.command_line.aim_flags import called, check_sources, find_classes
from engine.drawing.curves import training_curves
from engine.drawing.grids import enlarge, image_grid
from engine.measuring.scores import Evaluation, warn_of_chance
from engine.missing import check_there
from engine.runs.run import Run
from engine.weights import checkpoint
from models.base import PixelModel

log = logging.getLogger("backdoor")


def poison_by(args: argparse.Namespace, train: ImageSet) -> tuple[ImageSet, Trigger]:
    """(poisoned ImageSet, Trigger) of the attacker's images `train` by the parsed flags. Raises UserError."""
    manifest = None if comes_alone(args.dataset, args.data_dir) else read_manifest(args.data_dir)
    if manifest:
        check_same_attack(args, manifest["flags"])
        return train, checkpoint.load_trigger(Path(args.data_dir) / TRIGGER)
    sources = find_classes(args.sources, train.classes)
    if args.poison_target is not None:
        aim_flags.check_target(args.poison_target, train.classes)
    check_sources(sources, args.poison_target, train.classes)
    settings = {name: getattr(args, name) for name in ATTACKS[args.poison_type].defaults()}
    settings |= {name: READ[name](settings[name]) for name in READ if name in settings}
    return poison_training_set(train, args.poison_type, args.poison_target, args.poison_rate, args.seed, sources,
                               **settings)


def check_batch_shares(args: argparse.Namespace, count: int, names: Sequence[str]) -> None:
    """UserError for a rate of the flags `names` that is above 0 and not one image of a batch; count: training images.
    """
    batch = min(args.batch_size, count)
    for name in names:
        if getattr(args, name) > 0 and not share_of(getattr(args, name), batch):
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: not one image of a batch of {batch}")


def check_same_attack(args: argparse.Namespace, before: dict[str, Any]) -> None:
    """UserError unless the poison flags are those that an exported folder's images were poisoned by, `before`."""
    if any(getattr(args, name, None) != before.get(name) for name in poison_flags.POISON_FLAGS):
        needed = shlex.join(map(str, as_flags({name: value for name, value in before.items()
                                               if name in poison_flags.POISON_FLAGS})))
        raise UserError(f"--data-dir {args.data_dir}: its images are poisoned already; give the flags that did it: "
                        f"{needed}")


def load_unpoisoned(args: argparse.Namespace, image_size: int | None) -> tuple[ImageSet, ImageSet, ImageSet]:
    """load_splits by the flags. Raises UserError for an exported folder, whose training images are poisoned already."""
    train, defender, test = load_splits(args.dataset, args.data_dir, image_size=image_size)
    if train.poisoned.any():
        raise UserError(f"--data-dir {args.data_dir}: its training images are poisoned already, but clean ones are "
                        "needed; give the data set that it was exported from")
    return train, defender, test


def load_accepted(path: str | Path) -> dict[str, Any]:
    """load_encoder, which says of one that was not accepted when it was trained that it was not."""
    content = load_encoder(path)
    if content.get("accepted") is not True:
        log.warning("%s was not accepted when it was trained; its bits are hard to read, or easy to see", path)
    return content


def load_encoder(path: str | Path) -> dict[str, Any]:
    """What attacks.issba_encoder left in `path`: {"encoder", "decoder": state_dicts, ...}. Raises UserError."""
    check_there(path)
    content = read_tensors(path)
    if not (isinstance(content, dict) and all(isinstance(content.get(key), dict) for key in ("encoder", "decoder"))):
        raise UserError(f"{path}: expected an encoder and a decoder as attacks.issba_encoder leaves them")
    return content


def existing(path: str | Path) -> str | Path:
    """The path itself. Raises UserError if there is no file; the line says what leaves one."""
    check_there(path)
    return path


# {flag: what makes, of a file that the flag names, what a row's `build` takes}
READ = {"patch": existing, "encoder": lambda path: load_accepted(path)["encoder"],
        "trigger_file": checkpoint.load_trigger}


def log_target(target: int, classes: Sequence[str]) -> None:
    """Log the target class; `classes` has the names in label order."""
    log.info("target class %s", called(target, classes))


def start_attack(run: Run, poisoned: ImageSet, trigger: Trigger, places: np.ndarray | None = None) -> dict:
    """Leave trigger_info.th in the folder of a run that has begun, and log its aim and how many are poisoned.

    places: int64 (N,), where each image of `poisoned` stands among the attacker's, of which some were left out; None
    for all. Returns their poisoned_shares, as results.json has them; the aim is noted there too.
    """
    note_aim(run, trigger, poisoned.classes)
    shares = poisoned_shares(poisoned, trigger)
    log.info("poisoned %(poisoned)d images: %(of_training_set).4f of the %(training_set)d training images, "
             "%(of_candidates).4f of the %(candidates)d candidates", shares)
    if trigger.covers_image:
        log.warning(COVERS_IMAGE)
    indices = np.flatnonzero(poisoned.poisoned)
    checkpoint.save_trigger(run.folder / "trigger_info.th", trigger, indices if places is None else places[indices])
    return shares


def add_attack_training_flags(parser: flags.Parser, folder: str,
                              add_loop: Callable[[flags.Group], None] = flags.add_test_every_flag) -> None:
    """What an attack that controls training takes besides its own flags: data, network, training, augmentation, and a
    run in `folder` that resumes. add_loop: adds the flags of the training's loop to its group."""
    flags.add_data_flags(parser)
    flags.add_model_flags(parser)
    add_loop(flags.add_training_flags(parser))
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, folder, resumable=True)


def finish_attack(run: Run, args: argparse.Namespace, model: PixelModel, clean: ImageSet, tested: Evaluation,
                  title: str, method: dict, rows: Sequence[dict] | None = None, **entries: Any) -> None:
    """End the run of an attack that controlled training: model_last.th, curves.png and results.json.

    clean: the attacker's images. tested: of the model as it is left. title: of the curves, before the data set's name.
    method: the entry of results.json. rows: those of metrics.jsonl that the curves show, by default all. entries:
    further ones of results.json, as Run.finish takes them.
    """
    warn_of_chance(tested, clean.num_classes, is_attacked=True)
    checkpoint.save_model(run.folder / "model_last.th", model, vars(args), run.rows[-1], clean.classes)
    training_curves(run.folder / "curves.png", run.rows if rows is None else rows, f"{title} on {clean.name}")
    run.finish(tested, model=model, data=clean, method=method, **entries)


def draw_examples(path: Path, clean: ImageSet, trigger: Trigger, count: int = 8) -> None:
    """A picture of the first images that a Trigger is meant for: as they are, stamped, and what changed, enlarged."""
    shown = clean.subset(np.flatnonzero(trigger.victims(clean.targets))[:count])
    stamped = trigger.stamp(shown.data)
    rows = [("original", shown.data), ("with trigger", stamped),
            ("difference, enlarged", enlarge(stamped.astype(np.int16) - shown.data))]
    image_grid(path, rows, [clean.classes[label] for label in shown.targets])


def poisoned_shares(poisoned: ImageSet, trigger: Trigger) -> dict:
    """What was poisoned, by every denominator that the literature uses: of the set, of the trigger's victims or of its
    target class.

    The original labels decide: a dirty-label attack takes from the victims, clean-label from the target's images.
    """
    number, own = int(poisoned.poisoned.sum()), poisoned.original == trigger.wanted(poisoned.original)
    pool = trigger.victims(poisoned.original)
    if number and own[poisoned.poisoned][0]:
        pool = own
    return {"poisoned": number, "of_training_set": number / len(poisoned), "training_set": len(poisoned),
            "of_candidates": number / max(int(pool.sum()), 1), "candidates": int(pool.sum())}
