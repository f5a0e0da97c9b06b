"""Make Trojan's trigger: the patch that excites chosen neurons of a benign model most.

    python -m attacks.trojan_patch

Trojan (Liu et al., 2018): of the features that the last layer reads, those that speak most for the target class are
chosen, and the pixels of a patch are optimized until these neurons respond as strongly as they can. Training then ties
the patch to the target (train_backdoor.py --poison-type trojan). Reads a data set and a benign model
(output/benign/model_last.th, from train_backdoor.py --poison-type benign). Writes into output/trojan-patch/: patch.png
(RGBA), patch_examples.png, output.log, metrics.jsonl, config.json and results.json.
"""
import logging
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from common.errors import UserError
from common.files import atomic_file
from common.untrusted.images import read_picture, to_8_bits
from data.batches import to_pixels
from data.triggers import read_trigger_image
from data.triggers.pattern import PatternTrigger
from engine.attacking.attack import load_unpoisoned, log_target
from engine.command_line import aim_flags, flags
from engine.command_line.command import command
from engine.command_line.normalization import add_input_flags
from engine.defending.suspect import load_given
from engine.drawing.grids import image_grid
from engine.measuring.evaluation import evaluation_batches, frozen, predict
from engine.measuring.surrogate import check_surrogate
from engine.runs.run import Run
from engine.weights.checkpoint import saved_image_size
from models.penultimate import penultimate

LEAVES = ("patch.png", "patch_examples.png")
SMALLEST = 1 / 1020  # a step of a quarter of a gray level, which rounding undoes
SHOWN = 1000  # images, at most, on which the finished patch is judged
log = logging.getLogger("backdoor")


def choose_neurons(weight, target, count):
    """Indices (count,) and weights (count,) of the features that speak most for class `target`, the strongest first.

    weight: float (C, D) of the last layer. What counts is the weight toward the target beyond its mean over the other
    classes, with its sign: what raises all logits alike decides nothing, and the size alone would also choose neurons
    that speak against the target. Raises UserError for more than speak for it.
    """
    others = (weight.sum(0) - weight[target]) / (len(weight) - 1)
    beyond = weight[target] - others
    if count > (beyond > 0).sum():
        raise UserError(f"--neurons {count}: only {int((beyond > 0).sum())} of the {len(beyond)} features that the "
                        "last layer reads speak for the target class")
    weights, neurons = beyond.topk(count)
    return neurons, weights


def lay(patch, mask, images):
    """Images (N, 3, H, W) with the patch (3, H, W) in them where the mask (H, W) is, all in [0, 1]."""
    return images + mask * (patch - images)


def activation_of(model, neurons, images):
    """Mean activation of the neurons (n,), in the last layer's input, over images (N, 3, H, W)."""
    return penultimate(model, images)[0][:, neurons].mean()


def excite(model, neurons, images, mask, patch, steps, step, tell=lambda done, activation: None):
    """The patch (3, H, W) in [0, 1] that excites the neurons most on `images` (N, 3, H, W), and its activation.

    Ascent along the sign of the gradient, from `patch`, clipped to [0, 1]. A step that does not raise the activation is
    undone and halved, so it rises monotonically; the search ends where a step would be less than rounding. Outside the
    mask (H, W) the gradient is 0 and the patch stays as it is. tell: called with (steps done, activation so far).
    """
    def look(at):
        at = at.detach().requires_grad_()
        activation = activation_of(model, neurons, lay(at, mask, images))
        return float(activation.detach()), torch.autograd.grad(activation, at)[0]
    best, gradient = look(patch)
    for done in range(steps):
        tell(done, best)
        proposed = (patch + step * gradient.sign()).clamp(0, 1)
        found, slope = look(proposed)
        if found > best:
            patch, best, gradient = proposed, found, slope
        else:
            step /= 2
        if step < SMALLEST:
            break
    return patch.detach(), best


def square(side, size):
    """A mask float32 (H, W) of 1 in a square in the bottom right corner. UserError for one that does not fit."""
    height, width = size
    side = side or max(1, min(size) // 4)
    if side > min(size):
        raise UserError(f"--patch-size {side}: larger than the images of {width}x{height} pixels")
    mask = np.zeros(size, dtype=np.float32)
    mask[-side:, -side:] = 1
    return mask


def read_mask(path, size):
    """A mask float32 (H, W): the gray levels of a picture, white is 1, what is transparent counts as black. UserError
    for another size, and for a picture without white or gray."""
    picture = read_picture(path)
    if picture.size != size[::-1]:
        raise UserError(f"{path}: expected a picture of {size[1]}x{size[0]} pixels as the images are, got "
                        f"{picture.width}x{picture.height}")
    gray, alpha = to_8_bits(picture).convert("LA").split()
    mask = np.asarray(gray, dtype=np.float32) * np.asarray(alpha, dtype=np.float32) / 255 ** 2
    if mask.max() < 2 / 255:  # all black, or saved as 0 and 1
        raise UserError(f"{path}: black, its lightest pixel has level {mask.max() * 255:.0f} of 255, so the patch "
                        "would change no pixel; white (255) is where it lies")
    return mask


def take_images(train, target, count, seed, device):
    """float (N, 3, H, W): `count` of the attacker's images outside the target class; for 0, one that is black."""
    others = np.flatnonzero(train.targets != target)
    if not len(others):
        raise UserError(f"{train.name}: expected images outside the target class, got none")
    chosen = np.random.default_rng(seed).permutation(others)[:count]
    data = train.data[np.sort(chosen)] if count else np.zeros((1, *train.data.shape[1:]), dtype=np.uint8)
    return to_pixels(torch.from_numpy(data).to(device))


def save_patch(path, patch, mask):
    """Write a patch (3, H, W) in [0, 1] and its mask (H, W) as RGBA, black where the mask is 0."""
    pixels = (255 * patch).round().byte().permute(1, 2, 0).cpu().numpy() * (mask > 0)[..., None]
    alpha = np.rint(255 * mask).astype(np.uint8)[..., None]
    with atomic_file(path) as file:
        Image.fromarray(np.concatenate([pixels, alpha], axis=2)).save(file, format="PNG")


def optimize(run, args, model, neurons, weights, train, mask):
    """Optimize the patch by the flags, for the neurons and weights of choose_neurons; log how it goes. Returns (patch,
    figures)."""
    log.info("neurons (weight toward the target): %s", ", ".join(
        f"{neuron} ({weight:+.3f})" for neuron, weight in zip(neurons.tolist(), weights.tolist(), strict=True)))
    images = take_images(train, args.poison_target, args.images, args.seed, run.device)
    start = torch.rand((3, *mask.shape), generator=run.generator).to(run.device)
    mask = torch.from_numpy(mask).to(run.device)

    def tell(done, activation):
        if done % args.print_every == 0:
            log.info("step %d: mean activation %.4f", done, activation)
            run.record({"step": done, "activation": activation})
    with frozen(model):
        before = float(activation_of(model, neurons, images))
        log.info("before, without a patch: mean activation %.4f", before)
        random = float(activation_of(model, neurons, lay(start, mask, images)))
        patch, after = excite(model, neurons, images, mask, start, args.steps, args.step, tell)
    log.info("after: mean activation %.4f (random patch %.4f, no patch %.4f)", after, random, before)
    return patch, {"neurons": neurons.tolist(), "weights": weights.tolist(), "activation_before": before,
                   "activation_random": random, "activation_after": after}


def share_called(model, image_set, target, device):
    """The share of an ImageSet that the model calls `target`."""
    return float((predict(model, evaluation_batches(image_set, device)).argmax(1) == target).float().mean())


def judge(model, train, trigger, device):
    """(figures, clean images, stamped images): what the finished patch does to the benign model itself."""
    clean = train.subset(train.targets != trigger.target).subset(slice(SHOWN))
    stamped = trigger.stamp(clean.data)
    shares = {name: share_called(model, images, trigger.target, device) for name, images in (
        ("called_target_before", clean), ("called_target_after", replace(clean, data=stamped)))}
    log.info("the benign model itself calls %.4f of patched images the target, %.4f without the patch",
             shares["called_target_after"], shares["called_target_before"])
    return shares, clean, stamped


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("patch")
    aim_flags.add_target_flag(group)
    group.add_argument("--checkpoint", default="output/benign/model_last.th", help="benign model")
    add_input_flags(group)
    either = group.add_mutually_exclusive_group()
    either.add_argument("--patch-size", type=flags.integer(1), metavar="PIXELS",
                        help="side of a square in the bottom right corner (default: a quarter of the image's)")
    either.add_argument("--mask-image", metavar="FILE",
                        help="picture of the images' size in place of the square: the patch lies where it is white, "
                             "half-transparent where it is gray")
    group = parser.add_argument_group("optimization")
    group.add_argument("--neurons", type=flags.integer(1), default=2, help="how many neurons to excite")
    group.add_argument("--images", type=flags.integer(0), default=100,
                       help="images outside the target class that the patch is optimized on; 0 for the patch alone on "
                            "black, as published")
    group.add_argument("--steps", type=flags.integer(1), default=300, help="steps of the search, at most")
    group.add_argument("--step", type=flags.ratio, default="0.1", help="first step, in pixel values of 0 to 1")
    group.add_argument("--print-every", type=flags.integer(1), default=20, help="steps from one log line to the next")
    flags.add_data_flags(parser)
    flags.add_run_flags(parser, "output/trojan-patch")
    args = parser.parse_args(argv)
    if not args.step:
        parser.error("--step: expected more than 0, got 0")
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        train, _, _ = load_unpoisoned(args, args.image_size or saved_image_size(args.checkpoint))
        aim_flags.check_target(args.poison_target, train.classes)
        size = train.data.shape[1:3]
        mask = read_mask(args.mask_image, size) if args.mask_image else square(args.patch_size, size)
        model = load_given(args, run.device, classes=train.classes).model
        chosen = choose_neurons(model.head.weight.detach(), args.poison_target, args.neurons)

        run.begin()
        log_target(args.poison_target, train.classes)
        check_surrogate(args.checkpoint, model, train.subset(slice(SHOWN)), run.device)
        patch, figures = optimize(run, args, model, *chosen, train, mask)

        save_patch(run.folder / "patch.png", patch, mask)
        trigger = PatternTrigger(*read_trigger_image(run.folder / "patch.png", size), 1.0, args.poison_target)
        shares, clean, stamped = judge(model, train, trigger, run.device)
        image_grid(run.folder / "patch_examples.png", [("original", clean.data[:8]), ("with the patch", stamped[:8])],
                   [train.classes[label] for label in clean.targets[:8]])
        run.finish(parent=args.checkpoint, model=model, data=train,
                   method={"name": "Trojan patch", "pixels": int((mask > 0).sum()), **figures, **shares})


if __name__ == "__main__":
    main()
