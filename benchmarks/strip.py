"""Speed of STRIP here against its straightforward form, alternating in one run.

    python -m benchmarks.strip --width 16

Straightforward: for one image after the other its overlays are added in NumPy, made a float batch, put
through the network in NCHW, and the softmax's entropy is taken in NumPy. Random images: they do not change the work.
Also prints the peak memory of the process. Reads and writes nothing.
"""

import numpy as np
import torch

from benchmarks.plain import add_timing_flags, compare, heading, measured_device, random_images
from engine.command_line import flags
from engine.command_line.command import command
from engine.runs import machine
from methods.strip import Strip, draw_overlays
from models import build_model


@torch.no_grad()
def plain_entropies(model, images, pool, draws, device):
    """STRIP as it is usually written, with the overlays draws (N, n) of `pool`."""
    model.eval()
    entropies = []
    for image, own in zip(images, draws, strict=True):
        mixed = np.clip(image.astype(np.int32) + pool[own], 0, 255).astype(np.float32) / 255
        batch = torch.from_numpy(mixed.transpose(0, 3, 1, 2).copy()).to(device)
        p = torch.softmax(model(batch), 1).cpu().numpy()
        entropies.append(-np.sum(p * np.log2(p + 1e-12)) / len(own))
    return np.array(entropies)


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_model_flags(parser)
    parser.add_argument("--images", type=flags.integer(1), default=50, help="images in a round")
    parser.add_argument("--overlays", type=flags.integer(1), default=100, help="overlays of each")
    add_timing_flags(parser, 5)
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    device = measured_device(args.device)
    print(heading(args.width, device))
    pool, images = random_images(1000).data, random_images(args.images, seed=1).data
    plain = build_model(args.arch, args.width, 10).to(device, memory_format=torch.contiguous_format)
    ours = build_model(args.arch, args.width, 10).to(device)
    ours.load_state_dict(plain.state_dict())
    strip = Strip(ours, pool, args.overlays, "sum-clip", 0, device)
    draws = draw_overlays(images, pool, args.overlays, 0)
    apart = np.abs(plain_entropies(plain, images, pool, draws, device) - strip.entropies(images)).max()
    print(f"the entropies of both differ by at most {apart:.1e}")
    row = compare(f"{args.images} images, {args.overlays} overlays each", args.rounds, device,
                  lambda: plain_entropies(plain, images, pool, draws, device), lambda: strip.entropies(images))
    print(f"peak memory {machine.peak_memory_mb():.0f} MB")
    return [row]


if __name__ == "__main__":
    main()
