"""What every defense starts from: a model under suspicion, perhaps its trigger, and the defender's clean images."""
import logging
from pathlib import Path

from common.errors import UserError
from common.files import hash_file
from data.datasets import ImageSet, load_clean
from data.poison_cifar import stamp_all
from engine.checkpoint import check_classes, load_model, load_trigger
from engine.evaluation import EvalSets, evaluation_batches, score

log = logging.getLogger("backdoor")


def default_folder(checkpoint, name):
    """Where a defense leaves its files: beneath the model's run in output/, and in output/ for a model elsewhere."""
    folder = Path(checkpoint).parent
    if folder.is_absolute() or ".." in folder.parts:
        folder = Path(folder.name)
    if folder.parts[:1] != ("output",):
        folder = Path("output") / folder / ("" if folder.name else Path(checkpoint).stem)
    return str(folder / name)


def find_run(checkpoint, name):
    """The folder of a defense's run on `checkpoint`: beside the model, where a matrix has it, or else the default one.

    The latter also where there is no run.
    """
    beside = Path(checkpoint).parent / name
    return beside if (beside / "results.json").exists() else Path(default_folder(checkpoint, name))


def find_trigger(checkpoint, trigger_info=None):
    """The Trigger in `trigger_info`, or in trigger_info.th beside the checkpoint; None where there is neither."""
    if trigger_info is None:
        beside = Path(checkpoint).with_name("trigger_info.th")
        trigger_info = beside if beside.exists() else None
    return trigger_info and load_trigger(trigger_info)


def load_suspect(checkpoint, trigger_info, dataset, data_dir, device, find=True, image_size=None, **options):
    """(Checkpoint, EvalSets, the defender's ImageSet). Only the EvalSets know the trigger, if there is one.

    find: whether to look for a trigger beside the checkpoint. image_size: pixels a side that images are resized to;
    None for those that the model was trained on. `options` go to models.build_model. Raises UserError.
    """
    found = load_model(checkpoint, device, **options)  # before the data: a mistake should not wait for a download
    trigger = find_trigger(checkpoint, trigger_info) if find else None
    defender, test = load_clean(dataset, data_dir, image_size or found.model.spec["image_size"])
    check_classes(checkpoint, found, test.classes)
    if trigger is None:
        log.info("no trigger is known: ASR is left out")
        return found, EvalSets.on(device, test), defender
    if trigger.target >= test.num_classes:
        raise UserError(f"{trigger_info or 'trigger_info.th beside the checkpoint'}: its target {trigger.target} is "
                        f"none of the {test.num_classes} classes")
    return found, EvalSets.on(device, test, stamp_all(test, trigger)), defender


def asr_of(model, test, trigger):
    """ASR of any Trigger on the clean EvalSets, as results.json has it."""
    clean = ImageSet(test.clean.images.cpu().numpy(), test.clean.labels.cpu().numpy())
    return score(model, evaluation_batches(stamp_all(clean, trigger), test.clean.device)).accuracy.as_dict()


def inputs_of(checkpoint, images):
    """What a run tells that it worked on: a hash of the checkpoint's file and one of an ImageSet, with a blank."""
    return f"{hash_file(checkpoint)} {images.fingerprint()}"


def check_clean_images(defender):
    """UserError unless Neural Cleanse can work: three labels, and clean images of every one."""
    if defender.num_classes < 3:
        raise UserError(f"{defender.num_classes} classes: the outlier test has no meaning for fewer than 3 labels")
    missing = sorted(set(range(defender.num_classes)) - set(defender.targets.tolist()))
    if missing:
        raise UserError(f"no clean image of the class {defender.classes[missing[0]]} among the defender's "
                        f"{len(defender)}: Neural Cleanse needs some of every class")


def split_defender(defender, val_frac):
    """(images for the defense, images to choose its settings on): val_frac of all training images, and the rest.

    The defender has a tenth of the training images; val_frac 0.01 is 500 of CIFAR-10's, the first of the permutation
    (as ANP's authors take them). Raises UserError if either part is empty.
    """
    count = round(val_frac * 10 * len(defender))
    if not 0 < count < len(defender):
        raise UserError(f"--val-frac {val_frac}: expected a share that leaves the defender's {len(defender)} images in "
                        "two parts, so below 0.1")
    return defender.subset(slice(count)), defender.subset(slice(count, None))


def last_within(accuracies, max_drop):
    """The defender's choice in a sweep: the last place that loses at most `max_drop` against the first."""
    return max(i for i, accuracy in enumerate(accuracies) if accuracy >= accuracies[0] - max_drop - 1e-9)
