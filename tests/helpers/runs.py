"""A short run of every script on handwritten digits, from the catalogue, and what those runs read."""
import importlib

import numpy as np
from PIL import Image

from data.datasets import load_splits
from engine.catalogue import BY_MODULE, REPORT, SCRIPTS

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


def make_inputs(root):
    """Make in `root` what the runs read, as two that differ; returns {name: path}."""
    def run(module, *words):
        main_of(module)(list(map(str, words)))
    paths = {}
    for i, end in enumerate(("", "2")):
        train = [*DIGITS, "--width", "4", "--epochs", "4", "--batch-size", "32", "--crop-padding", "0", "--no-flip",
                 "--poison-rate", "0.3", "--poison-type", ("badnets", "blend")[i], "--poison-target", i, "--seed", i]
        run("train_backdoor", *train, "--output-dir", root / f"run{end}")
        paths[f"model{end}"] = root / f"run{end}/model_last.th"
        paths[f"trigger{end}"] = root / f"run{end}/trigger_info.th"
        suspect = [*DIGITS, "--checkpoint", paths[f"model{end}"]]
        run("generate_mask", *DIGITS, "--checkpoint", paths["model"], "--val-frac", "0.05", "--nb-iter", 6 + i,
            "--batch-size", 32, "--output-dir", root / f"anp{end}")
        paths[f"masks{end}"] = root / f"anp{end}/mask_values.txt"
        run("attacks.issba_encoder", *suspect, "--bits", 4, "--width", 4, "--epochs", 1, "--seed", i, "--min-psnr", 0,
            "--min-bit-accuracy", 0, "--output-dir", root / f"encoder{end}")
        paths[f"encoder{end}"] = root / f"encoder{end}/encoder.th"
        paths[f"clb{end}"] = root / f"clb{end}"
        run("generate_clb_attack", *suspect, "--poison-rate", "0.8", "--iterations", 1, "--seed", i, "--output-dir",
            paths[f"clb{end}"])
        paths[f"audited{end}"] = paths[f"model{end}"]
        run("defenses.neural_cleanse", *suspect, "--seeds", 1, "--budget", 10, "--batches", 1, "--output-dir",
            root / f"run{end}/neural-cleanse")
        paths[f"pictures{end}"] = root / f"pictures{end}"
        write_pictures(paths[f"pictures{end}"], first=i)
    paths["runs"] = root
    (root / "bare").mkdir()  # masks that do not say of what they are
    paths["bare-masks"] = root / "bare/mask_values.txt"
    paths["bare-masks"].write_bytes(paths["masks"].read_bytes())
    paths["png"] = root / "own.png"
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[20:26, 4:12] = (0, 200, 90, 255)
    Image.fromarray(picture).save(paths["png"])
    return paths


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
