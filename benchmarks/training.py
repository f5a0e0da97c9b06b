"""Training speed of this pipeline against the plain one that users write, alternating in one run.

    python -m benchmarks.training --width 16

Both train the same ResNet-18 with the same SGD on the same images. Plain: torchvision transforms on one image at a
time, DataLoader(num_workers=0), NCHW, fp32. Ours: data/batches.py, channels_last (and bfloat16 on CUDA). The share
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
from engine import flags, machine
from engine.command import command
from engine.evaluation import evaluation_batches, predict
from engine.training import compile_for
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


@command
def main(argv=None):
    args = parse_args(argv)
    device = measured_device(args.device)
    amp, matrix = args.amp or device.type == "cuda", args.matrix or MATRIX[device.type]
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, which its convolutions of float32 calculate in
    count = args.batch_size * args.steps
    images = random_images(count)

    def stepper(loader, memory_format, amp, compiled):
        model = build_model(args.arch, args.width, 10).to(device, memory_format=memory_format)
        if compiled:
            compile_for(model, device)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4,
                                    fused=(device.type == "cuda" and memory_format == torch.channels_last) or None)
        return steps(loader, model, optimizer, device, amp)

    plain = stepper(DataLoader(PlainImages(images, augment=True), args.batch_size, shuffle=True, num_workers=0),
                    torch.contiguous_format, False, False)
    batches = Batches(images, args.batch_size, device, torch.Generator(), 4, True)
    ours = stepper(batches, torch.channels_last, amp, args.compile)
    plain_net, our_net = (build_model(args.arch, args.width, 10).to(device, memory_format=memory_format)
                          for memory_format in (torch.contiguous_format, torch.channels_last))
    untransformed, tested = DataLoader(PlainImages(images, augment=False), 128), evaluation_batches(images, device)
    kinds = [torch.float32] + [torch.bfloat16] * amp  # predictions are float32 always
    products, rounds = {(kind, name): product for kind in kinds for name, product in matrix_products(
        device, kind, matrix).items()}, []
    for _ in range(args.rounds + 1):
        trained = [seconds(device, lambda stepper=stepper: take(stepper, args.steps)) for stepper in (plain, ours)]
        making = seconds(device, lambda: list(batches))
        tests = (seconds(device, lambda: plain_predictions(plain_net, untransformed, device)),
                 seconds(device, lambda: predict(our_net, tested)))
        rates = [matrix_rate(product, matrix, device) for product in products.values()]
        rounds.append((*trained, making, *tests, *rates))
    plain_time, our_time, making, *tests_and_rates = (median(column) for column in zip(*rounds[1:], strict=True))
    (plain_test, our_test), rates = tests_and_rates[:2], dict(zip(products, tests_and_rates[2:], strict=True))
    best = {kind: max((rate, name) for (own, name), rate in rates.items() if own == kind) for kind in kinds}
    rate, library = best[kinds[-1]]
    share = operations_per_image(args.width) * count / our_time / rate
    moving = bytes_per_image(args.width, kinds[-1].itemsize) * count / copy_rate(device)
    test_share = operations_per_image(args.width, backward=False) * count / our_test / best[torch.float32][0]

    print(f"ResNet-18 width {args.width}, batch {args.batch_size}, {machine.device_name(device)}, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians of {args.rounds} alternating rounds "
          f"of {args.steps} steps")
    print(f"plain pipeline        {count / plain_time:8.0f} images/s")
    print(f"this pipeline         {count / our_time:8.0f} images/s")
    print(f"ratio                 {plain_time / our_time:8.2f}x")
    print(f"matrix products       {rate / 1e9:8.0f} GFLOP/s ({matrix} x {matrix}, {library})")
    print(f"share of that rate    {100 * share:8.0f} %")
    print(f"memory's bound        {100 * moving / our_time:8.0f} % of a step, at the rate of a copy")
    print(f"making the batches    {100 * making / our_time:8.1f} % of a step")
    print(f"predictions           {plain_test / our_test:8.2f}x")
    print(f"share of that rate    {100 * test_share:8.0f} % (float32)")
    return [Row(f"{args.steps} training steps of {args.batch_size}" + ", bfloat16" * amp, plain_time, our_time, share),
            Row(f"predictions of {count} images", plain_test, our_test, test_share)]


if __name__ == "__main__":
    main()
