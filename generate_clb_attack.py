"""Perturb and stamp part of the target class, labels untouched: the clean-label training set (Turner et al., 2019).

    python generate_clb_attack.py

Reads a data set and a surrogate model (output/benign/model_last.th, from train_backdoor.py --poison-type benign).
Writes into data/clean-label/<rate>/: data.npy, label.npy, backdoor_list.npy, trigger.npz and manifest.json, which
train_backdoor.py --poison-type clean-label reads, and output.log, config.json, results.json and
clean_label_examples.png.
"""
import engine.command_line.quick_help  # noqa: F401 -- before all others, so that --help waits for no PyTorch

import argparse
import logging

import numpy as np
import torch
import torch.nn.functional as F

from data.batches import Batches, to_pixels
from data.image_set import ImageSet
from data.triggers import build_trigger
from engine.attacking.attack import load_unpoisoned, log_target
from engine.attacking.crafting import SET, choose_images, leave_set, log_shares
from engine.command_line import aim_flags, flags, poison_flags
from engine.command_line.command import command
from engine.command_line.normalization import add_input_flags
from engine.defending.suspect import load_given
from engine.drawing.grids import enlarge, image_grid
from engine.measuring.evaluation import frozen, score
from engine.measuring.progress import progress
from engine.measuring.surrogate import check_surrogate
from engine.runs.run import Run
from engine.weights.checkpoint import saved_image_size

LEAVES = (*SET, "clean_label_examples.png")
PGD = ("epsilon", "step", "iterations", "restarts", "freeze_fooled")  # the flags of the perturbation
LOOK_EVERY = 10  # iterations of PGD, after which a GPU is asked whether anything still moves
log = logging.getLogger("backdoor")


def attack_pgd(model, X, y, epsilon, alpha, max_attack_iters, restarts, freeze_fooled=True, generator=None):
    """Projected gradient ascent on the loss of the true labels (Madry et al., 2018), on a whole batch.

    X: float (B, C, H, W) in [0, 1]. y: int64 (B,). epsilon, alpha: largest perturbation (L-infinity) and step, both
    in pixel units of [0, 1]. Runs restarts + 1 times from uniform random starts (from a CPU `generator`); each sample
    keeps the delta of its own largest final loss. Returns delta, float (B, C, H, W), X + delta in [0, 1].

    `freeze_fooled` leaves a sample as it is from the step on at which it is misclassified, as the homework asks;
    without it every sample is pushed through all iterations, which makes it harder.
    """
    max_loss = torch.zeros(len(X), device=X.device)
    max_delta = torch.zeros_like(X)
    with frozen(model):
        for _ in range(restarts + 1):
            delta = torch.empty(X.shape).uniform_(-epsilon, epsilon, generator=generator).to(X)
            delta = (X + delta).clamp(0, 1) - X
            ascend(model, X, y, delta, epsilon, alpha, max_attack_iters, freeze_fooled)
            with torch.inference_mode():
                loss = F.cross_entropy(model(X + delta), y, reduction="none")
            better = loss >= max_loss  # not >: a sample whose loss is 0 must still lose its all-zero delta
            max_delta = where_rows(better, delta, max_delta)
            max_loss = torch.where(better, loss, max_loss)
    return max_delta


def where_rows(mask, ours, others):
    """The samples of `ours` (B, C, H, W) where mask (B,) is true, those of `others` elsewhere."""
    return torch.where(mask[:, None, None, None], ours, others)


def ascend(model, X, y, delta, epsilon, alpha, iterations, freeze_fooled):
    """Move `delta` (changed in place) along the sign of the gradient, with `freeze_fooled` up to each one's success."""
    if freeze_fooled and not X.is_cuda:
        ascend_moving(model, X, y, delta, epsilon, alpha, iterations)
    else:
        ascend_all(model, X, y, delta, epsilon, alpha, iterations, freeze_fooled)


def ascend_moving(model, X, y, delta, epsilon, alpha, iterations):
    """`ascend` on a CPU: only the samples that still move are computed."""
    moving = torch.arange(len(X))
    for _ in range(iterations):
        stepped, is_right = step_up(model, X[moving], y[moving], delta[moving], epsilon, alpha)
        moving = moving[is_right]
        if not len(moving):
            return
        delta[moving] = stepped[is_right]


def ascend_all(model, X, y, delta, epsilon, alpha, iterations, freeze_fooled):
    """`ascend` on a GPU: all samples are computed, since to ask which of them still move is to wait for it."""
    moving = torch.ones_like(y, dtype=torch.bool)
    for i in range(iterations):
        stepped, is_right = step_up(model, X, y, delta, epsilon, alpha)
        if freeze_fooled:
            moving &= is_right
            if i % LOOK_EVERY == LOOK_EVERY - 1 and not moving.any():
                return
        delta.copy_(where_rows(moving, stepped, delta))


def step_up(model, X, y, delta, epsilon, alpha):
    """(delta after one more step, (B,) which samples the model got right before it)."""
    delta = delta.detach().requires_grad_()
    logits = model(X + delta)
    gradient, = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), delta)
    stepped = (delta.detach() + alpha * gradient.sign()).clamp(-epsilon, epsilon)
    return (X + stepped).clamp(0, 1) - X, logits.argmax(1) == y


def perturb(model, images, labels, batch_size, **pgd):
    """uint8 (n, 32, 32, 3): `images` after attack_pgd, rounded to the nearest gray level."""
    device, result = next(model.parameters()).device, []
    for start in progress(range(0, len(images), batch_size), "perturb"):
        batch = slice(start, start + batch_size)
        pixels = to_pixels(torch.from_numpy(images[batch]).to(device))
        delta = attack_pgd(model, pixels, torch.from_numpy(labels[batch]).to(device), **pgd)
        result.append((255 * (pixels + delta)).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(result)


def measure(surrogate, clean, perturbed, stamped, labels, batch_size):
    """How many images (uint8 (n, 32, 32, 3)) the surrogate still gets right, and how far they were changed."""
    def right(images):
        batches = Batches(ImageSet(images, labels), batch_size, next(surrogate.parameters()).device)
        return score(surrogate, batches).accuracy.hits

    change = np.abs(perturbed.astype(np.int16) - clean)
    return {"surrogate_right_clean": right(clean), "surrogate_right_perturbed": right(perturbed),
            "surrogate_right_stamped": right(stamped), "largest_change": int(change.max()),
            "mean_change": float(change.mean())}


def report(figures):
    """What `measure` found, as lines of the log."""
    log.info("surrogate right on %(surrogate_right_clean)d of them before, %(surrogate_right_perturbed)d once "
             "perturbed, %(surrogate_right_stamped)d once stamped too", figures)
    log.info("change of a pixel before stamping: at most %(largest_change)d gray levels, %(mean_change).2f on "
             "average", figures)


def example_rows(clean, perturbed, stamped):
    """[(label, images)] of the picture of examples."""
    change = perturbed[:8].astype(np.int16) - clean[:8]
    return [("original", clean[:8]), ("perturbation", enlarge(change)), ("result", stamped[:8])]


def output_dir(args):
    """data/clean-label/<rate>, <rate>-no-pgd for the control"""
    return f"data/clean-label/{args.poison_rate:g}" + ("-no-pgd" if args.no_pgd else "")


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    group = poison_flags.add_trigger_flags(parser)
    group.add_argument("--poison-rate", type=flags.fraction, default=0.1, help="share of the target class to poison")
    group = parser.add_argument_group("perturbation")
    group.add_argument("--checkpoint", default="output/benign/model_last.th", help="surrogate model")
    add_input_flags(group)
    group.add_argument("--epsilon", type=flags.ratio, default="16/255", help="largest change of a pixel in [0, 1]")
    group.add_argument("--step", type=flags.ratio, default="0.24/255", help="step of each iteration (PGD's alpha)")
    group.add_argument("--iterations", type=flags.integer(0), default=100, help="steps from each start")
    group.add_argument("--restarts", type=flags.integer(0), default=1, help="further random starts after the first")
    group.add_argument("--freeze-fooled", action=argparse.BooleanOptionalAction, default=True,
                       help="leave an image alone once the surrogate misclassifies it")
    group.add_argument("--no-pgd", action="store_true", help="the control: stamp only, perturb nothing")
    group.add_argument("--batch-size", type=flags.integer(1), default=250, help="images perturbed at a time")
    flags.add_data_flags(parser)
    flags.add_run_flags(parser, output_dir)
    args = parser.parse_args(argv)
    if args.no_pgd:
        parser.refuse(argv, PGD, "with --no-pgd")
    return args


def pgd_options(args):
    """What the flags say of attack_pgd, by its own names."""
    return {"epsilon": args.epsilon, "alpha": args.step, "max_attack_iters": args.iterations,
            "restarts": args.restarts, "freeze_fooled": args.freeze_fooled}


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        train, _, _ = load_unpoisoned(args, args.image_size or saved_image_size(args.checkpoint))
        aim_flags.check_target(args.poison_target, train.classes)
        trigger = build_trigger("clean-label", args.poison_target, args.trigger_alpha, args.trigger_image,
                                train.data.shape[1:3])
        chosen = choose_images(train, args.poison_target, args.poison_rate, args.seed)
        surrogate = load_given(args, run.device, classes=train.classes).model

        run.begin()
        log_target(args.poison_target, train.classes)
        shares = log_shares(train, chosen, args.poison_target)
        check_surrogate(args.checkpoint, surrogate, train.subset(chosen), run.device)
        clean, labels = train.data[chosen], train.targets[chosen]
        perturbed = clean if args.no_pgd else perturb(
            surrogate, clean, labels, args.batch_size, generator=run.generator, **pgd_options(args))
        stamped = trigger.stamp(perturbed)
        figures = measure(surrogate, clean, perturbed, stamped, labels, args.batch_size)
        report(figures)

        leave_set(run, args, "clean-label", train, chosen, stamped, trigger, perturbed=not args.no_pgd)
        titles = [train.classes[label] for label in labels[:8]]
        image_grid(run.folder / "clean_label_examples.png", example_rows(clean, perturbed, stamped), titles)
        run.finish(parent=args.checkpoint, data=train, method={**shares, **figures})


if __name__ == "__main__":
    main()
