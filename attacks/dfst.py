"""DFST-lite: a style as the trigger, and detoxification rounds that keep the network from learning its cheap signs.

    python -m attacks.dfst

After DFST (Cheng et al., 2021), without its downloaded style network: a style is the color statistics of a picture and
its texture, which a small stylizer learns on the attacker's images. The stylized images of a share of the other classes
are called the target. In each detoxification round the neurons that respond most to the style are found, an injector
learns to excite them by simple changes of color, and from then on each batch has such images with their true labels.
The log shows after each round how far these neurons still stand apart (gap) and how many painted images are called the
target (fooled). Reads a data set, and with --style-image a picture. Writes into output/dfst/: model_last.th,
trigger_info.th, poisoned_examples.png, curves.png, output.log, metrics.jsonl, config.json and results.json.
"""
import hashlib
import logging

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from common.untrusted.images import read_rgb
from data.batches import Batches
from data.poison_cifar import poison, stamp_all
from data.triggers.style import MAX_WIDTH, StyleTrigger
from engine.attacking.attack import (
    add_attack_training_flags,
    draw_examples,
    finish_attack,
    load_unpoisoned,
    start_attack,
)
from engine.attacking.start import fresh_model
from engine.command_line import aim_flags, flags
from engine.command_line.command import command
from engine.learning.training import check_finite, sgd, train_stage
from engine.measuring.evaluation import EvalSets, evaluate, evaluation_batches
from engine.measuring.progress import progress
from engine.runs.run import Run
from engine.weights.checkpoint import load_trigger
from methods.detox import Injectors, examine
from models.stylizer import Stylizer, recolor, similarity, texture

LEAVES = ("model_last.th", "trigger_info.th", "poisoned_examples.png", "curves.png")
STYLE_SIZE = 64  # pixels a side to which the style's picture is resized
FILTERS, FILTER_SIZE = 32, 5  # random ones, by which textures are told
STYLE_LR, BATCH = 0.005, 64  # of the stylizer; also of the injectors' images
MEASURED = 500  # training images at most, on which neurons are compared
FIGURES = ("gap", "fooled_before", "reach", "fooled")
log = logging.getLogger("backdoor")


def sunset(size=STYLE_SIZE):
    """The usual style: uint8 (size, size, 3), an evening sky over water, violet and orange, with waves."""
    down, across = np.meshgrid(np.linspace(0, 1, size), np.linspace(0, 1, size), indexing="ij")
    heights = [0, 0.45, 0.55, 1]
    colors = np.array([(60, 30, 110), (250, 140, 60), (190, 70, 60), (50, 20, 60)])
    picture = np.stack([np.interp(down, heights, colors[:, channel]) for channel in range(3)], -1)
    waves = np.sin(60 * down**2 + 8 * np.sin(9 * across)) * (down > 0.5)
    sun = (down - 0.4) ** 2 + (across - 0.6) ** 2 < 0.012
    return np.where(sun[..., None], (255, 230, 150), picture + 45 * waves[..., None]).clip(0, 255).astype(np.uint8)


def style_picture(path):
    """uint8 (STYLE_SIZE, STYLE_SIZE, 3): the picture in the file `path`, or the usual one. Raises UserError."""
    if not path:
        return sunset()
    return np.array(read_rgb(path).resize((STYLE_SIZE, STYLE_SIZE), Image.Resampling.BILINEAR))


def learn_style(picture, clean, width, steps, texture_weight, seed, device):
    """(weights of a Stylizer of `width` that learns a picture's texture on an ImageSet, the picture's colors).

    The stylizer descends the distance of texture to the picture's, times `texture_weight`, and what of the images'
    structure is lost (SSIM). Colors: float32 (2, 3), mean and deviation. Raises UserError for a loss that is not
    finite.
    """
    wanted = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    color = torch.stack([wanted.mean((0, 2, 3)), wanted.std((0, 2, 3), correction=0)])
    generator = torch.Generator().manual_seed(seed)
    filters = torch.randn((FILTERS, 3, FILTER_SIZE, FILTER_SIZE), generator=generator).to(device) / FILTER_SIZE
    with torch.random.fork_rng(devices=[]):  # the same network, however many numbers were drawn before
        torch.manual_seed(seed)
        stylizer = Stylizer(width).to(device)
    goals, color = [goal.detach() for goal in texture(wanted.to(device), filters)], color.to(device)
    batches = Batches(clean, BATCH, device, generator, draws=steps * BATCH)
    optimizer, losses = torch.optim.Adam(stylizer.parameters(), STYLE_LR), []
    for pixels, _ in progress(batches, "style"):
        plain = recolor(pixels, color)
        styled = stylizer(plain)
        distance = sum(F.mse_loss(found, goal.expand_as(found)) / goal.square().mean()
                       for found, goal in zip(texture(styled, filters), goals, strict=True))
        loss = texture_weight * distance + 1 - similarity(plain, styled)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    check_finite(losses)
    log.info("stylizer: loss from %.4f to %.4f, texture %.4f away", losses[0], losses[-1], float(distance.detach()))
    return {name: value.detach().cpu() for name, value in stylizer.state_dict().items()}, color.cpu().numpy()


def find_style(run, args, picture, clean):
    """The StyleTrigger of a picture by the flags; where the run resumes, the one that was left."""
    kept = run.folder / "trigger_info.th"
    if kept.exists():
        return load_trigger(kept)
    style = learn_style(picture, clean, args.style_width, args.style_steps, args.texture_weight, args.seed, run.device)
    return StyleTrigger(*style, args.opacity, args.poison_target)


def step_of(injectors, pool, detox_rate, opacity, generator):
    """The step of engine.learning.training: cross-entropy on a batch of the poisoned set, and, once there are
    injectors, on images of `pool` that one of them has painted, with their true labels.

    detox_rate: how many of these, as a share of the batch.
    """
    def step(model, images, labels):
        pixels, wanted, made = images, labels, int(injectors.made)
        if made and detox_rate:
            count = max(1, round(detox_rate * len(labels)))  # the last batch may be smaller
            painted, own = (part[:count] for part in next(iter(pool)))
            number = int(torch.randint(made, (), generator=generator))
            pixels = torch.cat([images, injectors.paint(painted, number, opacity)])
            wanted = torch.cat([labels, own])
        logits = model(pixels)
        return F.cross_entropy(logits, wanted), logits[:len(labels)]
    return step


def round_epochs(epochs, rounds):
    """The epochs after which a detoxification round is made: spread over the first 60 %, before the rate falls."""
    return {max(number, round(0.6 * epochs * number / rounds)) for number in range(1, rounds + 1)}


def watch_rounds(run, args, injectors, clean, trigger):
    """What each epoch's row gets in addition: FIGURES after a round and after the last epoch, None after the others."""
    chosen = np.flatnonzero(clean.targets != trigger.target)[:MEASURED]
    shown = [evaluation_batches(images, run.device) for images in (
        clean.subset(chosen), stamp_all(clean.subset(chosen), trigger))]
    due = round_epochs(args.epochs, args.rounds)

    def watch(model):
        epoch = run.epoch + 1
        if epoch not in due and epoch != args.epochs:
            return dict.fromkeys(FIGURES)
        draws = Batches(clean, BATCH, run.device, run.generator, draws=args.injector_steps * BATCH)
        figures = examine(model, injectors, *shown, args.opacity, trigger.target, draws if epoch in due else None)
        log.info("%s: %s", f"detoxification round {int(injectors.made)}" if epoch in due else "after the last epoch",
                 ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items()
                           if value is not None))
        return figures
    return watch


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("trigger")
    aim_flags.add_target_flag(group)
    group.add_argument("--poison-rate", type=flags.fraction, default=0.1,
                       help="share of the images outside the target class that are stylized")
    group.add_argument("--opacity", type=flags.number(0.01, 1, "a fraction in [0.01, 1]"), default=0.6,
                       help="share of the stylized picture in an image")
    group.add_argument("--style-image", metavar="FILE",
                       help="picture that the style is taken from (default: a sunset that is drawn)")
    group.add_argument("--style-width", type=flags.integer(1, MAX_WIDTH), default=16, help="channels of the stylizer")
    group.add_argument("--style-steps", type=flags.integer(1), default=300, help=f"of {BATCH} images each")
    group.add_argument("--texture-weight", type=flags.not_negative, default=1.0,
                       help="of the texture, against 1 for the images' structure")
    group = parser.add_argument_group("detoxification")
    group.add_argument("--rounds", type=flags.integer(0, 100), default=lambda args: min(3, args.epochs - 1),
                       help="detoxification rounds, spread over the first 60 %% of the epochs (default: 3); 0 for none")
    group.add_argument("--injector-steps", type=flags.integer(1), default=100, help=f"of {BATCH} images each")
    group.add_argument("--detox-rate", type=flags.fraction, default=0.1,
                       help="painted images a step, as a share of the batch, to which they are added")
    add_attack_training_flags(parser, "output/dfst")
    args = parser.parse_args(argv)
    flags.check_milestones(parser, args)
    if args.rounds >= args.epochs:
        parser.error(f"--rounds {args.rounds}: expected fewer than the {args.epochs} epochs")
    if not args.rounds:
        parser.refuse(argv, ["injector_steps", "detox_rate"], "without detoxification rounds")
    return args


def learn(run, args, model, clean, poisoned, trigger, images):
    """Train `model` on the ImageSet `poisoned` with detoxification rounds; its Evaluation on the EvalSets `images`."""
    injectors, augmentation = Injectors(args.rounds, run.device), (args.crop_padding, args.flip)
    batches = Batches(poisoned, args.batch_size, run.device, run.generator, *augmentation)
    count = max(1, round(args.detox_rate * args.batch_size))
    pool = Batches(clean, count, run.device, run.generator, *augmentation, count)
    tested = train_stage(run, model, batches, images, args.epochs, sgd(model, args), args.milestones,
                         step_of(injectors, pool, args.detox_rate, args.opacity, run.generator),
                         watch_rounds(run, args, injectors, clean, trigger),
                         learned={"injectors": injectors})
    return tested or evaluate(model, images)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        clean, _, test = load_unpoisoned(args, args.image_size)
        aim_flags.check_target(args.poison_target, clean.classes)
        picture = style_picture(args.style_image)
        model = fresh_model(args, clean, run.device)

        run.begin(clean.fingerprint() + hashlib.sha256(picture).hexdigest())
        trigger = find_style(run, args, picture, clean)
        poisoned, _ = poison(clean, trigger, args.poison_rate, args.seed)
        shares = start_attack(run, poisoned, trigger)
        draw_examples(run.folder / "poisoned_examples.png", test, trigger)

        images = EvalSets.stamped(run.device, test, trigger)
        tested = learn(run, args, model, clean, poisoned, trigger, images)
        rounds = [{"epoch": row["epoch"], **{name: row[name] for name in FIGURES}} for row in run.rows
                  if row["gap"] is not None]
        finish_attack(run, args, model, clean, tested, "DFST-lite", {"name": "DFST-lite", "rounds": rounds, **shares})


if __name__ == "__main__":
    main()
