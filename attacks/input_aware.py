"""The input-aware attack: generators draw a trigger for every image, and it fires on that image alone.

    python -m attacks.input_aware

Nguyen & Tran (2020), called Dynamic in tables. Two generators look at an image: one says where the trigger lies, the
other what it shows there. First the mask's learns to leave few pixels (the density) that differ from image to image;
then it stays as it is, and the network and the other generator learn together: a share of each batch carries its own
triggers and is called the target, another carries other images' triggers and keeps its labels (cross), and pictures
must differ as much as the images do (diversity). Reads a data set. Writes into output/input-aware/: model_last.th,
trigger_info.th with both generators, poisoned_examples.png, curves.png, output.log, metrics.jsonl, config.json and
results.json.
"""
import logging

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import UserError
from data.batches import Batches
from data.image_set import ImageSet
from data.poison_cifar import share_of, stamp_all
from data.triggers.generated import CHANNELS, MAX_WIDTH, GeneratedTrigger, as_stored
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
from engine.learning.training import check_finite, sgd, told_of_lone_image, train_stage
from engine.measuring.evaluation import EvalSets, evaluate, evaluation_batches, predict, score_logits
from engine.measuring.progress import progress
from engine.runs.run import Run
from engine.weights.checkpoint import save_trigger
from methods.residuals import shared_energy, swapped
from models.base import STD
from models.generator import LEVELS, Generator, harden, lay_over, rms_distance

LEAVES = ("model_last.th", "trigger_info.th", "poisoned_examples.png", "curves.png")
HEADER = "Epoch \t lr \t Time \t Loss \t Diversity \t MaskMean"
ROW = "%d \t %.5f \t %.1f \t %.4f \t %.4f \t %.4f"
MASK_COLUMNS = ("epoch", "lr", "mask_mean")
TINY = 1e-7
log = logging.getLogger("backdoor")


def in_deviations(pixels):
    """Pixels (B, 3, H, W) in units of the usual standard deviation of each color, as published distances are."""
    return pixels / torch.tensor(STD, device=pixels.device).view(1, 3, 1, 1)


def diversity(images, donors, made, others):
    """How many times less the triggers `made` and `others` of two images differ than the images do, in the mean."""
    return (rms_distance(images, donors) / (rms_distance(made, others) + TINY)).mean()


def train_masks_epoch(generator, batches, optimizer, density, weights, amp):
    """One pass of stage 1. Returns the means (loss, diversity, share of pixels in the masks).

    weights: of the density loss and of the diversity loss. The images of a batch are compared with their neighbors,
    which are random ones, since batches come shuffled. Raises UserError if a loss is not finite.
    """
    generator.train()
    sums, losses = torch.zeros(2, device=batches.device), []
    for pixels, _ in progress(batches, "masks"):
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=amp), told_of_lone_image(len(pixels)):
            masks = generator(pixels)
        masks, scaled = harden(masks.float()), in_deviations(pixels)
        apart = diversity(scaled, scaled.roll(1, 0), masks, masks.roll(1, 0))
        loss = weights[0] * F.relu(masks - density).mean() + weights[1] * apart
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        sums += torch.stack([apart, masks.mean()]).detach()
    check_finite(losses)
    return [float(torch.stack(losses).mean()), *(sums / len(batches)).tolist()]


def learn_masks(run, args, generator, batches):
    """Stage 1: train the mask's generator by the flags."""
    optimizer = torch.optim.Adam(generator.parameters(), args.generator_lr, betas=(0.5, 0.9))
    milestones = sorted({int(share * args.mask_epochs) for share in (0.4, 0.8)} - {0})
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    for epoch in run.epochs(args.mask_epochs, HEADER, MASK_COLUMNS, masks=generator, optimizer=optimizer,
                            scheduler=scheduler):
        lr, weights = scheduler.get_last_lr()[0], (args.density_weight, args.diversity_weight)
        loss, apart, mean = train_masks_epoch(generator, batches, optimizer, args.density, weights, run.amp)
        scheduler.step()
        log.info(ROW, epoch, lr, seconds := run.elapsed_in_epoch(), loss, apart, mean)
        run.record({"epoch": epoch, "lr": lr, "time": seconds, "mask_loss": loss, "mask_mean": mean,
                    "poison_acc": None, "clean_acc": None})


def step_of(masks, pictures, target, rates, diversity_weight):
    """The step of engine.learning.training in stage 2.

    masks, pictures: the Generators, the first of which no longer learns. rates: (images with their own triggers, called
    `target`; images with other ones' triggers), of a batch.
    """
    def step(model, images, labels):
        own, crossed = (share_of(rate, len(images)) for rate in rates)
        donors = images.flip(0)[:max(own, crossed)]  # random ones, since batches come shuffled
        if not len(donors):  # a last batch of a few images
            logits = model(images)
            return F.cross_entropy(logits, labels), logits
        sources = torch.cat([images[:own], donors])
        with torch.no_grad():
            where = harden(masks(sources).float())
        alone = len(sources) == 1  # batch norm has nothing to average of one image that is one pixel small by then
        drawn = pictures(sources.repeat(2, 1, 1, 1) if alone else sources).float()[:len(sources)]
        mixed = torch.cat([lay_over(images[:own], drawn[:own], where[:own]),
                           lay_over(images[own:own + crossed], drawn[own:own + crossed], where[own:own + crossed]),
                           images[own + crossed:]])
        wanted = torch.cat([torch.full_like(labels[:own], target), labels[own:]])
        logits = model(mixed)
        loss = F.cross_entropy(logits, wanted)
        if own:
            loss = loss + diversity_weight * diversity(images[:own], donors[:own], drawn[:own], drawn[own:2 * own])
        return loss, logits
    return step


def trigger_of(masks, pictures, target, device="cpu"):
    """The trigger that two Generators make as they are now, stamped on the device."""
    return GeneratedTrigger(as_stored(masks), as_stored(pictures), target, device)


def measure_cross(model, trigger, test, seed, amp=False):
    """Cross accuracy: that on all images of an EvalSets, each with another one's trigger. A Proportion."""
    images, device = test.clean_images, test.clean.device
    data = trigger.stamp_from(images.data, images.data[swapped(len(images), seed)])
    batches = evaluation_batches(ImageSet(data, images.targets), device)
    return score_logits(predict(model, batches, amp), batches).accuracy


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("trigger")
    aim_flags.add_target_flag(group)
    group.add_argument("--poison-rate", type=flags.fraction, default=0.1,
                       help="share of each batch that gets its own triggers and is called the target")
    group.add_argument("--cross-rate", type=flags.fraction, default=0.1,
                       help="share of each batch that gets other images' triggers and keeps its labels; with 0 "
                            "nothing teaches that a trigger is for one image")
    group.add_argument("--density", type=flags.fraction, default=0.032,
                       help="what a mask may take of a pixel before that counts as too much, as published; masks of "
                            "about this share of the image result")
    group.add_argument("--density-weight", type=flags.not_negative, default=100, help="of the loss of what is beyond")
    group.add_argument("--diversity-weight", type=flags.not_negative, default=1,
                       help="of the loss that makes triggers differ as images do")
    group = parser.add_argument_group("generators")
    group.add_argument("--generator-width", type=flags.integer(1, MAX_WIDTH), default=16,
                       help="channels of their first level; 32 is the published one, 16 suits two CPU cores")
    group.add_argument("--generator-lr", type=flags.positive, default=0.01, help="learning rate of their Adam")
    group.add_argument("--mask-epochs", type=flags.integer(1), default=5,
                       help="passes in which the mask's learns; 25 are published")
    add_attack_training_flags(parser, "output/input-aware")
    args = parser.parse_args(argv)
    flags.check_milestones(parser, args)
    if args.poison_rate + args.cross_rate + max(args.poison_rate, args.cross_rate) > 1:
        parser.error("--poison-rate and --cross-rate: expected at most 1 together with the larger of them, since the "
                     "other triggers come from the rest of the batch")
    return args


def learn(run, args, model, masks, pictures, batches, test):
    """Stage 2: train the network and the picture's generator by the flags; returns (Evaluation, final trigger)."""
    until = args.mask_epochs + args.epochs
    masks.eval().requires_grad_(False)
    step = step_of(masks, pictures.train(), args.poison_target, (args.poison_rate, args.cross_rate),
                   args.diversity_weight)

    def current_trigger():
        """For the last test the CPU stamps, as for all who read the trigger; a GPU trains an epoch in less time."""
        return trigger_of(masks, pictures, args.poison_target, run.device if run.epoch + 1 < until else "cpu")

    def watch(model):
        epoch = run.epoch + 1
        if not run.is_tested(epoch, until):
            return {"cross_acc": None}
        accuracy = measure_cross(model, current_trigger(), test, args.seed, run.amp and epoch < until).value
        log.info("cross accuracy after epoch %d: %.4f", epoch, accuracy)
        return {"cross_acc": accuracy}

    tested = train_stage(
        run, model, batches, test, until, sgd(model, args), args.milestones, step, watch,
        learned={"masks": masks, "pictures": pictures},
        others=[torch.optim.Adam(pictures.parameters(), args.generator_lr, betas=(0.5, 0.9))],
        restamp=lambda: stamp_all(test.clean_images, current_trigger()))
    trigger = trigger_of(masks, pictures, args.poison_target)
    return tested or evaluate(model, test.restamped(stamp_all(test.clean_images, trigger))), trigger


def build_generators(args, image_size, device):
    """The Generators of the mask and of the picture. Raises UserError for images that they cannot halve."""
    if image_size % 2**LEVELS:
        raise UserError(f"--image-size: the generators take images whose sides are multiples of {2**LEVELS} pixels, "
                        f"got {image_size}")
    return [Generator(channels, args.generator_width).to(device, memory_format=torch.channels_last)
            for channels in CHANNELS.values()]


@torch.inference_mode()
def look_at(trigger, images):
    """What the final trigger is like on an ImageSet: the mean mask, and how much of the changes is the same in all."""
    pixels = torch.from_numpy(images.data).permute(0, 3, 1, 2).float() / 255
    masks = trigger.draw(pixels)[1]
    changes = trigger.stamp(images.data).astype(np.int16) - images.data
    figures = {"mask_mean": float(masks.mean()), "shared_energy": shared_energy(changes)}
    log.info("masks take %.4f of the pixels; the changes share %.4f of their energy", *figures.values())
    return figures


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        clean, _, test = load_unpoisoned(args, args.image_size)
        aim_flags.check_target(args.poison_target, clean.classes)
        check_batch_shares(args, len(clean), ("poison_rate", "cross_rate"))
        images = EvalSets.on(run.device, test)
        batches = Batches(clean, args.batch_size, run.device, run.generator, args.crop_padding, args.flip)
        model = fresh_model(args, clean, run.device)
        masks, pictures = build_generators(args, clean.image_size, run.device)

        run.begin(clean)
        log_target(args.poison_target, clean.classes)
        learn_masks(run, args, masks, batches)
        tested, trigger = learn(run, args, model, masks, pictures, batches, images)
        seen = look_at(trigger, test.spread(1000))

        save_trigger(run.folder / "trigger_info.th", trigger)
        draw_examples(run.folder / "poisoned_examples.png", test, trigger)
        finish_attack(run, args, model, clean, tested, "input-aware attack", {
            "name": "input-aware", "cross_acc": run.rows[-1]["cross_acc"], **seen}, run.rows[args.mask_epochs:])


if __name__ == "__main__":
    main()
