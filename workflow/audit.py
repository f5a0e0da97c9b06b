"""The audit of a stranger's model, of which nothing is known but its weights and some clean images, as a Plan."""
import hashlib
import os
from argparse import Namespace
from pathlib import Path

from common.errors import UserError
from common.files import hash_file
from common.untrusted import read_json, read_yaml
from common.untrusted.images import IN_WORDS
from data.datasets import load_clean
from data.image_folder import SPLITS, is_sorted_into_classes
from engine.catalogue import BY_MODULE, defense_cells
from engine.command_line.normalization import INPUT_FLAGS
from engine.defending.suspect import in_models_order, load_given
from engine.weights.checkpoint import check_classes
from methods.rates import TABLE
from methods.trigger_search import check_clean_images
from workflow.steps import PLACES, Plan, check_flags, known_files, short

AUDIT = "audit"  # the step whose verdict rests on the table, so that another table asks for it again
VERDICT = "verdict"  # the name of the last step in the settings, and its folder
ABOUT_MODEL = ("classes", *INPUT_FLAGS, "image_size")  # what a caller may say of weights that do not say it
GIVEN = PLACES | {"data_dir", "dataset", "benign", "images", "reversed_trigger", "patch_with", "mode",
                  *ABOUT_MODEL}  # not to be set
STAMP = "audit.json"  # hashes of the model and of the images


def step_names():
    """What an audit's settings may have flags for."""
    return [cell.in_audit for _, cell in defense_cells().values() if cell.in_audit] + [VERDICT]


def read_settings(path):
    """{step: {flag: value}} of a YAML file. Raises UserError, naming the file, if it is none."""
    try:
        content = read_yaml(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the suite has {known_files('audits')}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected steps with their flags")
    for name, flags in content.items():
        if name not in step_names():
            raise UserError(f"{path}: no such step: {short(name)}; there are {', '.join(step_names())}")
        check_flags(f"{path}: {name}", flags, GIVEN)
    return content


def table_of(settled):
    """The table that an audit with these flags compares with. Raises UserError if it is not there."""
    table = settled.get("rates") or str(TABLE)
    if not Path(table).is_file():
        raise UserError(f"{table}: no such file; studies.calibrate_audit makes one")
    return table


def check_input(checkpoint, images, given=None):
    """A hash of the checkpoint, and one of the defense's half of the clean images in the folder `images`.

    given: {flag: value} of ABOUT_MODEL. Raises UserError unless the one is a checkpoint and the other has images of
    its classes.
    """
    if not checkpoint or not images:
        raise UserError("expected a model and clean images: make audit CHECKPOINT=model.th IMAGES=folder")
    has_splits = all((Path(images) / split).is_dir() for split in SPLITS)
    if not has_splits and not is_sorted_into_classes(images):  # else CIFAR-10 would be downloaded into it
        raise UserError(f"{images}: expected a folder <class>/* of {IN_WORDS} files" + (
            "" if Path(images).is_dir() else "; there is no such folder"))
    args = Namespace(checkpoint=checkpoint, **{"image_size": None, **(given or {})})
    found = load_given(args)
    defender, _ = load_clean("cifar10", images, found.model.spec["image_size"])
    defender = in_models_order(defender, args, found)
    check_classes(checkpoint, found, defender.classes)
    check_clean_images(defender)
    return hash_file(checkpoint), defender.fingerprint()


def usual_folder(checkpoint, inputs):
    """Where an audit is written: by the checkpoint's name, or its folder's where that says more, and the inputs."""
    path = Path(checkpoint).resolve()
    name = path.parent.name if path.stem == "model_last" else path.stem
    name = "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in name)
    return f"output/audits/{name}-{hashlib.sha256(' '.join(inputs).encode()).hexdigest()[:8]}"


def check_folder(output, checkpoint, inputs):
    """Raise UserError if the folder `output` holds anything that an audit of these inputs must not meet.

    That is a trigger, which the steps would find beside the model; another run; an audit of other inputs.
    """
    output = Path(output)
    other = [name for name in ("trigger_info.th", "config.json", "results.json") if (output / name).exists()]
    model = output / "model_last.th"
    if other or (model.exists() and model.samefile(checkpoint)):
        raise UserError(f"{output}: holds {other[0] if other else 'the model itself'}; an audit needs a folder of its "
                        "own, so that it finds no trigger: name another --output-dir")
    try:
        before = read_json(output / STAMP)
    except (OSError, ValueError):
        before = None
    if (output.exists() and before is None and any(output.iterdir())) or before not in (None, list(inputs)):
        raise UserError(f"{output}: holds something else than an audit of this model by these images; name another "
                        "--output-dir")


def plan_audit(checkpoint, images, settings, output=None, given=None):
    """The Plan of an audit; `settings` as read_settings returns them; given: {flag: value} of ABOUT_MODEL.

    The model is copied away from whatever lies beside it, so that no step finds a trigger there. Raises UserError for
    input that does not fit.
    """
    inputs = check_input(checkpoint, images, given)
    output, images = output or usual_folder(checkpoint, inputs), os.path.normpath(images)
    check_folder(output, checkpoint, inputs)
    plan = Plan(output, f"Audit of {Path(checkpoint).name}", last=f"{output}/{VERDICT}", stamp=(STAMP, list(inputs)))
    model = f"{output}/model_last.th"
    plan.copies[model] = checkpoint
    suspect = {"checkpoint": model, **(given or {})}  # pruning takes it over from the masks

    done = {}
    for name, (script, cell) in defense_cells().items():
        if cell.in_audit:
            taken = {flag: f"{done[cell.needs].folder}/{file}" for flag, file in cell.takes.items()}
            settled = {"data_dir": images, **(taken or suspect), **cell.flags,
                       **(settings.get(cell.in_audit) or {})}
            needs = [done[cell.needs].results] if cell.needs else [model]
            if cell.in_audit == AUDIT:
                needs.append(table_of(settled))
            done[name] = plan.add(f"{output}/{cell.folder}", script, settled, needs, cell.in_audit, cell.is_heavy)
    plan.add(f"{output}/{VERDICT}", BY_MODULE["studies.verdict"],
             {"data_dir": images, **suspect, **(settings.get(VERDICT) or {})},
             [step.results for step in done.values()], VERDICT)
    plan.check()
    return plan
