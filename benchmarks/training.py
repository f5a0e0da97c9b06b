"""Training speed of this pipeline against the plain one that users write, alternating in one run.

    python -m benchmarks.training --width 16

Both train the same network (--arch) with the same SGD on the same images. Plain: torchvision transforms on one image at
a time, DataLoader(num_workers=0), NCHW, fp32. Ours: data/batches.py, channels_last (and bfloat16 on CUDA). The share
is of the machine's own rate of large matrix products, by the faster of its libraries, measured in the same rounds;
operations are counted by torch.utils.flop_counter. It is a target on a CPU alone; on a GPU read it beside the time that
memory needs (see benchmarks/bounds.py). Then a pass of predictions. Reads and writes nothing.
"""
from statistics import median

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from benchmarks.bounds import (
    MATRIX,
    add_matrix_flag,
    bytes_per_image,
    copy_rate,
    matrix_products,
    matrix_rate,
    operations_per_image,
)
from benchmarks.plain import PlainImages, Row, add_timing_flags, measured_device, random_images, seconds
from data.batches import Batches
from engine.command_line import flags
from engine.command_line.command import command
from engine.learning.training import compile_for
from engine.measuring.evaluation import evaluation_batches, predict
from engine.runs import machine
from models import build_model


def steps(loader, model, optimizer, device, amp):
    """Endless training steps; yields after each."""
    while True:
        for images, labels in loader:
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def take(stepper, count):
    """Make `count` steps."""
    for _ in range(count):
        next(stepper)


@torch.no_grad()
def plain_predictions(model, loader, device):
    """A pass over test images as it is usually written."""
    model.eval()
    return torch.cat([model(images.to(device)) for images, _ in loader])


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_model_flags(parser)
    parser.add_argument("--batch-size", type=flags.integer(1), default=128, help="images a step")
    add_timing_flags(parser, 7)
    parser.add_argument("--steps", type=flags.integer(1), default=4, help="steps of each pipeline in a round")
    add_matrix_flag(parser)
    parser.add_argument("--compile", action="store_true", help="torch.compile our model")
    parser.add_argument("--amp", action="store_true", help="bfloat16 for ours on a CPU too")
    return parser.parse_args(argv)


def stepper(args, device, loader, memory_format, amp=False, compiled=False):
    """Endless training steps of a new network on what `loader` yields."""
    model = build_model(args.arch, args.width, 10).to(device, memory_format=memory_format)
    if compiled:
        compile_for(model, device)
    fused = (device.type == "cuda" and memory_format == torch.channels_last) or None
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4, fused=fused)
    return steps(loader, model, optimizer, device, amp)


def training_sides(args, device, images, amp):
    """{name: function that is timed}: steps of the plain pipeline and of ours, and the making of our batches alone."""
    loader = DataLoader(PlainImages(images, augment=True), args.batch_size, shuffle=True, num_workers=0)
    plain = stepper(args, device, loader, torch.contiguous_format)
    batches = Batches(images, args.batch_size, device, torch.Generator(), 4, True)
    ours = stepper(args, device, batches, torch.channels_last, amp, args.compile)
    return {"plain": lambda: take(plain, args.steps), "ours": lambda: take(ours, args.steps),
            "batches": lambda: list(batches)}


def prediction_sides(args, device, images):
    """{name: function that is timed}: a pass of predictions of the plain pipeline and of ours."""
    plain, ours = (build_model(args.arch, args.width, 10).to(device, memory_format=memory_format)
                   for memory_format in (torch.contiguous_format, torch.channels_last))
    loader, tested = DataLoader(PlainImages(images, augment=False), 128), evaluation_batches(images, device)
    return {"plain predictions": lambda: plain_predictions(plain, loader, device),
            "our predictions": lambda: predict(ours, tested)}


def measure(args, device, kinds, matrix):
    """({name: seconds}, {kind: (best rate of matrix products, its library)}): medians of alternating rounds.

    kinds: the types of number that matrices are multiplied in; training is in the last.
    """
    images = random_images(args.batch_size * args.steps)
    sides = {**training_sides(args, device, images, kinds[-1] == torch.bfloat16),
             **prediction_sides(args, device, images)}
    products = {(kind, name): product for kind in kinds
                for name, product in matrix_products(device, kind, matrix).items()}
    rounds = []
    for _ in range(args.rounds + 1):
        times = [seconds(device, side) for side in sides.values()]
        rounds.append((*times, *(matrix_rate(product, matrix, device) for product in products.values())))
    medians = [median(column) for column in zip(*rounds[1:], strict=True)]
    times, rates = dict(zip(sides, medians, strict=False)), dict(zip(products, medians[len(sides):], strict=True))
    return times, {kind: max((rate, name) for (own, name), rate in rates.items() if own == kind) for kind in kinds}


@command
def main(argv=None):
    args = parse_args(argv)
    device = measured_device(args.device)
    matrix, kinds = args.matrix or MATRIX[device.type], [torch.float32]  # predictions are float32 always
    if args.amp or device.type == "cuda":
        kinds.append(torch.bfloat16)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, which its convolutions of float32 calculate in

    times, best = measure(args, device, kinds, matrix)
    (rate, library), count = best[kinds[-1]], args.batch_size * args.steps
    share = operations_per_image(args.width, arch=args.arch) * count / times["ours"] / rate
    moving = bytes_per_image(args.width, kinds[-1].itemsize, args.arch) * count / copy_rate(device)
    test_share = (operations_per_image(args.width, backward=False, arch=args.arch) * count / times["our predictions"]
                  / best[torch.float32][0])

    report(args, device, times, count, f"{rate / 1e9:8.0f} GFLOP/s ({matrix} x {matrix}, {library})",
           (share, moving / times["ours"], test_share))
    kind = ", bfloat16" if len(kinds) > 1 else ""
    return [Row(f"{args.steps} training steps of {args.batch_size}{kind}", times["plain"], times["ours"], share),
            Row(f"predictions of {count} images", times["plain predictions"], times["our predictions"], test_share)]


def report(args, device, times, count, products, shares):
    """Print the figures; shares: of the matrix rate in training, of a step by memory's bound, of the rate in tests."""
    share, moving, test_share = shares
    named = f"{args.arch} width {args.width}" if args.width else args.arch
    print(f"{named}, batch {args.batch_size}, {machine.device_name(device)}, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians of {args.rounds} alternating rounds "
          f"of {args.steps} steps")
    print(f"plain pipeline        {count / times['plain']:8.0f} images/s")
    print(f"this pipeline         {count / times['ours']:8.0f} images/s")
    print(f"ratio                 {times['plain'] / times['ours']:8.2f}x")
    print(f"matrix products       {products}")
    print(f"share of that rate    {100 * share:8.0f} %")
    print(f"memory's bound        {100 * moving:8.0f} % of a step, at the rate of a copy")
    print(f"making the batches    {100 * times['batches'] / times['ours']:8.1f} % of a step")
    print(f"predictions           {times['plain predictions'] / times['our predictions']:8.2f}x")
    print(f"share of that rate    {100 * test_share:8.0f} % (float32)")


if __name__ == "__main__":
    main()
