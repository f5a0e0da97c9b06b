"""ANP, step 1: find the neurons that an adversary would perturb, by optimizing a mask on clean images.

    python generate_mask.py --checkpoint output/badnets/model_last.th

Adversarial Neuron Pruning (Wu & Wang, 2021). Reads a model, the trigger beside it if there is one (for the log's ASR
alone) and 1 % of the training images, from the defender's part. Writes into output/badnets/anp/: mask_values.txt,
which prune_network.py reads, output.log, metrics.jsonl, config.json and results.json. The course's own settings are
--nb-iter 1000 --anp-eps 0.1 --anp-steps 2.
"""
import engine.command_line.quick_help  # noqa: F401 -- before all others, so that --help waits for no PyTorch

import logging
import math

import torch
import torch.nn.functional as F

from common.files import atomic_file
from common.inputs import inputs_of
from data.batches import Batches
from engine.command_line import anp_flags, flags
from engine.command_line.command import command
from engine.defending.suspect import beneath_model, load_suspect, split_defender
from engine.learning.training import check_finite, told_of_lone_image
from engine.measuring.evaluation import evaluate
from engine.measuring.progress import progress
from engine.measuring.scores import Proportion, Score, log_figures
from engine.runs.run import HEADER, Run
from methods.neuron_noise import ascend_noise, clip, start_noise
from models.noisy_batchnorm import NoisyBatchNorm2d, noisy_layers, parameters_named, perturbed

LEAVES = ("mask_values.txt",)
log = logging.getLogger("backdoor")


def mask_train(model, criterion, mask_opt, noise_opt, data_loader, anp_eps=0.4, anp_steps=1, anp_alpha=0.2,
               project=True, generator=None):
    """One pass over `data_loader` of min_m alpha*L(m) + (1-alpha) * max_noise L(m, noise), masks m in [0, 1].

    Equation 5 of the paper; the noise is at most `anp_eps` in each channel's scale and shift, found by `anp_steps`
    ascents of anp_eps / anp_steps (noise_opt's learning rate) by the sign of the gradient from a random start.
    `project` keeps it there; without it, as in the authors' code, start and steps may add up to 2 * anp_eps. Batch
    statistics are used throughout, as published. Returns (mean loss, accuracy of the masked model without noise).
    """
    model.train()
    masks, noises = parameters_named(model, "neuron_mask"), parameters_named(model, "neuron_noise")
    losses, hits, seen = [], 0, 0  # hits stays on the device: reading it would make a GPU wait
    for images, labels in progress(data_loader, "mask"):
        if anp_eps and anp_alpha < 1:
            start_noise(noises, anp_eps, generator)
            for _ in range(anp_steps):
                ascend_noise(model, criterion, noises, noise_opt, images, labels, anp_eps if project else math.inf)
        logits = model(images)
        natural = criterion(logits, labels)
        robust = natural
        if anp_eps and anp_alpha < 1:
            with perturbed(model):
                robust = criterion(model(images), labels)
        loss = anp_alpha * natural + (1 - anp_alpha) * robust
        mask_opt.zero_grad()
        loss.backward(inputs=masks)
        mask_opt.step()
        clip(masks, 0, 1)
        losses.append(loss.detach())
        hits += (logits.argmax(1) == labels).sum()
        seen += len(labels)
    check_finite(losses)
    return float(torch.stack(losses).mean()), int(hits) / seen


def repeat_passes(batches, count):
    """The batches of `count` passes, one after the other."""
    for _ in range(count):
        yield from batches


def save_mask_scores(state_dict, file_name):
    """Write the neuron_mask values of a state_dict as the homework has them: No, layer, channel, mask (4 decimals)."""
    rows = ["No \t Layer Name \t Neuron Idx \t Mask Score \n"]
    for name, values in state_dict.items():
        if name.endswith("neuron_mask"):
            layer = name.removesuffix(".neuron_mask")
            for index, value in enumerate(values.tolist()):
                rows.append(f"{len(rows) - 1} \t {layer} \t {index} \t {value:.4f} \n")
    with atomic_file(file_name) as file:
        file.write("".join(rows).encode())


def make_masks_trainable(model):
    """Freeze the weights and the running statistics, so that the log's tests see what pruning the original will see."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("neuron_mask" in name or "neuron_noise" in name)
    for _, layer in noisy_layers(model):
        layer.momentum = 0.0


def optimizers_of(model, lr, anp_eps, anp_steps):
    """(of the masks, of the noises), whose step is a part of `anp_eps`."""
    masks, noises = parameters_named(model, "neuron_mask"), parameters_named(model, "neuron_noise")
    return torch.optim.SGD(masks, lr, momentum=0.9), torch.optim.SGD(noises, anp_eps / anp_steps)


def optimize(run, args, model, batches, test):
    """Optimize the masks by the flags, with a line of the log each --print-every steps; returns the last Evaluation."""
    mask_opt, noise_opt = optimizers_of(model, args.lr, args.anp_eps, args.anp_steps)
    lines, tested = math.ceil(args.nb_iter / args.print_every), None
    for line in run.epochs(lines, HEADER.replace("Epoch", "Iter"), model=model, mask_opt=mask_opt):
        before = (line - 1) * args.print_every
        steps = min(args.print_every, args.nb_iter - before)
        with told_of_lone_image(args.batch_size):
            loss, accuracy = mask_train(model, F.cross_entropy, mask_opt, noise_opt, repeat_passes(batches, steps),
                                        args.anp_eps, args.anp_steps, args.anp_alpha, args.project, run.generator)
        tested, seen = evaluate(model, test), steps * args.batch_size
        right = Proportion(round(accuracy * seen), seen)
        run.log(before + steps, args.lr, Score(loss, right, right), tested)
    return tested or evaluate(model, test)


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = anp_flags.add_mask_flags(parser)
    group.add_argument("--anp-alpha", type=flags.fraction, default=0.2, help="weight of the loss without noise")
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, beneath_model("anp"), resumable=True)
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        suspect = load_suspect(args, run, norm_layer=NoisyBatchNorm2d)
        model, (clean, _) = suspect.model, split_defender(suspect.defender, args.val_frac)
        make_masks_trainable(model)

        run.begin(inputs_of(args.checkpoint, clean))
        masks = parameters_named(model, "neuron_mask")
        log.info("optimizing %d masks on %d clean images", sum(mask.numel() for mask in masks), len(clean))
        before = evaluate(model, suspect.test)
        log_figures("before", before)

        # One step a pass, so that what is drawn does not depend on how often a line is logged.
        batches = Batches(clean, args.batch_size, run.device, run.generator, args.crop_padding, args.flip,
                          draws=args.batch_size)
        after = optimize(run, args, model, batches, suspect.test)

        save_mask_scores(model.state_dict(), run.folder / "mask_values.txt")
        run.finish(after, model=model, parent=args.checkpoint, data=suspect.defender,
                   method={"name": "ANP mask", "before": before.figures(), "images": len(clean)})


if __name__ == "__main__":
    main()
