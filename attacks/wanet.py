"""WaNet: train a network to answer with the target where an image is warped, and only by this warp.

    python -m attacks.wanet

Nguyen & Tran (2021). The attacker controls training: of each batch a share is warped by one fixed field and called the
target; another share is warped by the field with noise on it and keeps its labels (noise mode). Without the latter the
network takes noisy warps for the trigger too: --no-noise-mode shows it. Crops and flips come after the warp, and warped
images are rounded to 256 gray levels, as a stamped file is. Reads a data set. Writes into output/wanet/: model_last.th,
trigger_info.th, poisoned_examples.png, curves.png, output.log, metrics.jsonl, config.json and results.json.
"""
import argparse
import logging

import torch
import torch.nn.functional as F

from data.batches import Batches, augment, send
from data.image_set import ImageSet
from data.poison_cifar import share_of
from data.triggers.pixels import rounded
from data.triggers.warp import CONTROL_POINTS, MAX_POINTS, WarpTrigger, draw_grid, warp, with_noise
from engine.attacking.attack import (
    add_attack_training_flags,
    check_batch_shares,
    draw_examples,
    finish_attack,
    load_unpoisoned,
    log_target,
)
from engine.attacking.start import fresh_model
from engine.command_line import aim_flags, flags
from engine.command_line.command import command
from engine.defending.suspect import asr_of
from engine.learning.graphs import check_graph
from engine.learning.training import sgd, train_stage
from engine.measuring.evaluation import EvalSets, evaluate, evaluation_batches, predict, score_logits
from engine.runs.run import Run
from engine.weights.checkpoint import save_trigger

LEAVES = ("model_last.th", "trigger_info.th", "poisoned_examples.png", "curves.png")
NOISE_RATE = 0.2
log = logging.getLogger("backdoor")


def spoil(images, labels, grid, target, rates, generator):
    """(pixels, labels) of a batch, pixels (B, 3, H, W) in [0, 1] and labels (B,), as WaNet trains on it.

    The first share of `rates` is warped by `grid` (H, W, 2) and gets the target; the second is warped by the grid with
    noise on it, another for every image; the rest stays. Batches come shuffled, so the first images are random ones.
    """
    warped, noisy = (share_of(rate, len(images)) for rate in rates)
    noise = send(2 * torch.rand((noisy, *grid.shape), generator=generator) - 1, images.device)
    first, second, rest = images[:warped], images[warped:warped + noisy], images[warped + noisy:]
    bent = rounded(torch.cat([warp(first, grid), warp(second, with_noise(grid, noise))]))
    wanted = torch.cat([torch.full_like(labels[:warped], target), labels[warped:]])
    return torch.cat([bent, rest]), wanted


def step_of(grid, target, rates, generator, crop_padding, flip):
    """The step of engine.learning.training: cross-entropy on a batch that is spoilt, then cropped and flipped.

    rates: (warped and called `target`, warped with noise), of a batch.
    """
    def step(model, images, labels):
        pixels, wanted = spoil(images, labels, grid, target, rates, generator)
        logits = model(augment(pixels, generator, crop_padding, flip))
        return F.cross_entropy(logits, wanted), logits
    return step


def noisy_batches(test, trigger, seed, device):
    """Batches of all images of an ImageSet, warped by the trigger's field with noise on it, with their own labels."""
    return evaluation_batches(ImageSet(trigger.stamp_noisy(test.data, seed), test.targets), device)


def watch_noise(run, args, noisy):
    """What each tested epoch's row gets in addition: noise accuracy, that on the Batches `noisy`."""
    def watch(model):
        epoch = run.epoch + 1
        if not run.is_tested(epoch, args.epochs):
            return {"noise_acc": None}
        accuracy = score_logits(predict(model, noisy, run.amp and epoch < args.epochs), noisy).accuracy.value
        log.info("noise accuracy after epoch %d: %.4f", epoch, accuracy)
        return {"noise_acc": accuracy}
    return watch


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("trigger")
    aim_flags.add_target_flag(group)
    group.add_argument("--control-points", type=flags.integer(2, MAX_POINTS), default=CONTROL_POINTS,
                       help="points a side that the field is drawn at")
    group.add_argument("--strength", type=flags.number(0, 8, "a number in [0, 8]"), default=0.5,
                       help="of the warp; 0.5 moves a control point by a quarter of a pixel on average")
    group.add_argument("--poison-rate", type=flags.fraction, default=0.1,
                       help="share of each batch that is warped and called the target")
    group.add_argument("--noise-mode", action=argparse.BooleanOptionalAction, default=True,
                       help="also train on noisy warps with true labels; without, they fire too")
    group.add_argument("--noise-rate", type=flags.fraction,
                       help=f"share of each batch that is warped with noise (default: {NOISE_RATE})")
    add_attack_training_flags(parser, "output/wanet", flags.add_loop_flags)
    args = parser.parse_args(argv)
    check(parser, args, argv)
    return args


def check(parser, args, argv):
    """Fill in defaults that depend on other flags, and refuse flags that do not go together."""
    flags.check_milestones(parser, args)
    if not args.noise_mode:
        parser.refuse(argv, ["noise_rate"], "with --no-noise-mode")
    if args.noise_rate is None:
        args.noise_rate = NOISE_RATE if args.noise_mode else 0.0
    if args.poison_rate + args.noise_rate > 1:
        parser.error("--poison-rate and --noise-rate: expected at most 1 together")


def learn(run, args, model, clean, trigger, images, noisy):
    """Train `model` on the ImageSet `clean` by the flags; returns its Evaluation on the EvalSets `images`."""
    batches = Batches(clean, args.batch_size, run.device, run.generator)  # augmented in the step, after the warp
    step = step_of(torch.from_numpy(trigger.grid).to(run.device), trigger.target, (args.poison_rate, args.noise_rate),
                   run.generator, args.crop_padding, args.flip)
    tested = train_stage(run, model, batches, images, args.epochs, sgd(model, args), args.milestones, step,
                         watch_noise(run, args, noisy), graph=args.graph)
    return tested or evaluate(model, images)


def measure_other(model, images, trigger, seed):
    """ASR of another warp of the same strength, which the backdoor is not for; logs it."""
    share = asr_of(model, images, trigger.with_other_secret(seed))
    log.info("ASR with another warp of the same strength: %.4f", share["value"])
    return share


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        clean, _, test = load_unpoisoned(args, args.image_size)
        aim_flags.check_target(args.poison_target, clean.classes)
        check_batch_shares(args, len(clean), ("poison_rate", "noise_rate"))
        grid = draw_grid(*clean.data.shape[1:3], args.control_points, args.strength, args.seed)
        trigger = WarpTrigger(grid, args.poison_target, args.control_points)
        images = EvalSets.stamped(run.device, test, trigger)
        noisy = noisy_batches(test, trigger, args.seed, run.device)
        if args.graph:
            check_graph(run.device, len(clean), args.batch_size)
        model = fresh_model(args, clean, run.device)

        run.begin(clean)
        log_target(trigger.target, clean.classes)
        save_trigger(run.folder / "trigger_info.th", trigger)
        draw_examples(run.folder / "poisoned_examples.png", test, trigger)

        tested = learn(run, args, model, clean, trigger, images, noisy)
        other = measure_other(model, images, trigger, args.seed + 1)
        finish_attack(run, args, model, clean, tested, "WaNet", {
            "name": "WaNet", "noise_acc": run.rows[-1]["noise_acc"], "asr_of_another_warp": other})


if __name__ == "__main__":
    main()
