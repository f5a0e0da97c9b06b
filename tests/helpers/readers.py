"""What reads each kind of file that a stranger may have made."""
import functools

import prune_network
from data.clean_label import load_clean_label
from data.datasets import load_splits
from data.image_folder import read_image
from data.poison_cifar import poison_training_set
from data.triggers import read_trigger_image
from engine.attacking.attack import load_encoder
from engine.weights.checkpoint import load_model, load_trigger
from helpers.paths import SIDE
from methods.screening import read_calibration
from reporting.found import find_runs
from reporting.log import read_log
from workflow.audit import read_settings
from workflow.matrix import read_matrix


@functools.cache
def digits():
    return load_splits("digits", "", image_size=SIDE)[0]


# {kind: (file that is spoilt, what reads it, given the folder that all lie in)}.
READERS = {
    "checkpoint": ("model.th", lambda root: load_model(root / "model.th")),
    "safetensors": ("model.safetensors", lambda root: load_model(root / "model.safetensors")),
    "attack result": ("attack_result.th", lambda root: load_model(root / "attack_result.th")),
    "trigger": ("trigger.th", lambda root: load_trigger(root / "trigger.th")),
    "encoder": ("encoder.th", lambda root: poison_training_set(
        digits().subset(slice(9)), "issba", 0, 1, encoder=load_encoder(root / "encoder.th")["encoder"])),
    "masks": ("masks.txt", lambda root: prune_network.check_masks(
        load_model(root / "model.th").model, prune_network.read_data(root / "masks.txt"), root / "masks.txt")),
    "clean-label images": ("clb/data.npy", lambda root: load_clean_label(root / "clb", digits(), 0)),
    "clean-label labels": ("clb/label.npy", lambda root: load_clean_label(root / "clb", digits(), 0)),
    "clean-label list": ("clb/backdoor_list.npy", lambda root: load_clean_label(root / "clb", digits(), 0)),
    "clean-label trigger": ("clb/trigger.npz", lambda root: load_clean_label(root / "clb", digits(), 0)),
    "clean-label manifest": ("clb/manifest.json", lambda root: load_clean_label(root / "clb", digits(), 0)),
    "calibration": ("strip/strip.json", lambda root: read_calibration(root / "strip/strip.json", root / "model.th")),
    "overlays": ("strip/overlays.npy", lambda root: read_calibration(root / "strip/strip.json", root / "model.th")),
    "results": ("run/results.json", lambda root: [find_runs(root / "run")[0].share("acc"), find_runs(root / "run")]),
    "config": ("run/config.json", lambda root: find_runs(root / "run")[0].did),
    "metrics": ("run/metrics.jsonl", lambda root: find_runs(root / "run")[0].rows),
    "log": ("run/output.log", lambda root: read_log(root / "run/output.log")),
    "PNG": ("image.png", lambda root: read_image(root / "image.png")),
    "JPEG": ("image.jpg", lambda root: read_image(root / "image.jpg")),
    "trigger image": ("trigger.png", lambda root: read_trigger_image(root / "trigger.png")),
    "matrix": ("matrix.yaml", lambda root: read_matrix(root / "matrix.yaml")),
    "audit's settings": ("audit.yaml", lambda root: read_settings(root / "audit.yaml")),
}
TEXT = {"masks", "metrics", "log", "matrix", "audit's settings"}  # whose beginning alone may be sound
