"""What ABL's stage 1 and its per-sample losses cost beside an epoch of plain training, alternating in one run.

    python -m benchmarks.abl --width 16

One epoch of local gradient ascent against one of cross-entropy (train_backdoor.py's), both on images as they are; and
the losses of all images against the same number of predictions. Random images: they do not change the work. Reads and
writes nothing.
"""
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.plain import add_timing_flags, compare, heading, measured_device, random_images
from data.batches import Batches
from defenses.abl import local_gradient_ascent
from engine.command_line import flags
from engine.command_line.command import command
from engine.learning.training import step_of, train_epoch
from engine.measuring.evaluation import evaluation_batches, predict, sample_losses
from models import build_model


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_model_flags(parser)
    parser.add_argument("--images", type=flags.integer(1), default=2560, help="images in an epoch")
    add_timing_flags(parser, 7)
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    device = measured_device(args.device)
    print(heading(args.width, device))
    images = random_images(args.images)
    batches = Batches(images, 128, device, torch.Generator().manual_seed(0))
    model = build_model(args.arch, args.width, 10).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4)

    def epoch(objective):
        train_epoch(model, batches, optimizer, device.type == "cuda", step_of(objective))
    rows = [compare(f"an epoch of plain training against one of local gradient ascent, --lga {over}", args.rounds,
                    device, partial(epoch, F.cross_entropy),
                    partial(epoch, partial(local_gradient_ascent, gamma=0.5, over=over)))
            for over in ("batch", "sample")]
    tested = evaluation_batches(images, device)
    return [*rows, compare("predictions against per-sample losses", args.rounds, device, lambda: predict(model, tested),
                           lambda: sample_losses(model, images, device))]


if __name__ == "__main__":
    main()
