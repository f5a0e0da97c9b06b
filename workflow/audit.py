"""The audit of a stranger's model, of which nothing is known but its weights and some clean images, as a Plan."""
import json
from pathlib import Path

from data.datasets import load_clean
from data.files import UserError, hash_file
from engine.checkpoint import check_classes, load_model
from neural_cleanse import check_clean_images
from workflow.steps import Plan, known_files, read_yaml

STEPS = ("nc-detect", "neuron-noise", "strip", "anp-masks", "anp", "fine-pruning", "unlearning", "verdict")


def read_settings(path):
    """{step: {flag: value}} of a YAML file. Raises UserError, naming the file, if it is none."""
    try:
        content = read_yaml(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the suite has {known_files('audits')}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected steps with their flags")
    for name, flags in content.items():
        if name not in STEPS:
            raise UserError(f"{path}: no such step: {name}; there are {', '.join(STEPS)}")
        if not isinstance(flags, (dict, type(None))):
            raise UserError(f"{path}: {name}: expected flags, got {flags}")
    return content


def check_input(checkpoint, images):
    """The hash of a checkpoint and that of the defence's half of the clean images in the folder `images`.

    Raises UserError unless the one is a checkpoint and the other has images of its classes.
    """
    if not checkpoint or not images:
        raise UserError("expected a model and clean images: make audit CHECKPOINT=model.th IMAGES=folder")
    if not Path(images).is_dir():
        raise UserError(f"{images}: no such folder; expected one with <class>/*, PNG or JPEG")
    found = load_model(checkpoint)
    defender, _ = load_clean("cifar10", images)
    check_classes(checkpoint, found, defender.classes)
    check_clean_images(defender)
    return f"{hash_file(checkpoint)} {defender.fingerprint()}"


def check_same_input(output, inputs):
    """Raise UserError if an audit of another model, or by other images, lies in the folder `output`."""
    try:
        before = json.loads((Path(output) / "neural-cleanse/config.json").read_text())["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        model = Path(output) / "model_last.th"
        before = f"{hash_file(model)} {inputs.split()[1]}" if model.exists() else inputs
    if before != inputs:
        raise UserError(f"{output}: holds an audit of other weights or by other images; remove it, or name another "
                        "--output-dir")


def usual_folder(checkpoint):
    """Where an audit is written: by the checkpoint's name, or its folder's where that says more, and its content."""
    path = Path(checkpoint).resolve()
    name = path.parent.name if path.stem == "model_last" else path.stem
    return f"output/audits/{name}-{hash_file(checkpoint)[:8]}"


def plan_audit(checkpoint, images, settings, output=None):
    """The Plan of an audit; `settings` as read_settings returns them.

    The model is copied away from whatever lies beside it, so that no step finds a trigger there. Raises UserError for
    input that does not fit.
    """
    inputs = check_input(checkpoint, images)
    output = output or usual_folder(checkpoint)
    check_same_input(output, inputs)
    plan = Plan(output, "Audit of a model", last=f"{output}/verdict")
    model = f"{output}/model_last.th"
    plan.copies[model] = checkpoint

    def add(name, script, folder, *needs, suspect=True):
        own = {"data_dir": images, **({"checkpoint": model} if suspect else {}), **(settings.get(name) or {})}
        return plan.add(f"{output}/{folder}", script, own, needs or [model], name)

    found = add("nc-detect", "neural_cleanse detect", "neural-cleanse")
    others = [add("neuron-noise", "sweep_neuron_noise", "neuron-noise"), add("strip", "detect_strip", "strip"),
              add("fine-pruning", "fine_prune", "fine-prune"),
              add("unlearning", "neural_cleanse unlearn", "unlearn-reversed", found.results)]
    masks = add("anp-masks", "generate_mask", "anp")
    settings = {**settings, "anp": {"mask_file": f"{masks.folder}/mask_values.txt", **(settings.get("anp") or {})}}
    others.append(add("anp", "prune_network", "anp/pruned", masks.results, suspect=False))
    add("verdict", "audit_model", "verdict", found.results, *(step.results for step in others))
    plan.check()
    return plan
