"""Speed of Neural Cleanse's search here against its straightforward form, alternating in one run.

    python -m benchmarks.neural_cleanse

Straightforward: one label after the other, gradients of every weight, NCHW, batch norms as they are, and every step of
the budget made whether or not a label is done. The same start and the same images on both sides, so that the norms can
be compared too. By default zoo/badnets on random images. Reads a checkpoint; writes nothing.
"""
import math
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.plain import add_timing_flags, compare, heading, measured_device, random_images
from common.errors import UserError
from data.batches import Batches
from engine.command_line import flags
from engine.command_line.command import command
from engine.weights.checkpoint import load_model
from methods.trigger_search import Search, reverse_triggers

ROOT = Path(__file__).resolve().parent.parent


def plain_search(model, batches, in_a_step, label, budget, threshold, generator):
    """One label's trigger as it is usually searched for; returns the Search."""
    model.eval()
    search = Search.start(label, batches.images.shape[1:3], generator, batches.device)
    optimizer = torch.optim.Adam([search.theta_mask, search.theta_pattern], 0.1, (0.5, 0.9))
    for _ in range(budget):
        before, hits, seen = [part.detach().clone() for part in search.trigger()], 0, 0
        for images, _ in islice(batches, in_a_step):
            mask, pattern = search.trigger()
            labels = torch.full((len(images),), label, device=images.device)
            logits = model(((1 - mask) * images + mask * pattern).contiguous())
            loss = F.cross_entropy(logits, labels) + search.weight.value * mask.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hits, seen = hits + int((logits.argmax(1) == labels).sum()), seen + len(images)
        ends = [before, [part.detach().clone() for part in search.trigger()]]
        search.note(hits / seen, threshold, ends, [float(mask.sum()) for mask, _ in ends])
    return search


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--checkpoint", default=str(ROOT / "zoo/badnets/model_last.th"), help="model to search in")
    parser.add_argument("--labels", type=flags.integer(1), default=10, help="how many, from 0 up")
    parser.add_argument("--budget", type=flags.integer(1), default=150, help="steps for each label")
    parser.add_argument("--batches", type=flags.integer(1), default=2, help="batches in a step")
    parser.add_argument("--batch-size", type=flags.integer(1), default=32, help="images for each label at a time")
    parser.add_argument("--success", type=flags.fraction, default=0.99, help="share that must reach the label")
    add_timing_flags(parser, 1)
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    device = measured_device(args.device)
    ours, plain = (load_model(args.checkpoint, device).model for _ in range(2))
    if args.labels > ours.spec["num_classes"]:
        raise UserError(f"--labels {args.labels}: the model has {ours.spec['num_classes']}")
    plain.to(memory_format=torch.contiguous_format)
    print(heading(ours.spec['width'], device))
    image_set, found = random_images(500), {}

    def batches():
        return Batches(image_set, args.batch_size, device, torch.Generator().manual_seed(1))

    def plainly():
        starts = torch.Generator().manual_seed(0)
        found["plain"] = [plain_search(plain, batches(), args.batches, label, args.budget, args.success, starts)
                          for label in range(args.labels)]

    def here():
        found["here"] = reverse_triggers(ours, batches(), args.batches, range(args.labels), args.budget, args.success,
                                         generator=torch.Generator().manual_seed(0))
    row = compare(f"{args.labels} labels, {args.budget} steps", args.rounds, device, plainly, here)
    for label, (a, b) in enumerate(zip(found["plain"], found["here"], strict=True)):
        print(f"label {label}: norm {a.norm:.2f} plain, {b.norm:.2f} here, {b.steps} steps here")
    pairs = [(a.norm, b.norm) for a, b in zip(found["plain"], found["here"], strict=True) if math.isfinite(a.norm)]
    if pairs:
        print(f"norms differ by at most {max(abs(b / a - 1) for a, b in pairs):.1%}")
    return [row]


if __name__ == "__main__":
    main()
