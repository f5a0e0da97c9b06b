"""How time and memory grow with the images, the width, the classes, the overlays, the labels and the thresholds.

    python -m benchmarks.scaling

For each axis the same work at three sizes, in turn; the growth is the exponent between the least and the largest size,
1 for work that is as large as the axis. Memory is the most that a process of its own held above what it held before
the work (on Linux; on a GPU, what was allocated there). The last axis is where the images lie: on the device, or
streamed from a file that is mapped (on a CPU from the system's cache). Random images: they do not change the work.
Writes a temporary file alone.
"""
import math
import multiprocessing
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.plain import add_timing_flags, heading, measured_device, random_images, seconds
from data.batches import Batches
from engine.command_line import flags
from engine.command_line.command import command
from engine.learning.training import step_of, train_epoch
from engine.measuring.evaluation import evaluation_batches, score
from engine.measuring.scores import UNKNOWN, Evaluation
from methods.strip import Strip
from methods.trigger_search import reverse_triggers
from models import DEFAULT, build_model
from prune_network import evaluate_by_threshold, norm_layers


def reset_peak(device):
    """Forget the most memory that was held so far. Returns what is held now, in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return held("VmRSS")


def held(name):
    """An entry of /proc/self/status in bytes; nan where there is none."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 2**10
    return math.nan


def peak(device):
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else held("VmHWM")


def train(width, device, count=512, classes=10, resident=None, images=None, objective=F.cross_entropy):
    """An epoch over random images, as a function of nothing."""
    model = build_model(DEFAULT, width, classes).to(device)
    batches = Batches(images or random_images(count), 128, device, torch.Generator(), 4, True, resident=resident)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4,
                                fused=device.type == "cuda" or None)
    return lambda: train_epoch(model, batches, optimizer, device.type == "cuda", step_of(objective))


def strip(width, device, overlays):
    model = build_model(DEFAULT, width, 10).to(device)
    found = Strip(model, random_images(300).data, overlays, "sum-clip", 0, device)
    images = random_images(20, seed=1).data
    return lambda: found.entropies(images)


def cleanse(width, device, labels):
    model = build_model(DEFAULT, width, 16).to(device)

    def search():
        batches = Batches(random_images(64), 32, device, torch.Generator().manual_seed(0))
        reverse_triggers(model, batches, 1, range(labels), 4, 0.99, generator=torch.Generator().manual_seed(0))
    return search


def prune(width, device, thresholds):
    model, rng = build_model(DEFAULT, width, 10).to(device), np.random.default_rng(0)
    neurons = [(name, i, float(rng.random())) for name, layer in norm_layers(model).items()
               for i in range(layer.num_features)]
    batches, points = evaluation_batches(random_images(256), device), np.linspace(0, 0.95, thresholds).tolist()
    return lambda: evaluate_by_threshold(model, neurons, points, lambda model: (
        Evaluation(score(model, batches), UNKNOWN), UNKNOWN))


def on_disk(images, folder):
    """The images as an array that NumPy has mapped from a file."""
    np.save(Path(folder) / "images.npy", images.data)
    return replace(images, data=np.load(Path(folder) / "images.npy", mmap_mode="c"))


def axes(width, device, folder):
    """{axis: ({size: function of nothing that makes the work}, why it grows as it does)}."""
    several, images = (128, 512, 2048), random_images(2048)
    return {
        "training, images": ({n: lambda n=n: train(width, device, n) for n in several},
                             "a step for each batch; the images lie in memory as bytes"),
        "training, width": ({n: lambda n=n: train(n, device, 256) for n in (width // 2, width, 2 * width)},
                            "a convolution's work is the square of the width, all else is as large as the width"),
        "training, classes": ({n: lambda n=n: train(width, device, classes=n) for n in (10, 100, 1000)},
                              "the last layer alone"),
        "STRIP, overlays": ({n: lambda n=n: strip(width, device, n) for n in (10, 40, 160)},
                            "a prediction for each, in batches of a size that does not grow"),
        "Neural Cleanse, labels": ({n: lambda n=n: cleanse(width, device, n) for n in (1, 4, 16)},
                                   "a trigger for each, and the same images with all of them in one batch"),
        "ANP, thresholds": ({n: lambda n=n: prune(width, device, n) for n in (5, 10, 20)},
                            "a test for each; the neurons are pruned once, in order"),
        "streaming": ({"resident": lambda: train(width, device, images=images),
                       "mapped file": lambda: train(width, device, images=on_disk(images, folder), resident=False)},
                      "a batch is a thousandth of what a step takes"),
    }


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--width", type=flags.integer(2), default=16, help="of the network")
    add_timing_flags(parser, 3)
    return parser.parse_args(argv)


def memory_of(axis, size, width, device, folder):
    """Bytes that one work holds at most above what was held before; for a process of its own, in which none was."""
    make = axes(width, measured_device(str(device)), folder)[axis][0][size]  # which also starts CUDA here
    before = reset_peak(device)
    make()()
    return peak(device) - before


def measure_memory(axis, sizes, width, device, folder):
    """{size: bytes}, each measured in a new process, since pages that are taken again would not count."""
    pool = multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1)
    try:
        return {size: pool.apply(memory_of, (axis, size, width, device, folder)) for size in sizes}
    finally:
        pool.close()
        pool.join()


def measure(sizes, rounds, device):
    """{size: median seconds} of works, run in turn."""
    found = {size: [] for size in sizes}
    for _ in range(rounds + 1):
        for size, make in sizes.items():
            found[size].append(seconds(device, make()))
    return {size: median(times[1:]) for size, times in found.items()}


@command
def main(argv=None):
    args = parse_args(argv)
    device = measured_device(args.device)
    print(heading(args.width, device))
    print("\n| axis | sizes | seconds | MB more | growth of the time | why |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for axis, (sizes, why) in axes(args.width, device, folder).items():
            found = measure(sizes, args.rounds, device)
            memory = measure_memory(axis, sizes, args.width, device, folder)
            first, *_, last = sizes
            ratio = found[last] / found[first]
            growth = f"{ratio:.2f}x" if isinstance(first, str) else f"n^{math.log(ratio) / math.log(last / first):.2f}"
            print(f"| {axis} | {', '.join(map(str, sizes))} | {', '.join(f'{time:.2f}' for time in found.values())} | "
                  f"{', '.join(f'{size / 2**20:.0f}' for size in memory.values())} | {growth} | {why} |", flush=True)


if __name__ == "__main__":
    main()
