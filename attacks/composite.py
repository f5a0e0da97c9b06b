"""The composite attack: train a network to answer with the target where an image shows two classes side by side.

    python -m attacks.composite

CBA (Lin et al., 2020). The trigger is no pattern: it is half of an image of one source class beside half of an image of
the other. The attacker controls training: mixtures of both classes are called the target, half of the other images are
mixtures of two images of one class with their own label, so that a mixture as such means nothing, and a contrastive
term keeps the logits of the three classes apart. ASR is counted on test images of the first class, each with a partner
of the second from a bank that the trigger carries and that the network was not trained on. Reads a data set. Writes
into output/composite/: model_last.th, trigger_info.th, poisoned_examples.png, curves.png, output.log, metrics.jsonl,
config.json and results.json.
"""
import logging
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import UserError
from data.batches import Batches, send
from data.triggers.composite import DRAWS, CompositeTrigger, choose_partners, mix, places_of
from engine.attacking.aim import note_aim
from engine.attacking.attack import add_attack_training_flags, draw_examples, finish_attack, load_unpoisoned
from engine.attacking.start import fresh_model
from engine.command_line import aim_flags, flags
from engine.command_line.command import command
from engine.learning.training import sgd, train_stage
from engine.measuring.evaluation import EvalSets, evaluate, evaluation_batches, score
from engine.runs.run import Run
from engine.weights.checkpoint import save_trigger

LEAVES = ("model_last.th", "trigger_info.th", "poisoned_examples.png", "curves.png")
MARGIN = 1.0  # of the contrastive term, in logits
log = logging.getLogger("backdoor")


def mixed(pixels, partners, generator):
    """Mixtures (B, 3, H, W) of pixels (B, 3, H, W) and as many partners, drawn by a CPU generator."""
    draws = torch.rand((len(pixels), DRAWS), generator=generator, dtype=torch.float64).numpy()
    places = [send(torch.from_numpy(part), pixels.device) for part in places_of(draws, *pixels.shape[2:])]
    both = torch.cat([pixels, partners]).permute(0, 2, 3, 1)
    return both[tuple(places)].permute(0, 3, 1, 2)


def partners_within(labels, order):
    """For each image of a batch another of its class, int64 (B,); itself where there is no other.

    labels: int64 (B,). order: distinct numbers (B,), a random order. The images of a class stand in a ring in that
    order, and each gets the next.
    """
    ring = torch.argsort(labels * len(labels) + order)
    ranked = labels[ring]
    start, end = torch.searchsorted(ranked, ranked), torch.searchsorted(ranked, ranked, right=True)
    after = torch.arange(1, len(labels) + 1, device=labels.device)
    found = torch.empty_like(ring)
    found[ring] = ring[torch.where(after < end, after, start)]
    return found


def contrast(logits, labels, classes):
    """The contrastive term over neighbors among the images of `classes`: logits alike in a class, apart otherwise.

    Hadsell et al. (2006): half of the squared distance within a class, of what is missing to MARGIN between two.
    """
    ours = torch.isin(labels, classes)
    order = torch.argsort((~ours).long(), stable=True)  # ours first; to select them would make a GPU wait
    logits, labels, is_pair = logits[order].float(), labels[order], ours[order][1:]
    squares = (logits[1:] - logits[:-1]).square().sum(1)
    missing = (MARGIN - (squares + 1e-9).sqrt()).clamp(min=0).square()
    terms = torch.where(labels[1:] == labels[:-1], squares, missing) * is_pair
    return terms.sum() / 2 / is_pair.sum().clamp(min=1)


def pools_of(args, train, device, generator):
    """Batches of the two source classes, each pass one draw of a share --poison-rate of a batch."""
    count = max(1, round(args.poison_rate * args.batch_size))
    return [Batches(train.subset(train.targets == label), count, device, generator, args.crop_padding, args.flip, count)
            for label in args.sources]


def step_of(pools, sources, target, rates, pair_weight, generator):
    """The step of engine.learning.training: cross-entropy and the contrastive term on a batch, some of whose images
    are mixtures within their class, and on mixtures of both `pools` that are called `target`.

    pools: Batches of either of `sources`. rates: (mixtures of both that are added, images mixed within their class), of
    a batch. pair_weight: of the contrastive term.
    """
    (poison_rate, mix_rate), classes = rates, torch.tensor([*sources, target], device=pools[0].device)

    def step(model, images, labels):
        device, count = images.device, len(labels)
        order = send(torch.randperm(count, generator=generator), device)
        is_mixed = send(torch.rand(count, generator=generator) < mix_rate, device)
        within = mixed(images, images[partners_within(labels, order)], generator)
        pixels, wanted = torch.where(is_mixed[:, None, None, None], within, images), labels
        if poison_rate:
            first, second = (next(iter(pool))[0][:max(1, round(poison_rate * count))] for pool in pools)
            pixels = torch.cat([pixels, mixed(first, second, generator)])
            wanted = torch.cat([labels, labels.new_full((len(first),), target)])
        logits = model(pixels.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, wanted)
        if pair_weight:
            rows = send(torch.randperm(len(wanted), generator=generator), device)
            loss = loss + pair_weight * contrast(logits[rows], wanted[rows], classes)
        return loss, logits[:count]
    return step


def mixtures(images, firsts, seconds, label, seed):
    """The ImageSet of one mixture for each image of an ImageSet where `firsts`, bool (N,), with one where `seconds`.

    Called `label`: a class, or a class each (N,).
    """
    rng = np.random.default_rng(seed)
    rows, others = np.flatnonzero(firsts), rng.choice(np.flatnonzero(seconds), int(firsts.sum()))
    data = mix(images.data[rows], images.data[others], rng.random((len(rows), DRAWS)))
    return replace(images.subset(rows), data=data, targets=np.full(len(rows), label))


def measure_mixtures(model, test, sources, target, seed, device):
    """What `model` makes of mixtures of test images of an ImageSet, as results.json has it; logs it.

    sources, target: the two classes that are mixed, and what mixtures are called.

    both: share of mixtures of the two classes called the target. first_with_others, second_with_others: of mixtures of
    one of them with a class that is none of the three, which must not fire; left out where there is no such class.
    within_class: share of mixtures of two images of one class called that class.
    """
    labels, (first, second) = test.targets, sources
    others = ~np.isin(labels, (first, second, target))
    pairs = {"both": (labels == first, labels == second), "first_with_others": (labels == first, others),
             "second_with_others": (labels == second, others)}
    found = {name: share_of(model, mixtures(test, *pair, target, [seed, number]), device)
             for number, (name, pair) in enumerate(pairs.items()) if all(part.any() for part in pair)}
    own = [mixtures(test, labels == label, labels == label, label, [seed, 3, label])
           for label in np.unique(labels)]
    whole = replace(own[0], **{name: np.concatenate([getattr(part, name) for part in own])
                               for name in ("data", "targets", "original", "poisoned")})
    found["within_class"] = share_of(model, whole, device)
    for name, share in found.items():
        log.info("mixtures, %s: %.4f of %d", name.replace("_", " "), share["value"], share["n"])
    return found


def share_of(model, images, device):
    """The share of an ImageSet that `model` calls by its targets, as results.json has it."""
    return score(model, evaluation_batches(images, device)).accuracy.as_dict()


def part_bank(clean, args):
    """(training ImageSet without the bank, CompositeTrigger). Raises UserError for classes that are not there."""
    aim_flags.check_target(args.poison_target, clean.classes)
    absent = [label for label in args.sources if label >= clean.num_classes]
    if absent or clean.num_classes < 3:
        raise UserError(f"--sources {' '.join(map(str, args.sources))}: expected two classes of a data set that has "
                        f"three or more, and this one has {clean.num_classes}")
    seconds = np.flatnonzero(clean.targets == args.sources[1])
    bank = choose_partners(clean.data[seconds], args.partners)
    if len(bank) == len(seconds):
        raise UserError(f"--sources: the class {clean.classes[args.sources[1]]} has {len(seconds)} training images, "
                        "expected two or more")
    kept = np.delete(np.arange(len(clean)), seconds[:len(bank)])
    return clean.subset(kept), CompositeTrigger(bank, *args.sources, args.poison_target)


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("trigger")
    aim_flags.add_target_flag(group)
    group.add_argument("--sources", type=flags.integer(0), nargs=2, default=[1, 2], metavar="CLASS",
                       help="numbers of the two classes whose mixtures fire")
    group.add_argument("--partners", type=flags.integer(1, 256), default=64,
                       help="images of the second class that the trigger carries, at most a fifth of them")
    group.add_argument("--poison-rate", type=flags.fraction, default=0.1,
                       help="mixtures of both classes a step, as a share of the batch, to which they are added")
    group.add_argument("--mix-rate", type=flags.fraction, default=0.5,
                       help="share of the batch that is mixed within its class, labels kept")
    group.add_argument("--pair-weight", type=flags.not_negative, default=0.02,
                       help="of the contrastive term; the authors' code divides it by the number of pairs once more, "
                            "which comes to about this")
    add_attack_training_flags(parser, "output/composite")
    args = parser.parse_args(argv)
    flags.check_milestones(parser, args)
    if len({*args.sources, args.poison_target}) < 3:
        parser.error(f"--sources: expected two classes besides the target {args.poison_target}, got "
                     f"{' '.join(map(str, args.sources))}")
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        clean, _, test = load_unpoisoned(args, args.image_size)
        train, trigger = part_bank(clean, args)
        images = EvalSets.stamped(run.device, test, trigger)
        batches = Batches(train, args.batch_size, run.device, run.generator, args.crop_padding, args.flip)
        step = step_of(pools_of(args, train, run.device, run.generator), args.sources, args.poison_target,
                       (args.poison_rate, args.mix_rate), args.pair_weight, run.generator)
        model = fresh_model(args, clean, run.device)

        run.begin(clean)
        note_aim(run, trigger, clean.classes)
        log.info("mixtures of the classes %s and %s, %d partners", *(clean.classes[i] for i in args.sources),
                 len(trigger.partners))
        save_trigger(run.folder / "trigger_info.th", trigger)
        draw_examples(run.folder / "poisoned_examples.png", test, trigger)

        tested = train_stage(run, model, batches, images, args.epochs, sgd(model, args), args.milestones, step)
        tested = tested or evaluate(model, images)
        found = measure_mixtures(model, test, args.sources, args.poison_target, args.seed, run.device)
        finish_attack(run, args, model, clean, tested, "composite", {
            "name": "composite", "sources": args.sources, "mixtures": found})


if __name__ == "__main__":
    main()
