"""What benchmarks/gpu.py says at its end: a line a job, epoch times, weights of the same seed, a graphed step."""
import hashlib
import json
from pathlib import Path
from statistics import median

import torch

from benchmarks.gpu_jobs import DETERMINISTIC
from benchmarks.plain import random_images
from common.untrusted import read_json
from common.untrusted.weights import read_tensors
from data.batches import to_pixels
from engine.cells import ROOT
from models import DEFAULT, build_model


def lines_of(schedule, output):
    """All lines of the summary of what lies in the folder `output`."""
    return [*job_lines(schedule), "", *epoch_lines(output), "", *weight_lines(output), *graph_lines()]


def figures_of(folder):
    """"ACC 93.10, ASR 99.90" in %, of a finished run; "" for what its results.json does not have."""
    try:
        results = read_json(ROOT / folder / "results.json")
    except FileNotFoundError:
        return ""
    return ", ".join(f"{name.upper()} {100 * results[name]['value']:.2f}" for name in ("acc", "asr")
                     if results.get(name))


def job_lines(schedule):
    """A heading, then a line a job: state, when it began and what it took in seconds, ACC and ASR.

    What ended in an earlier call has neither time.
    """
    def seconds(value):
        return "-" if value is None else f"{value:.0f}"
    rows = [f"{name:24}{own.state:10}{seconds(own.begun):>6}{seconds(own.took):>6}  "
            f"{figures_of(schedule.jobs[name].folder)}".rstrip() for name, own in schedule.progress.items()]
    return [f"{'job':24}{'state':10}{'begun':>6}{'took':>6}  figures in %", *rows]


def epoch_lines(output):
    """A line a training: its least and its median seconds an epoch, the first left out. Others ran on the card too."""
    lines = []
    for path in sorted(Path(output).rglob("metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        times = [row["time"] for row in rows if "time" in row]
        times = times[1:] or times  # the first holds autotuning and compilation
        if times:
            lines.append(f"{path.parent.relative_to(output)}: {len(rows)} epochs; seconds an epoch: least "
                         f"{min(times):.2f}, median {median(times):.2f}")
    return lines


def hash_weights(path):
    """A hash of a checkpoint's weights alone: the file also holds the flags, which name its folder."""
    digest = hashlib.sha256()
    for value in read_tensors(path)["state_dict"].values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def weight_lines(output):
    """The hashes of the --deterministic runs' weights, and whether they agree; nothing where a run is missing."""
    paths = [Path(output) / name / "model_last.th" for name in DETERMINISTIC]
    if not all(path.is_file() for path in paths):
        return []
    hashes = [hash_weights(path) for path in paths]
    verdict = "the same weights" if len(set(hashes)) == 1 else "DIFFERENT weights"
    return [f"two --deterministic runs from one seed: {verdict} ({', '.join(hashes)})"]


def graph_lines():
    """How five graphed training steps at width 64 differ from eager ones, by engine.learning.graphs; nothing without a GPU."""
    if not torch.cuda.is_available():
        return []
    return [f"graphed steps against eager ones: {graph_verdict(torch.device('cuda'))}"]


def graph_verdict(device, width=64, count=128):
    """The comparison's figures without the lists of losses, or in a few words why there is none."""
    try:
        from engine.learning.graphs import compare_steps
    except ImportError:
        return "not in this version"
    model = build_model(DEFAULT, width, 10).to(device, memory_format=torch.channels_last)
    images = random_images(count)
    pixels = to_pixels(torch.from_numpy(images.data).to(device))
    try:
        found = compare_steps(model, pixels, torch.from_numpy(images.targets).to(device), amp=True)
    except Exception as error:  # whatever it is, the figures of the other jobs are to be written
        return f"failed, {type(error).__name__}: {' '.join(str(error).split())}"
    return ", ".join(f"{name} {value:.2g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in found.items() if not isinstance(value, list))
