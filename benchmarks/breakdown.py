"""Where the time of each script goes: convolutions, batch norm, the rest, and the time outside operators.

    python -m benchmarks.breakdown --width 16
    python -m benchmarks.breakdown --width 64

A small piece of each script's work under torch.profiler, once to warm up and once to count, by the time in operators
themselves (on a GPU: in their kernels). "Outside" is the rest of the clock's time: Python, on a GPU also waiting. First
the two bounds of a training step: its operations over the measured rate of matrix products, and the bytes that its
batch norms, ReLUs and additions move over the measured rate of copying. Random images: they do not change the work.
Reads and writes nothing.
"""
from statistics import median

import torch
import torch.nn.functional as F
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.bounds import (
    MATRIX,
    add_matrix_flag,
    bytes_per_image,
    copy_rate,
    matrix_products,
    matrix_rate,
    operations_per_image,
)
from benchmarks.plain import measured_device, random_images, seconds, setting
from benchmarks.scaling import cleanse, strip, train
from data.batches import Batches
from defenses.abl import local_gradient_ascent
from engine.command_line import flags
from engine.command_line.command import command
from engine.measuring.evaluation import evaluation_batches, predict
from generate_clb_attack import perturb
from generate_mask import make_masks_trainable, mask_train
from models import DEFAULT, build_model
from models.noisy_batchnorm import NoisyBatchNorm2d, parameters_named

# Operators by what their names hold, the first that fits.
KINDS = {"convolutions": ("conv", "fprop", "dgrad", "wgrad"), "batch norm": ("batch_norm", "batchnorm", "bn_"),
         "ReLU": ("relu", "threshold", "clamp_min", "launch_clamp")}
BATCH = 128
KIND = {"cpu": torch.float32, "cuda": torch.bfloat16}  # what a step calculates in by default


def kind_of(name):
    """The kind of an operator or kernel; None for any other."""
    return next((kind for kind, parts in KINDS.items() if any(part in name.lower() for part in parts)), None)


def shares(work, device):
    """{kind: its share of the time of `work()`}, "other operators" and "outside" included; the sum is 1."""
    work()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        whole = seconds(device, work)
    found = dict.fromkeys([*KINDS, "other operators"], 0.0)
    for entry in profiler.key_averages():
        if device.type == "cuda":  # of kernels alone, since an operator has its kernels' time too
            is_kernel = entry.device_type == DeviceType.CUDA and not entry.is_user_annotation
            time = entry.self_device_time_total * is_kernel
        else:
            time = entry.self_cpu_time_total
        found[kind_of(entry.key) or "other operators"] += time / 1e6 / whole
    return {**found, "outside": 1 - sum(found.values())}


def bounds(width, device, matrix):
    """Lines: what a training step takes at least, and what it takes."""
    rate = max(median(matrix_rate(product, matrix, device) for _ in range(5))
               for product in matrix_products(device, KIND[device.type], matrix).values())
    step = train(width, device, BATCH)
    step()
    measured = median(seconds(device, step) for _ in range(5))
    computing = BATCH * operations_per_image(width) / rate
    moving = BATCH * bytes_per_image(width, KIND[device.type].itemsize) / copy_rate(device)
    return [f"a training step of {BATCH} images: {measured:.3f} s",
            f"its operations at {rate / 1e9:.0f} GFLOP/s: {computing:.3f} s ({100 * computing / measured:.0f} %)",
            f"what batch norm, ReLU and addition move, at the rate of a copy: {moving:.3f} s "
            f"({100 * moving / measured:.0f} %)"]


def works(width, device):
    """{script: a small piece of its work, as a function of nothing}."""
    images = random_images(BATCH)
    model = build_model(DEFAULT, width, 10).to(device)
    noisy = build_model(DEFAULT, width, 10, norm_layer=NoisyBatchNorm2d).to(device)
    make_masks_trainable(noisy)
    mask_opt, noise_opt = (torch.optim.SGD(parameters_named(noisy, name), 0.2) for name in ("neuron_mask",
                                                                                            "neuron_noise"))
    tested, trained = evaluation_batches(random_images(2 * BATCH), device), Batches(
        images, BATCH, device, torch.Generator(), 4, True)
    return {
        "train_backdoor.py": train(width, device, 2 * BATCH),
        "the test after an epoch": lambda: predict(model, tested),
        "defenses.abl, stage 1": train(width, device, 2 * BATCH, objective=lambda logits, labels: (
            local_gradient_ascent(logits, labels, 0.5))),
        "generate_clb_attack.py": lambda: perturb(
            model, images.data[:32], images.targets[:32], 32, epsilon=16 / 255, alpha=2 / 255, max_attack_iters=4,
            restarts=1, freeze_fooled=False),
        "generate_mask.py": lambda: mask_train(noisy, F.cross_entropy, mask_opt, noise_opt, trained, 0.4, 1, 0.2),
        "defenses.strip": strip(width, device, 20),
        "defenses.neural_cleanse": cleanse(width, device, 4),
    }


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--width", type=flags.integer(2), default=16, help="of the network")
    add_matrix_flag(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    device = measured_device(args.device)
    print(f"{setting(args.width, device)}\n")
    print("\n".join(bounds(args.width, device, args.matrix or MATRIX[device.type])))
    columns = [*KINDS, "other operators", "outside"]
    print("\n| work | " + " | ".join(columns) + " |\n|" + "---|" * (1 + len(columns)))
    for script, work in works(args.width, device).items():
        found = shares(work, device)
        print(f"| `{script}` | " + " | ".join(f"{100 * found[name]:.1f} %" for name in columns) + " |", flush=True)


if __name__ == "__main__":
    main()
