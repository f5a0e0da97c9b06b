"""What every defense starts from: a model under suspicion, perhaps its trigger, and the defender's clean images."""
import logging
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common.errors import UserError
from common.inputs import inputs_of
from data.datasets import in_label_order, load_clean, read_class_names
from data.image_set import ImageSet
from data.poison_cifar import stamp_all
from data.triggers import Trigger
from engine.attacking.aim import note_aim
from engine.command_line.aim_flags import called
from engine.command_line.normalization import input_of
from engine.measuring.doubt import Doubt, find_doubt
from engine.measuring.evaluation import EvalSets, evaluation_batches, score
from engine.runs.machine import spare_narrow
from engine.runs.run import Run
from engine.weights.checkpoint import Checkpoint, check_classes, load_model, load_trigger
from models.pixel_input import PixelInput

log = logging.getLogger("backdoor")


@dataclass(frozen=True)
class Suspect:
    """A model under suspicion with what a defense has beside it.

    checkpoint: the model's file. classes: the names in label order that the file or --classes gives; () if neither
    does. trigger: None where none is known; only evaluation may look at it. defender: the defender's clean images.
    test: the test images, stamped too where a trigger is known. doubt: why the model's accuracy on the defender's
    images cannot be right; None if it can.
    """

    checkpoint: str
    model: torch.nn.Module
    classes: tuple
    trigger: Trigger | None
    defender: ImageSet
    test: EvalSets
    doubt: Doubt | None = None

    def fingerprint(self) -> str:
        """What a run says that it worked on, as inputs_of has it: the weights, and all of the defender's images."""
        return inputs_of(self.checkpoint, self.defender)


def beneath_model(name: str) -> Callable[[Namespace], str]:
    """The usual folder of a defense as flags.add_run_flags takes it: `name` beneath the --checkpoint's run."""
    def folder(args: Namespace):
        return default_folder(args.checkpoint, name)
    folder.__doc__ = f"{name}/ beneath the model's run"
    return folder


def default_folder(checkpoint: str, name: str) -> str:
    """Where a defense leaves its files: beneath the model's run in output/, and in output/ for a model elsewhere."""
    folder = Path(checkpoint).parent
    if folder.is_absolute() or ".." in folder.parts:
        folder = Path(folder.name)
    if folder.parts[:1] != ("output",):
        folder = Path("output") / folder / ("" if folder.name else Path(checkpoint).stem)
    return str(folder / name)


def find_run(checkpoint: str, name: str) -> Path:
    """The folder of a defense's run on `checkpoint`: beside the model, where a matrix has it, or else the default one.

    The latter also where there is no run.
    """
    beside = Path(checkpoint).parent / name
    return beside if (beside / "results.json").exists() else Path(default_folder(checkpoint, name))


def find_trigger(checkpoint: str, trigger_info: str | None = None) -> Trigger | None:
    """The Trigger in `trigger_info`, or in trigger_info.th beside the checkpoint; None where there is neither."""
    if trigger_info is None:
        beside = Path(checkpoint).with_name("trigger_info.th")
        trigger_info = beside if beside.exists() else None
    return None if trigger_info is None else load_trigger(trigger_info)


def load_suspect(args: Namespace, run: Run, find: bool = True, **options) -> Suspect:
    """The Suspect that the flags name, its model and test images on the run's device.

    args: parsed flags of add_suspect_flags and add_data_flags. find: whether the trigger may be known at all: the
    one of --trigger-info, or else the one beside the checkpoint. `options` go to models.build_model. Raises UserError.
    """
    found = load_given(args, run.device, **options)  # before the data, whose download a mistake spares
    trigger = find_trigger(args.checkpoint, args.trigger_info) if find else None
    size = found.model.spec["image_size"]
    spare_narrow(found.model, run.device, size)
    defender, test = (in_models_order(images, args, found) for images in load_clean(args.dataset, args.data_dir, size))
    check_classes(args.checkpoint, found, test.classes)
    if trigger is None:
        log.info("no trigger is known: ASR is left out")
    else:
        trigger.check_classes(len(test.classes), args.trigger_info or "trigger_info.th beside the checkpoint")
        note_aim(run, trigger, test.classes)
    if find:
        log_told(found, trigger, test.classes)
    sets = EvalSets.stamped(run.device, test, trigger)
    doubt = find_doubt(found.model, defender, run.device, found.has_spec, is_bgr=input_of(args).as_bgr)
    return Suspect(args.checkpoint, found.model, class_names(args, found), trigger, defender, sets, doubt)


def log_told(found: Checkpoint, trigger: Trigger | None, classes: Sequence[str]) -> None:
    """Log the target that BackdoorBench's file tells, and where it comes from."""
    if found.result is None:
        return
    target, why = found.result.target, found.result.why
    if target is None:
        log.info("BackdoorBench's file tells no target: %s", why)
    else:
        log.info("BackdoorBench's file tells the target, class %s: %s", called(target, classes), why)
        if trigger is not None and trigger.target != target:
            log.warning("the trigger that is given has another target, class %d", trigger.target)


def load_given(args: Namespace, device: torch.device | str = "cpu", **options) -> Checkpoint:
    """The Checkpoint of --checkpoint, fed as --mean, --std and --channels say, for images of --image-size.

    `options` are as for load_model. Raises UserError."""
    found = load_model(args.checkpoint, device, given=input_of(args), **options)
    found.model.take_size(getattr(args, "image_size", None) or found.model.spec["image_size"])
    return found


def load_second(path: str, args: Namespace, suspect: Suspect, device: torch.device, prefix: str | None = None, **options
                ) -> torch.nn.Module:
    """The model in `path`, that is looked at beside the Suspect, fed as the flags with `prefix` say, if it has any.

    Without those, as the suspect is, if the file says nothing. Logs a warning for one whose accuracy cannot be right.
    Raises UserError. `options` are as for load_model.
    """
    given = PixelInput() if prefix is None else input_of(args, prefix)
    found = load_model(path, device, suspect.defender.classes, given, **options)
    if not found.says_input and not given.flags():
        spec = suspect.model.spec
        alike = replace(input_of(args), mean=tuple(spec["mean"]), std=tuple(spec["std"]))
        given, found = alike, load_model(path, device, suspect.defender.classes, alike, **options)
    found.model.take_size(suspect.model.spec["image_size"])
    find_doubt(found.model, suspect.defender, device, found.has_spec, path, given.as_bgr)
    return found.model


def class_names(args: Namespace, found: Checkpoint) -> tuple[str, ...]:
    """The names of the model's classes in label order, its own or those in the file --classes; () for neither.

    Raises UserError for a file that contradicts the model.
    """
    path = getattr(args, "classes", None)
    if not path:
        return found.classes
    given, number = read_class_names(path), found.model.spec["num_classes"]
    if len(given) != number:
        raise UserError(f"--classes {path}: has {len(given)} names, but {args.checkpoint} has {number} classes")
    if found.classes not in ((), given):
        label = next(i for i in range(number) if found.classes[i] != given[i])
        raise UserError(f"--classes {path}: calls class {label} {given[label]!r}, but {args.checkpoint} itself calls "
                        f"it {found.classes[label]!r}; leave --classes out")
    return given


def in_models_order(images: ImageSet, args: Namespace, found: Checkpoint) -> ImageSet:
    """`images` labeled in the order of the classes of `found`, by its own names or those of --classes, if it has any.

    Raises UserError as class_names and match_labels do.
    """
    classes = class_names(args, found)
    return match_labels(images, classes, args) if classes else images


def match_labels(images: ImageSet, classes: tuple[str, ...], args: Namespace) -> ImageSet:
    """`images` labeled in the order of `classes`, by their names.

    Other names are left to check_classes where they are the model's own, and are a UserError where --classes has them.
    """
    if sorted(images.classes) == sorted(classes):
        return in_label_order(images, classes)
    if not getattr(args, "classes", None):
        return images
    missing, other = (sorted(set(a) - set(b)) for a, b in ((classes, images.classes), (images.classes, classes)))
    listed = [f"{what} {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" for what, names in (
        ("it alone has", missing), ("the images alone have", other)) if names]
    raise UserError(f"--classes {args.classes}: its names are not the images' classes: {'; '.join(listed)}")


def asr_of(model: torch.nn.Module, test: EvalSets, trigger: Trigger) -> dict:
    """ASR of any Trigger on the clean test images, as results.json has it. Raises UserError if it is for none of them.
    """
    stamped = stamp_all(test.clean_images, trigger)
    return score(model, evaluation_batches(stamped, test.clean.device)).accuracy.as_dict()


def split_defender(defender: ImageSet, val_frac: float) -> tuple[ImageSet, ImageSet]:
    """(images for the defense, images to choose its settings on): val_frac of all training images, and the rest.

    The defender has a tenth of the training images; val_frac 0.01 is 500 of CIFAR-10's, the first of the permutation
    (as ANP's authors take them). Raises UserError if either part is empty.
    """
    count = round(val_frac * 10 * len(defender))
    if not 0 < count < len(defender):
        raise UserError(f"--val-frac {val_frac}: expected a share that leaves the defender's {len(defender)} images in "
                        "two parts, so below 0.1")
    return defender.subset(slice(count)), defender.subset(slice(count, None))
