"""The two bounds of a step: its operations at the rate of matrix products, its bytes at the rate of a copy.

On a CPU a step's share of the matrix rate is the target. A GPU multiplies so much faster than it copies that its batch
norms, ReLUs and additions take longer than its convolutions, and launches take time besides: there both are quoted.
"""
import warnings

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.mkldnn import to_mkldnn

from benchmarks.plain import seconds
from engine.command_line import flags
from models import DEFAULT, build_model

MATRIX = {"cpu": 2048, "cuda": 8192}  # large enough to be as fast as any
# How often batch norm, ReLU and addition move an activation in a step, forward and backward: batch norm reads it for
# its statistics, reads and writes it, then reads it and its gradient twice and writes one; and so on.
MOVES = {"norm": 3 + 5, "relu": 2 + 3, "add": 3}


def matrix_products(device, dtype, size):
    """{name: function that multiplies two square matrices} of the libraries that may do it best here.

    On a CPU that is torch.mm's BLAS or oneDNN, which does the convolutions; on some processors the one is twice as
    fast as the other, and a share of the slower one's rate would pass 100 %.
    """
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    products = {"torch.mm": lambda: a @ b}
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter itself uses what PyTorch calls deprecated
            linear, mkldnn_a = to_mkldnn(torch.nn.Linear(size, size, bias=False).eval()), a.to_mkldnn()
        products["oneDNN"] = torch.inference_mode()(lambda: linear(mkldnn_a))
    return products


def matrix_rate(product, size, device):
    """Floating-point operations a second of a square matrix product."""
    repeats = 50 if device.type == "cuda" else 8

    def several():
        for _ in range(repeats):
            product()  # not kept: 50 products of 8192 x 8192 would be 13 GB
    return repeats * 2 * size**3 / seconds(device, several)


def operations_per_image(width, count=8, backward=True, arch=DEFAULT, image_size=32):
    """Floating-point operations of a training step, per image (2 for a multiply-add; weight updates not counted).

    Of a prediction without `backward`.
    """
    model = build_model(arch, width, 10)
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.rand(count, 3, image_size, image_size))
        if backward:
            logits.sum().backward()
    return counter.get_total_flops() / count


class CountMoves(TorchDispatchMode):
    """Counts in `moved` how many numbers batch norms, ReLUs and additions of a training step move."""

    def __init__(self):
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        kind = "norm" if "batch_norm" in name else name.strip("_")
        if kind in MOVES:
            self.moved += MOVES[kind] * (found[0] if isinstance(found, (tuple, list)) else found).numel()
        return found


def bytes_per_image(width, size=4, arch=DEFAULT):
    """Bytes, `size` to a number, that batch norms, ReLUs and additions of a training step move, at least, per image."""
    model = build_model(arch, width, 10).eval()
    with torch.no_grad(), CountMoves() as counter:
        model(torch.rand(1, 3, 32, 32))
    return size * counter.moved


def copy_rate(device):
    """Bytes a second that a copy of an array reads and writes that no cache holds."""
    size = 2**30 if device.type == "cuda" else 2**26
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    target.copy_(source)
    return 8 * 2 * size / seconds(device, lambda: [target.copy_(source) for _ in range(8)])


def add_matrix_flag(parser):
    sizes = ", ".join(f"{size} on {device}" for device, size in MATRIX.items())
    parser.add_argument("--matrix", type=flags.integer(1), help=f"size of the square matrices (default: {sizes})")
