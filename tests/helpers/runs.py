"""A short run of every script on handwritten digits, from the catalogue, and what those runs read."""
import importlib

import numpy as np
import pytest
from PIL import Image

from data.datasets import load_splits
from engine.catalogue import BY_MODULE, SCRIPTS
from engine.command_line import flags
from engine.rows import REPORT
from helpers.paths import HALF, SIDE

DIGITS = ["--dataset", "digits"]
FOLDER = ["--dataset", "cifar10", "--data-dir", "{pictures}"]
TRAIN_MODEL = ["--width", "4", "--batch-size", "32", "--poison-rate", "0.2", "--crop-padding", "2", "--epochs", "3"]
RUNS = [script.module for script in SCRIPTS if script.leaves_run]  # the scripts that leave a folder with results.json


def short_words(module):
    """The words of a script's short run; {names} in them are files that make_inputs makes."""
    script = BY_MODULE[module]
    images = [] if script.kind == REPORT else DIGITS
    return [*images, *script.reads.split(), *script.small.split()]


def main_of(module):
    """The main of a script."""
    return importlib.import_module(module).main


def flags_of(module):
    """{name: argparse's action} of all flags of a script."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(flags.Parser, name, lambda self, argv=None: seen.append(self) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            importlib.import_module(module).parse_args([])
    return {action.dest: action for action in seen[0]._actions}


def make_inputs(root, network=("--width", 4, *HALF)):
    """Make in `root` what the runs read, as two that differ; returns {name: path}, the second of each as name2.

    network: flags of the training of the models.
    """
    paths = {"runs": root}
    for seed, end in enumerate(("", "2")):
        paths |= {f"{name}{end}": path for name, path in make_model(root, seed, end, network).items()}
        paths |= {f"{name}{end}": path for name, path in make_beside(root, seed, end, paths["model"]).items()}
    (root / "bare").mkdir()  # masks that do not say of what they are
    paths["bare-masks"] = root / "bare/mask_values.txt"
    paths["bare-masks"].write_bytes(paths["masks"].read_bytes())
    paths["png"] = root / "own.png"
    picture = np.zeros((SIDE, SIDE, 4), np.uint8)
    picture[10:13, 2:6] = (0, 200, 90, 255)
    Image.fromarray(picture).save(paths["png"])
    return paths


def run(module, folder, *words):
    """Run a script on the digits, writing into a folder; returns the folder."""
    main_of(module)([*DIGITS, *map(str, words), "--output-dir", str(folder)])
    return folder


def make_model(root, seed, end, network):
    """A backdoored model and what is made from it alone."""
    folder = run("train_backdoor", root / f"run{end}", "--epochs", 4, "--batch-size", 32, "--crop-padding", 0,
                 "--no-flip", "--poison-rate", 0.3, "--poison-type", ("badnets", "blend")[seed],
                 "--poison-target", seed, "--seed", seed, *network)
    model = folder / "model_last.th"
    run("defenses.neural_cleanse", folder / "neural-cleanse", "--checkpoint", model, "--seeds", 1, "--budget", 10,
        "--batches", 1)
    run("studies.audit", folder / "audit", *BY_MODULE["studies.audit"].small.split(), "--checkpoint", model)
    encoder = run("attacks.issba_encoder", root / f"encoder{end}", "--checkpoint", model, "--bits", 4, "--width", 4,
                  "--epochs", 1, "--seed", seed, "--min-psnr", 0, "--min-bit-accuracy", 0)
    clb = run("generate_clb_attack", root / f"clb{end}", "--checkpoint", model, "--poison-rate", 0.8, "--iterations", 1,
              "--seed", seed)
    patch = run("attacks.trojan_patch", root / f"patch{end}", "--checkpoint", model, "--steps", 2, "--images", 4,
                "--seed", seed, "--patch-size", 8 + seed)
    collided = run("attacks.feature_collision", root / f"collided{end}", "--checkpoint", model, "--poison-rate", 0.3,
                   "--iterations", 1, "--seed", seed)
    return {"model": model, "audited": model, "trigger": folder / "trigger_info.th", "patch": patch / "patch.png",
            "collided": collided, "encoder": encoder / "encoder.th", "clb": clb}


def make_beside(root, seed, end, model):
    """Masks, two of one model, indices of training images, and an image folder."""
    np.save(root / f"indices{end}.npy", np.arange(seed, 60, 3))
    masks = run("generate_mask", root / f"anp{end}", "--checkpoint", model, "--val-frac", 0.05, "--nb-iter", 6 + seed,
                "--batch-size", 32)
    write_pictures(root / f"pictures{end}", first=seed)
    return {"masks": masks / "mask_values.txt", "indices": root / f"indices{end}.npy",
            "pictures": root / f"pictures{end}"}


def write_pictures(folder, first):
    """Every other digit, from the `first` on, as an image folder."""
    train, _, test = load_splits("digits", "data")
    for split, images in (("train", train.subset(slice(first, None, 2))), ("test", test.subset(slice(first, None, 4)))):
        for i, (pixels, label) in enumerate(zip(images.data, images.targets, strict=True)):
            path = folder / split / images.classes[label] / f"{i:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def filled(made, words):
    """The words with the paths of what was made in place of {names}."""
    return [str(made[word.strip("{}")]) if word.startswith("{") else word for word in words]
