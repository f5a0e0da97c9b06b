"""What the benchmarks compare against and measure with: the image pipeline that users write, and a clock."""
import time
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms

from data.image_set import ImageSet
from engine.command_line import flags
from engine.runs import machine

AUGMENT = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]


class PlainImages(Dataset):
    """Images as torchvision's CIFAR10 hands them out: PIL, transformed one at a time.

    Without Normalize, which the model does for both sides: the plain one is spared that work.
    """

    def __init__(self, images, augment):
        self.images = images
        self.transform = transforms.Compose([*(AUGMENT if augment else []), transforms.ToTensor()])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images.data[index])), int(self.images.targets[index])


@dataclass(frozen=True)
class Row:
    """Medians in seconds of the plain way and of ours; `share` of the machine's matrix rate, None if unknown."""

    what: str
    plain: float
    ours: float
    share: float | None = None


def clock(device):
    """Seconds, after the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(device, work):
    """How long `work()` takes."""
    start = clock(device)
    work()
    return clock(device) - start


def measured_device(name):
    """The torch.device to measure on, set up as a run without --deterministic sets it up."""
    machine.set_determinism(False)
    return machine.find_device(name)


def setting(width, device, arch="ResNet-18"):
    """What a benchmark's figures were measured on; width None: a network that has none."""
    network = arch if width is None else f"{arch} width {width}"
    return (f"{network}, {machine.device_name(device)}, {torch.get_num_threads()} threads, torch "
            f"{torch.__version__}")


def heading(width, device):
    """The same for times."""
    return f"{setting(width, device)}; medians of alternating rounds"


def add_timing_flags(parser, rounds):
    """How often to measure, and on what; `rounds` is the default."""
    parser.add_argument("--rounds", type=flags.integer(1), default=rounds, help="alternations after one to warm up")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def compare(name, rounds, device, plain, ours):
    """Print the medians of `plain` and `ours`, run in turn, and their ratio; returns the Row."""
    times = [(seconds(device, plain), seconds(device, ours)) for _ in range(rounds + 1)][1:]
    a, b = (median(column) for column in zip(*times, strict=True))
    print(f"{name:34}{a:10.3f} s plain {b:10.3f} s here {a / b:8.2f}x")
    return Row(name, a, b)


def random_images(count, seed=0, size=32):
    rng = np.random.default_rng(seed)
    return ImageSet(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8), rng.integers(0, 10, count))
