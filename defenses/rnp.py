"""RNP: make a model unlearn clean images, learn which neurons bring them back, and prune the others.

    python -m defenses.rnp --checkpoint output/badnets/model_last.th

Reconstructive Neuron Pruning (Li et al., 2023). Climbs the loss of a few clean images, which a backdoor survives, until
the model has forgotten them. On that model it optimizes a mask for each channel that brings their accuracy back; the
channels that it turns down are the backdoor's. In the model as it came those are pruned whose mask is at most a
threshold, the largest that accuracy on the defender's other images allows. Reads a model, the defender's clean images,
and the trigger beside the model, if there is one, for ASR alone. Writes into output/badnets/rnp/: model_last.th,
masks.csv, pruning_by_threshold.png, output.log, metrics.jsonl, config.json and results.json.
"""
import logging

import numpy as np
import torch

from common.files import write_table
from data.batches import Batches
from engine.command_line import flags
from engine.command_line.command import command
from engine.defending.repair import Repair, add_share_flag
from engine.defending.suspect import beneath_model, load_given, load_suspect
from engine.drawing.curves import pruning_curve
from engine.learning.training import step_of, train_epoch, unlearning_loss
from engine.measuring.evaluation import evaluate, evaluation_batches, score
from engine.measuring.scores import log_figures
from engine.runs.run import Run
from methods.mask_pruning import as_dict, evaluate_by_threshold, make_choice, prune_lowest
from methods.neuron_noise import clip
from models.noisy_batchnorm import NoisyBatchNorm2d, noisy_layers, parameters_named

THRESHOLDS = np.arange(0, 0.951, 0.05).round(2).tolist()
COLUMNS = ("layer", "channel", "mask")
LEAVES = ("model_last.th", "masks.csv", "pruning_by_threshold.png")
LOG_EVERY = 10  # steps
log = logging.getLogger("backdoor")


def tell(run, stage, step, seen, is_last):
    """A row of metrics.jsonl on a step's Score, from before the step; of some, and of the last, a line of the log."""
    if step % LOG_EVERY == 0 or is_last:
        log.info("%s, step %d: loss %.4f, accuracy %.4f", stage, step, abs(seen.loss), seen.accuracy.value)
    run.record({"stage": stage, "step": step, "loss": abs(seen.loss), "accuracy": seen.accuracy.value})


def unlearn(run, model, batches, steps, lr, until):
    """Climb the loss of `batches` with all weights of `model` until one has an accuracy of at most `until`.

    batches: Batches of one step a pass. A loss climbs ever faster, so that accuracy is looked at in every step, before
    the weights move: after a few too many, masks bring nothing back. The rate falls to a tenth after half of the steps.
    Returns the number of steps, at most `steps`; logs a warning if that accuracy was not reached.
    """
    weights = [weight for name, weight in model.named_parameters() if ".neuron_" not in name]
    optimizer = torch.optim.SGD(weights, lr, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [(steps + 1) // 2])
    for step in range(1, steps + 1):
        seen = train_epoch(model, batches, optimizer, step=step_of(unlearning_loss))
        scheduler.step()
        is_forgotten = seen.accuracy.value <= until
        tell(run, "unlearning", step, seen, is_forgotten or step == steps)
        if is_forgotten:
            return step
    log.warning("accuracy on the images is still above %g after %d steps of unlearning: the masks say little; a higher "
                "--unlearn-lr forgets sooner", until, steps)
    return steps


def recover(run, model, batches, steps, lr):
    """Descend the loss of `batches` by the masks of a model of NoisyBatchNorm2d alone, kept in [0, 1].

    Batch statistics throughout, as published. Returns [(layer, channel, mask)] of every channel.
    """
    masks = parameters_named(model, "neuron_mask")
    model.requires_grad_(False)
    for mask in masks:
        mask.requires_grad_(True)
    optimizer = torch.optim.SGD(masks, lr, momentum=0.9)
    for step in range(1, steps + 1):
        seen = train_epoch(model, batches, optimizer, after_step=lambda: clip(masks, 0, 1))
        tell(run, "recovering", step, seen, step == steps)
    return [(name, channel, value) for name, layer in noisy_layers(model)
            for channel, value in enumerate(layer.neuron_mask.tolist())]


def make_masks(repair, args):
    """(masks [(layer, channel, mask)], what results.json says of the way there) by the flags."""
    run, model, test = repair.run, repair.suspect.model, repair.suspect.test
    batches = Batches(repair.own, args.batch_size, run.device, run.generator, args.crop_padding, args.flip,
                      draws=args.batch_size)
    steps = unlearn(run, model, batches, args.unlearn_steps, args.unlearn_lr, args.unlearn_to)
    unlearned = log_figures("after unlearning", evaluate(model, test)).figures()
    masks = recover(run, model, batches, args.recover_steps, args.recover_lr)
    recovered = log_figures("after recovering, with the masks", evaluate(model, test)).figures()
    return masks, {"unlearning_steps": steps, "unlearned": unlearned, "recovered": recovered}


def prune(repair, args, masks):
    """(the model as it came with its lowest masks pruned, the chosen Row, all Rows)."""
    device, test = repair.run.device, repair.suspect.test
    choosing = evaluation_batches(repair.held_out, device)
    rows = evaluate_by_threshold(load_given(args, device).model, masks, THRESHOLDS,
                                 lambda model: (evaluate(model, test), score(model, choosing)))
    chosen, pruned = make_choice(rows, args.max_drop), load_given(args, device).model
    prune_lowest(pruned, masks, chosen.count)
    return pruned, chosen, rows


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = parser.add_argument_group("unlearning")
    group.add_argument("--unlearn-steps", type=flags.integer(1), default=80,
                       help="steps of the ascent, at most (80 of 128 images are 20 passes over 500)")
    group.add_argument("--unlearn-lr", type=flags.positive, default=0.01,
                       help="learning rate of the ascent, a tenth of it in the second half of the steps")
    group.add_argument("--unlearn-to", type=flags.fraction, default=0.2,
                       help="accuracy on the images at which the model has forgotten them")
    group = parser.add_argument_group("recovering")
    group.add_argument("--recover-steps", type=flags.integer(1), default=80, help="steps of the masks")
    group.add_argument("--recover-lr", type=flags.positive, default=0.04,
                       help="learning rate of the masks (the authors' is 0.2, of a fifth of the loss)")
    group = parser.add_argument_group("pruning")
    group.add_argument("--max-drop", type=flags.fraction, default=0.02,
                       help="largest drop of held-out accuracy that pruning may cause")
    add_share_flag(group, 0.01, "chooses the threshold")
    group.add_argument("--batch-size", type=flags.integer(2), default=128, help="images a step")
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, beneath_model("rnp"))
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        suspect = load_suspect(args, run, norm_layer=NoisyBatchNorm2d)

        repair = Repair.begin(run, args, suspect)
        masks, seen = make_masks(repair, args)
        pruned, chosen, rows = prune(repair, args, masks)

        write_table(run.folder / "masks.csv", COLUMNS, [dict(zip(COLUMNS, row, strict=True)) for row in masks])
        pruning_curve(run.folder / "pruning_by_threshold.png", [as_dict(row) for row in rows], as_dict(chosen),
                      "threshold", "threshold on the mask")
        repair.finish(pruned, chosen.test, epochs=0, method={
            "name": "RNP", **seen, "max_drop": args.max_drop, "chosen": as_dict(chosen),
            "sweep": [as_dict(row) for row in rows]})


if __name__ == "__main__":
    main()
