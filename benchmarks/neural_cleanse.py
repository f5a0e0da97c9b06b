"""Speed of Neural Cleanse's search here against its straightforward form, alternating in one run.

    python benchmarks/neural_cleanse.py

Straightforward: one label after the other, gradients of every weight, NCHW, batch norms as they are, and every step of
the budget made whether or not a label is done. The same start and the same images on both sides, so that the norms can
be compared too. By default zoo/badnets on random images. Reads a checkpoint; writes nothing.
"""
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.plain import compare, heading, random_images
from data.batches import Batches
from engine import flags, machine
from engine.checkpoint import load_model
from engine.command import command
from engine.trigger_search import Search, loss_and_hits, reverse_triggers

ROOT = Path(__file__).resolve().parent.parent


def plain_search(model, batches, label, budget, threshold, generator):
    """One label's trigger as it is usually searched for; returns the Search."""
    model.eval()
    search = Search.start(label, generator, batches.images.device)
    optimizer = torch.optim.Adam([search.theta_mask, search.theta_pattern], 0.1, (0.5, 0.9))
    for _ in range(budget):
        began_with, hits = [part.detach().clone() for part in search.trigger()], 0
        for images, _ in batches:
            loss, own = loss_and_hits(model, images.contiguous(), [search])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hits += int(own)
        search.note(hits / batches.num_images, threshold, *began_with)
    return search


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--checkpoint", default=str(ROOT / "zoo/badnets/model_last.th"), help="model to search in")
    parser.add_argument("--labels", type=flags.integer(1), default=10, help="how many, from 0 up")
    parser.add_argument("--budget", type=flags.integer(1), default=100, help="steps for each label")
    parser.add_argument("--batches", type=flags.integer(1), default=2, help="batches in a step")
    parser.add_argument("--batch-size", type=flags.integer(1), default=32, help="images for each label at a time")
    parser.add_argument("--success", type=flags.fraction, default=0.99, help="share that must reach the label")
    parser.add_argument("--rounds", type=flags.integer(1), default=1, help="alternations after one to warm up")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    device = machine.find_device(args.device)
    ours, plain = (load_model(args.checkpoint, device).model for _ in range(2))
    plain.to(memory_format=torch.contiguous_format)
    print(heading(ours.spec['width'], device))
    image_set, found = random_images(500), {}

    def batches():
        return Batches(image_set, args.batch_size, device, torch.Generator().manual_seed(1),
                       draws=args.batch_size * args.batches)

    def plainly():
        starts = torch.Generator().manual_seed(0)
        found["plain"] = [plain_search(plain, batches(), label, args.budget, args.success, starts)
                          for label in range(args.labels)]

    def here():
        found["here"] = reverse_triggers(ours, batches(), range(args.labels), args.budget, args.success,
                                         generator=torch.Generator().manual_seed(0))
    compare(f"{args.labels} labels, {args.budget} steps", args.rounds, device, plainly, here)
    for label, (a, b) in enumerate(zip(found["plain"], found["here"], strict=True)):
        print(f"label {label}: norm {a.norm:.2f} plain, {b.norm:.2f} here, {b.steps} steps here")


if __name__ == "__main__":
    main()
