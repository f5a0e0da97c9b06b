"""Move images of the target class onto the features of triggered images: a training set without trigger or wrong label.

    python -m attacks.feature_collision

Feature collision (Shafahi et al., 2018) in the hidden-trigger reading (Saha et al., 2020): on a benign model, images of
the target class are moved, each pixel by at most --epsilon, until the last layer reads from them what it reads from
triggered images of other classes. Labels stay, and the trigger itself is in no training image. With --target-image it
is the first paper's own attack, on a single test image. Reads a data set and a benign model
(output/benign/model_last.th, from train_backdoor.py --poison-type benign). Writes into data/feature-collision/<rate>/:
data.npy, label.npy, backdoor_list.npy, trigger.npz and manifest.json, which train_backdoor.py
--poison-type feature-collision reads, and output.log, config.json, results.json and collision_examples.png.
"""
import logging
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from data.batches import to_pixels
from data.image_folder import read_image
from data.triggers import build_trigger
from data.triggers.one_image import OneImageTrigger
from engine.attacking.attack import load_unpoisoned, log_target
from engine.attacking.crafting import SET, choose_images, leave_set, log_shares
from engine.command_line import aim_flags, flags, poison_flags
from engine.command_line.command import command
from engine.command_line.normalization import add_input_flags
from engine.defending.suspect import load_given
from engine.drawing.grids import enlarge, image_grid
from engine.measuring.evaluation import frozen
from engine.measuring.progress import progress
from engine.measuring.surrogate import check_surrogate
from engine.runs.run import Run
from engine.weights.checkpoint import saved_image_size
from models.penultimate import penultimate

LEAVES = (*SET, "collision_examples.png")
GROW, SHRINK = 1.2, 0.5  # of an image's step after a step that lowered its objective, and after one that did not
CHECKED = 1000  # training images that the benign model is tried on
log = logging.getLogger("backdoor")


def usual_beta(bases):
    """The weight of likeness in the paper, for images (B, 3, H, W): 0.25 (2048 / number of values)^2."""
    return 0.25 * (2048 / bases[0].numel()) ** 2


def collide(features, bases, goals, epsilon, beta, iterations):
    """Images float (B, 3, H, W) in [0, 1] near `bases` whose features are near `goals`, by forward-backward splitting.

    Minimizes |features(p) - goal|^2 / 2 + beta |p - base|^2 / 2 for each image on its own, over p in [0, 1] within
    epsilon of its base. features: (B, 3, H, W) -> (B, D). bases: in [0, 1]. goals: (B, D). The forward step descends
    the first term; the backward step solves the second, which is (p + step beta base) / (1 + step beta), clipped. Each
    image has its own step: one that does not lower its objective is undone and halved, so that the scale of the
    features need not be known.
    """
    def look(images):
        images = images.detach().requires_grad_()
        distances = (features(images) - goals).square().sum(1) / 2
        gradient, = torch.autograd.grad(distances.sum(), images)
        values = distances.detach() + beta / 2 * (images.detach() - bases).square().flatten(1).sum(1)
        return values, gradient
    low, high = (bases - epsilon).clamp(min=0), (bases + epsilon).clamp(max=1)
    images, (values, gradient) = bases, look(bases)
    steps = epsilon / gradient.flatten(1).abs().amax(1).clamp(min=1e-12)
    for _ in range(iterations):
        size = per_image(steps)
        backward = (images - size * gradient + size * beta * bases) / (1 + size * beta)
        proposed = torch.minimum(torch.maximum(backward, low), high)
        found, slope = look(proposed)
        lower = found < values
        images, gradient = (torch.where(per_image(lower), new, old) for new, old in (
            (proposed, images), (slope, gradient)))
        values = torch.where(lower, found, values)
        steps = steps * torch.where(lower, GROW, SHRINK)
    return images.detach()


def per_image(values):
    """(B,) as (B, 1, 1, 1)."""
    return values[:, None, None, None]


def pair(own, others):
    """Which of `others` (B, D) each of `own` (B, D) is moved to: int64 (B,), so that the distances are least in all."""
    from scipy.optimize import linear_sum_assignment
    return linear_sum_assignment(torch.cdist(own.float(), others.float()).cpu().numpy())[1]


def craft(model, bases, goals, batch_size, epsilon, beta, iterations):
    """(uint8 (n, H, W, 3) near `bases`, figures): each moved onto the features of one of `goals`, uint8 (n, H, W, 3).

    Bases and goals are paired within a batch. Rounded to gray levels within epsilon. figures: mean distance to the goal
    in feature space before and after, and the share that the model still calls what it calls the base.
    """
    levels = int(255 * epsilon + 1e-6)
    result, before, after, same = [], [], [], []

    def read(images):
        return penultimate(model, images)
    for start in progress(range(0, len(bases), batch_size), "collide"):
        batch = slice(start, start + batch_size)
        own, others = (to_device(images[batch], model) for images in (bases, goals))
        with torch.no_grad():
            (own_features, own_logits), (wanted, _) = read(own), read(others)
        wanted = wanted[torch.from_numpy(pair(own_features, wanted)).to(wanted.device)]
        moved = collide(lambda images: read(images)[0], own, wanted, levels / 255, usual_beta(own) if beta is None
                        else beta, iterations)
        result.append((255 * moved).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        with torch.no_grad():
            features, logits = read(to_device(result[-1], model))
        before.append((own_features - wanted).norm(dim=1))
        after.append((features - wanted).norm(dim=1))
        same.append(logits.argmax(1) == own_logits.argmax(1))
    figures = {"distance_before": before, "distance_after": after, "called_as_before": same}
    return np.concatenate(result), {name: float(torch.cat(parts).float().mean()) for name, parts in figures.items()}


def to_device(images, model):
    """uint8 (n, H, W, 3) as pixels (n, 3, H, W) where the model is."""
    return to_pixels(torch.from_numpy(images).to(next(model.parameters()).device))


def draw_sources(train, trigger, count, seed):
    """uint8 (count, H, W, 3): triggered images that the trigger is meant for, drawn by `seed`; repeated if too few."""
    victims = np.flatnonzero(trigger.victims(train.targets))
    if not len(victims):
        raise UserError(f"{train.name}: expected images outside the target class, got none")
    order = np.random.default_rng([seed, 1]).permutation(victims)
    return trigger.stamp(train.data[np.resize(order, count)])


def find_target_image(text, test, model):
    """(picture uint8 (H, W, 3), its label) that --target-image names: a test image by its index, or a file.

    The label of a file is what the model calls it. Raises UserError for neither, and for another size.
    """
    if text.isascii() and text.isdigit():
        if int(text) >= len(test):
            raise UserError(f"--target-image: expected a test image of 0 to {len(test) - 1}, got {text}")
        return test.data[int(text)], int(test.targets[int(text)])
    if not Path(text).exists():
        raise UserError(f"--target-image {text}: expected the number of a test image, or a picture's file")
    picture = read_image(text, test.image_size)[0].copy()  # writable, as PyTorch wants it
    with frozen(model), torch.no_grad():
        return picture, int(model(to_device(picture[None], model)).argmax())


def find_aim(args, train, test, model, count):
    """(Trigger, uint8 (count, H, W, 3) whose features are the goals): triggered images, or the one target image."""
    if args.target_image is None:
        trigger = build_trigger("feature-collision", args.poison_target, args.trigger_alpha, args.trigger_image,
                                train.data.shape[1:3])
        return trigger, draw_sources(train, trigger, count, args.seed)
    picture, label = find_target_image(args.target_image, test, model)
    if label == args.poison_target:
        raise UserError(f"--target-image {args.target_image}: is of the target class {label} already; name another")
    return OneImageTrigger(picture, label, args.poison_target), np.repeat(picture[None], count, axis=0)


def with_watermark(bases, goals, opacity):
    """uint8 (n, H, W, 3): the goals laid over the bases."""
    return np.rint(bases + opacity * (goals.astype(np.float32) - bases)).astype(np.uint8)


def report(figures):
    log.info("distance to the goals among the features: %(distance_before).4f before, %(distance_after).4f after",
             figures)
    log.info("the benign model calls %(called_as_before).4f of the images what it called them before; a pixel changed "
             "by at most %(largest_change)d gray levels, %(mean_change).2f on average", figures)


def example_rows(bases, crafted, goals):
    """[(label, images)] of the picture of examples."""
    change = crafted[:8].astype(np.int16) - bases[:8]
    return [("original", bases[:8]), ("change, enlarged", enlarge(change)), ("result", crafted[:8]),
            ("a goal", goals[:8])]


def output_dir(args):
    """data/feature-collision/<rate>, <rate>-one-image with --target-image"""
    return f"data/feature-collision/{args.poison_rate:g}" + ("-one-image" if args.target_image else "")


def usual_rate(args):
    """All of the target class, a tenth of CIFAR-10; for one target image a hundredth of the class."""
    return 0.01 if args.target_image else 1.0


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    group = poison_flags.add_trigger_flags(parser)
    group.add_argument("--poison-rate", type=flags.fraction, default=lambda args: usual_rate(args),
                       help="share of the target class to craft (default: 1, with --target-image 0.01)")
    group.add_argument("--target-image", metavar="INDEX|FILE",
                       help="one test image, by its index, or a picture's file, that is to be called the target: there "
                            "is no trigger then")
    group = parser.add_argument_group("collision")
    group.add_argument("--checkpoint", default="output/benign/model_last.th", help="benign model whose features count")
    add_input_flags(group)
    group.add_argument("--epsilon", type=flags.ratio, default="16/255", help="largest change of a pixel in [0, 1]")
    group.add_argument("--beta", type=flags.not_negative,
                       help="weight of likeness to the original (default: the paper's, 0.11 for 32x32 pixels)")
    group.add_argument("--iterations", type=flags.integer(0), default=120, help="forward-backward steps")
    group.add_argument("--watermark", type=flags.number(0, 0.99, "an opacity from 0 to 0.99"), default=0.0,
                       help="with --target-image: opacity with which it is laid over each original first (the paper: "
                            "0.3 for a victim trained from scratch)")
    group.add_argument("--batch-size", type=flags.integer(1), default=250, help="images crafted at a time")
    flags.add_data_flags(parser)
    flags.add_run_flags(parser, output_dir)
    args = parser.parse_args(argv)
    if args.target_image is None:
        parser.refuse(argv, ["watermark"], "without --target-image")
    else:
        parser.refuse(argv, ["trigger_alpha", "trigger_image"], "with --target-image, an attack without a trigger")
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        train, _, test = load_unpoisoned(args, args.image_size or saved_image_size(args.checkpoint))
        aim_flags.check_target(args.poison_target, train.classes)
        chosen = choose_images(train, args.poison_target, args.poison_rate, args.seed)
        model = load_given(args, run.device, classes=train.classes).model
        trigger, goals = find_aim(args, train, test, model, len(chosen))

        run.begin()
        log_target(args.poison_target, train.classes)
        shares = log_shares(train, chosen, args.poison_target)
        check_surrogate(args.checkpoint, model, train.subset(slice(CHECKED)), run.device)
        bases = with_watermark(train.data[chosen], goals, args.watermark)
        with frozen(model):
            crafted, figures = craft(model, bases, goals, args.batch_size, args.epsilon, args.beta, args.iterations)
        change = np.abs(crafted.astype(np.int16) - train.data[chosen])
        figures |= {"largest_change": int(change.max()), "mean_change": float(change.mean())}
        report(figures)

        leave_set(run, args, "feature-collision", train, chosen, crafted, trigger, target_image=args.target_image)
        image_grid(run.folder / "collision_examples.png", example_rows(train.data[chosen], crafted, goals),
                   [train.classes[args.poison_target]] * min(8, len(chosen)))
        run.finish(parent=args.checkpoint, model=model, data=train, method={**shares, **figures})


if __name__ == "__main__":
    main()
