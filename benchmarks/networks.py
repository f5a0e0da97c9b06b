"""Speed of every network: images a second in training and in prediction, and the share of the machine's matrix rate.

    python -m benchmarks.networks --width 16
    python -m benchmarks.networks --arch wrn16-1 wrn40-2 --amp

All networks take turns in each round, with the two matrix products that their rates are set against; the figures are
medians. --width is that of the networks that have one. torchvision's get images of 224 pixels, the others of 32, so
many that each has about as many pixels in a step. Predictions are float32's, training is bfloat16's with --amp and on a
GPU. Random images: they do not change the work. Reads and writes nothing.
"""
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.bounds import MATRIX, add_matrix_flag, matrix_products, matrix_rate, operations_per_image
from benchmarks.plain import add_timing_flags, measured_device, random_images, seconds
from benchmarks.training import steps, take
from data.batches import Batches
from engine.command_line import flags
from engine.command_line.arch_flags import architecture
from engine.command_line.command import command
from engine.measuring.evaluation import evaluation_batches, predict
from engine.runs import machine
from models import ARCHITECTURES, build_model, find_architecture

PIXELS = 32  # a side, of the images of networks that name no size
SMALLEST = 8  # images a step, however large they are


@dataclass(frozen=True)
class Network:
    """A network to be timed. width: None for one of one size. batch: images a step."""

    arch: str
    width: int | None
    size: int
    batch: int

    @classmethod
    def of(cls, arch, width, batch, size=None):
        """The network with its usual images, of `size` pixels a side if it is given."""
        row = find_architecture(arch)
        size = size or row.image_size or PIXELS
        return cls(arch, width if row.has_width else None, size, max(SMALLEST, batch * PIXELS**2 // size**2))

    def operations(self, backward):
        """Floating-point operations per image, in a training step or in a prediction."""
        return operations_per_image(self.width, 2, backward, self.arch, self.size)

    def works(self, device, amp):
        """(a training step, a pass of predictions of as many images), functions of nothing."""
        model = build_model(self.arch, self.width, 10, image_size=self.size).to(device)
        images, tested = random_images(self.batch, size=self.size), build_model(
            self.arch, self.width, 10, image_size=self.size).to(device)
        batches = Batches(images, self.batch, device, torch.Generator(), 4, True)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4,
                                    fused=device.type == "cuda" or None)
        stepper, held = steps(batches, model, optimizer, device, amp), evaluation_batches(images, device)
        return lambda: take(stepper, 1), lambda: predict(tested, held)


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--arch", nargs="+", type=architecture, default=list(ARCHITECTURES), metavar="NAME",
                        help="networks to be timed (default: all)")
    parser.add_argument("--width", type=flags.integer(1), default=64, help="of the networks that have one")
    parser.add_argument("--batch-size", type=flags.integer(1), default=128, help="images of 32 pixels a step")
    parser.add_argument("--image-size", type=flags.integer(8, 1024), metavar="PIXELS",
                        help="pixels a side, for all networks (default: each network's own)")
    add_timing_flags(parser, 5)
    add_matrix_flag(parser)
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 on a CPU too")
    return parser.parse_args(argv)


def measure(networks, device, kinds, matrix, rounds):
    """([(seconds of a training step, of a pass of predictions)], {kind: best rate of matrix products}): medians.

    kinds: the types of number that predictions and training calculate in.
    """
    works = [work for network in networks for work in network.works(device, kinds[-1] == torch.bfloat16)]
    products = [(kind, product) for kind in dict.fromkeys(kinds)
                for product in matrix_products(device, kind, matrix).values()]
    found = []
    for _ in range(rounds + 1):
        found.append([*(seconds(device, work) for work in works),
                      *(matrix_rate(product, matrix, device) for _, product in products)])
    medians = [median(column) for column in zip(*found[1:], strict=True)]
    rates = {kind: max(rate for (own, _), rate in zip(products, medians[len(works):], strict=True) if own == kind)
             for kind in kinds}
    return list(zip(medians[:len(works):2], medians[1:len(works):2], strict=True)), rates


def row(network, times, rates):
    """A line of the table. rates: of matrix products, for training and for predictions."""
    forward = network.operations(backward=False)
    shares = [operations * network.batch / time / rate for operations, time, rate in zip(
        (network.operations(backward=True), forward), times, rates, strict=True)]
    speeds = [network.batch / time for time in times]
    return (f"| `{network.arch}` | {network.width or ''} | {network.size} | {forward / 2e6:.1f} | {speeds[0]:.0f} | "
            f"{100 * shares[0]:.0f} % | {speeds[1]:.0f} | {100 * shares[1]:.0f} % |")


@command
def main(argv=None):
    args = parse_args(argv)
    device = measured_device(args.device)
    kinds = (torch.float32, torch.bfloat16 if args.amp or device.type == "cuda" else torch.float32)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, which its convolutions of float32 calculate in
    networks = [Network.of(arch, args.width, args.batch_size, args.image_size) for arch in args.arch]

    times, rates = measure(networks, device, kinds, args.matrix or MATRIX[device.type], args.rounds)

    print(f"{machine.device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}; matrix "
          f"products {rates[kinds[1]] / 1e9:.0f} GFLOP/s for training, {rates[kinds[0]] / 1e9:.0f} for predictions; "
          f"medians of {args.rounds} alternating rounds\n")
    print("| network | width | pixels a side | million multiply-adds | training, images/s | share of the matrix rate | "
          "predictions, images/s | share |\n|---|---|---|---|---|---|---|---|")
    for network, time in zip(networks, times, strict=True):
        print(row(network, time, (rates[kinds[1]], rates[kinds[0]])), flush=True)


if __name__ == "__main__":
    main()
