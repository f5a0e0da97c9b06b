"""What a detector of poisoned training data starts from, an attack's images and a model that was trained on them, and
what it leaves."""
from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.files import write_array, write_table
from common.inputs import inputs_of
from common.untrusted.weights import read_tensors
from data.datasets import load_splits
from data.image_set import ImageSet
from data.triggers import Trigger
from engine.attacking.aim import note_aim
from engine.attacking.attack import poison_by
from engine.attacking.indices import against_known
from engine.command_line import flags, poison_flags
from engine.command_line.aim_flags import variant_of
from engine.command_line.normalization import add_input_flags, input_of
from engine.defending.suspect import beneath_model, load_given
from engine.measuring.doubt import find_doubt
from engine.measuring.evaluation import EvalSets, evaluate
from engine.runs.run import Run
from engine.weights.checkpoint import check_classes
from models.base import PixelModel

SUSPECTED, TABLE = "suspected.npy", "classes.csv"
log = logging.getLogger("backdoor")


def of_attack(args: argparse.Namespace) -> str:
    """output/<attack>/model_last.th"""
    return f"output/{variant_of(args)}/model_last.th"


def add_inspection_flags(parser: flags.Parser, name: str, add_own: Callable[[flags.Group], object]) -> None:
    """The images, the model and the run's folder, `name` beneath the model's; the caller must call check_poison.

    add_own: adds the detector's own flags to its group.
    """
    poison_flags.add_poison_flags(parser)
    group = parser.add_argument_group("model")
    group.add_argument("--checkpoint", default=of_attack,
                       help="a model that was trained on the attack's images: model_last.th of a run, or a known "
                            f"network's state_dict from anywhere (default: {of_attack.__doc__})")
    add_input_flags(group)
    flags.add_data_flags(parser)
    add_own(parser.add_argument_group("detector"))
    flags.add_run_flags(parser, beneath_model(name))


def parse_inspection(doc: str, name: str, add_own: Callable[[flags.Group], object],
                     argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed flags of a detector whose docstring is `doc`; the others as for add_inspection_flags."""
    parser = flags.Parser(doc)
    add_inspection_flags(parser, name, add_own)
    args = parser.parse_args(argv)
    poison_flags.check_poison(parser, args)
    return args


@dataclass(frozen=True)
class Inspected:
    """An attacker's training images, and a model that was trained on them.

    images: which of them are poisoned only evaluation may ask. test: the test images, stamped with the trigger too.
    """

    checkpoint: str
    model: PixelModel
    images: ImageSet
    trigger: Trigger
    test: EvalSets

    def fingerprint(self) -> str:
        """What a run says that it worked on."""
        return inputs_of(self.checkpoint, self.images)


def load_inspected(args: argparse.Namespace, run: Run) -> Inspected:
    """The Inspected that the flags name, on the run's device. Raises UserError."""
    found = load_given(args, run.device)  # before the data, whose download a mistake spares
    train, defender, test = load_splits(args.dataset, args.data_dir, image_size=found.model.spec["image_size"])
    check_classes(args.checkpoint, found, train.classes)
    images, trigger = poison_by(args, train)
    note_aim(run, trigger, images.classes)
    warn_of_other_images(args.checkpoint, images)
    find_doubt(found.model, defender, run.device, found.has_spec, is_bgr=input_of(args).as_bgr)
    return Inspected(args.checkpoint, found.model, images, trigger, EvalSets.stamped(run.device, test, trigger))


def warn_of_other_images(checkpoint: str, images: ImageSet) -> None:
    """Log a warning if the trigger_info.th beside a model names other images as poisoned than the flags do."""
    path = Path(checkpoint).with_name("trigger_info.th")
    if not path.exists():
        return
    info = read_tensors(path)
    try:
        indices = np.asarray(info["data_index"]).ravel()
    except (ValueError, KeyError, TypeError, IndexError):  # a stranger's, or none
        return
    if indices.dtype.kind in "iu" and not np.array_equal(np.sort(indices), np.flatnonzero(images.poisoned)):
        log.warning("%s names %d other poisoned images than the flags make (%d): the model was not trained on these "
                    "images; give the attack's flags and --seed as its training had them", path, len(indices),
                    images.poisoned.sum())


def class_row(images: ImageSet, label: int, suspected: np.ndarray, figures: dict) -> dict:
    """The row of TABLE of one class: figures, and how many of `suspected`, int64 (n,), are poisoned ("hits")."""
    own = images.targets == label
    return {"label": label, "class": images.classes[label], "images": int(own.sum()), "suspected": len(suspected),
            **figures, "poisoned": int(images.poisoned[own].sum()), "hits": int(images.poisoned[suspected].sum())}


def leave_findings(run: Run, inspected: Inspected, name: str, rows: Sequence[dict], suspected: np.ndarray,
                   **settings) -> None:
    """Write SUSPECTED and TABLE, log them, and finish the run.

    rows: of class_row. suspected: int64 (n,). settings: further entries of the method called `name`.
    """
    images, suspected = inspected.images, np.sort(suspected).astype(np.int64)
    log.info(" \t ".join(rows[0]))
    for row in rows:
        log.info(" \t ".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    figures = against_known(suspected, images.poisoned)
    precision, recall = (share["value"] if share else float("nan") for share in figures.values())
    log.info("suspected %d of %d training images: precision %.4f, recall %.4f of %d poisoned", len(suspected),
             len(images), precision, recall, images.poisoned.sum())
    write_array(run.folder / SUSPECTED, suspected)
    write_table(run.folder / TABLE, list(rows[0]), rows)
    run.finish(evaluate(inspected.model, inspected.test), model=inspected.model, parent=inspected.checkpoint,
               data=images, method={"name": name, **settings, "images": len(images), "suspected": len(suspected),
                                    "poisoned": int(images.poisoned.sum()), **figures, "classes": list(rows)})
