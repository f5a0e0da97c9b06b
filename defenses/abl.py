"""Anti-Backdoor Learning: train a clean model from poisoned data by unlearning what is learned too fast.

    python -m defenses.abl --poison-type badnets

ABL (Li et al., 2021). Stage 1 trains on all images and holds the loss at gamma; backdoored images still fall below it.
The images with the lowest losses are isolated. Stage 2 trains on the rest. Stage 3 climbs the loss of the isolated
images, as long as accuracy on a few clean images holds (--max-drop). --stages-of tries another stage 3 on the first two
stages of a finished run. Reads a data set, which it poisons as train_backdoor.py does. Writes into output/badnets-abl/:
isolated.npy (indices into the training images), model_filtered.th (after stage 2), model_last.th, trigger_info.th,
curves.png, output.log, metrics.jsonl, config.json and results.json.
"""
import logging
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.files import write_array
from common.untrusted import read_array, read_json
from data.batches import Batches
from data.datasets import load_splits
from engine.attacking.attack import poison_by, start_attack
from engine.attacking.indices import against_known, are_indices
from engine.attacking.start import fresh_model
from engine.command_line import abl_flags, flags, poison_flags
from engine.command_line.aim_flags import variant_of
from engine.command_line.command import command
from engine.drawing.curves import training_curves
from engine.learning.graphs import check_graph
from engine.learning.training import sgd, step_of, train_epoch, train_stage, unlearning_loss
from engine.measuring.evaluation import EvalSets, evaluate, evaluation_batches, sample_losses, score
from engine.measuring.scores import UNTESTED, log_figures, warn_of_chance
from engine.runs.run import Run
from engine.weights.checkpoint import load_weights, save_model
from methods.even_steps import even_steps, with_statistics_held

# What decides the first two stages.
FIRST_STAGES = (*poison_flags.POISON_FLAGS, "dataset", "image_size", "arch", "width", *flags.SGD_FLAGS, "milestones",
                "crop_padding", "flip", "gamma", "lga", "flooding", "isolation_epochs", "isolation_rate", "seed")
LEAVES = ("isolated.npy", "model_filtered.th", "model_last.th", "trigger_info.th", "curves.png")
log = logging.getLogger("backdoor")


def local_gradient_ascent(logits, labels, gamma, over="batch"):
    """Mean of sign(l - gamma) * l over the losses l (equation 5): falls above gamma, climbs below it.

    over: "sample" takes each image's own loss, "batch" the batch's mean. On the mean it is one and the same update as
    `flooding`, since the gradients of sign(l - gamma) * l and |l - gamma| + gamma are equal; the authors' code does
    both on the mean. On each image's own it holds those that are learned first, the backdoor's, at gamma, so that the
    lowest losses are others'.
    """
    losses = F.cross_entropy(logits, labels, reduction="none" if over == "sample" else "mean")
    return (torch.sign(losses.detach() - gamma) * losses).mean()


def flooding(logits, labels, level):
    """|mean loss - level| + level (Ishida et al., 2020)."""
    return (F.cross_entropy(logits, labels) - level).abs() + level


def isolate(losses, rate):
    """Indices int64 (round(rate * N),) of the lowest losses, lowest first."""
    return np.argsort(losses, kind="stable")[:round(rate * len(losses))]


def check_isolation(rate, count):
    """UserError for a share above 0 that isolates none of `count` images: ABL would have nothing to unlearn."""
    if rate > 0 and not round(rate * count):
        raise UserError(f"--isolation-rate {rate}: none of the {count} training images would be isolated; one "
                        f"image is a share of {math.ceil(1e4 / count) / 1e4:g}")


def read_isolated(path, count, rate):
    """What `isolate` found of `count` losses. Raises UserError unless it is as many different indices."""
    isolated, wanted = read_array(path), round(rate * count)
    if not are_indices(isolated, count) or len(isolated) != wanted:
        raise UserError(f"{path}: expected {wanted} different indices below {count}; --overwrite starts over")
    return isolated


def isolation_figures(isolated, poisoned):
    """Precision and recall against what is really poisoned (bool (N,)), which only the report knows."""
    return {"isolated": len(isolated), **against_known(isolated, poisoned)}


def copy_weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unlearn(run, model, batches, images, held_out, before, epochs, optimizer, step, max_drop):
    """Climb the loss of `batches` for `epochs` after the `before` that the run has made, while clean accuracy holds.

    step: of train_epoch, which descends the negative loss. Once accuracy falls by more than `max_drop` on `held_out`
    (Batches), the last epoch that kept to it is what is left. Tested as a stage of train_stage is. Returns the
    number of epochs that count.
    """
    floor = score(model, held_out).accuracy.value - max_drop - 1e-9
    for epoch in run.epochs(before + epochs, model=model, optimizer=optimizer):
        kept = copy_weights(model)
        train_score = train_epoch(model, batches, optimizer, run.amp, step)
        accuracy, tested = score(model, held_out).accuracy.value, UNTESTED
        last = epoch if accuracy < floor else before + epochs
        if run.is_tested(epoch, last):
            tested = evaluate(model, images, run.amp and epoch < last)
        run.log(epoch, optimizer.param_groups[0]["lr"], train_score, tested)
        log.info("unlearning, epoch %d: held-out ACC %.4f", epoch - before, accuracy)
        if accuracy < floor:
            model.load_state_dict(kept)
            log.info("held-out accuracy fell by more than %g: stopped, and the epoch before is kept", max_drop)
            return epoch - before - 1
    return epochs


def output_dir(args):
    """output/<attack>-abl"""
    return f"output/{variant_of(args)}-abl"


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    poison_flags.add_poison_flags(parser)
    flags.add_data_flags(parser)
    flags.add_model_flags(parser)
    group = abl_flags.add_abl_flags(parser)
    group.add_argument("--isolation-epochs", type=flags.integer(1), default=20, help="epochs of stage 1")
    group.add_argument("--isolation-rate", type=flags.isolation_rate, default=0.01,
                       help="share of the training images that is isolated")
    flags.add_loop_flags(flags.add_training_flags(parser, 60))
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, output_dir, resumable=True)
    group.add_argument("--stages-of", metavar="FOLDER",
                       help="take stages 1 and 2 from this finished run with the same flags, and make stage 3 alone")
    args = parser.parse_args(argv)
    abl_flags.check_abl(parser, args, argv)
    flags.check_milestones(parser, args)
    flags.check_loop(parser, args)
    poison_flags.check_poison(parser, args)
    return args


def isolation_objective(gamma, lga, is_flooding):
    """(logits, labels) -> what stage 1 descends."""
    if is_flooding:
        return lambda logits, labels: flooding(logits, labels, gamma)
    return lambda logits, labels: local_gradient_ascent(logits, labels, gamma, lga)


def batches_of(image_set, args, run, **augmentation):
    """The Batches that a stage trains on."""
    return Batches(image_set, args.batch_size, run.device, run.generator, **augmentation)


def isolate_images(run, args, model, poisoned, test):
    """Stage 1: train on all images, and leave in isolated.npy the indices of the lowest losses; returns those."""
    objective = isolation_objective(args.gamma, args.lga, args.flooding)
    train_stage(run, model, batches_of(poisoned, args, run), test, args.isolation_epochs, sgd(model, args), [],
                step_of(objective), graph=args.graph)
    path = run.folder / "isolated.npy"
    run.check_left(path.name, args.isolation_epochs)
    if not path.exists():  # it exists if the run resumes after stage 1
        write_array(path, isolate(sample_losses(model, poisoned, run.device), args.isolation_rate))
    return read_isolated(path, len(poisoned), args.isolation_rate)


def train_on_rest(run, args, model, poisoned, isolated, test):
    """Stage 2: train on what is not isolated, and leave model_filtered.th; returns the Evaluation."""
    is_left = np.ones(len(poisoned), dtype=bool)
    is_left[isolated] = False
    rest = batches_of(poisoned.subset(is_left), args, run, crop_padding=args.crop_padding, flip=args.flip)
    until, path = args.isolation_epochs + args.epochs, run.folder / "model_filtered.th"
    train_stage(run, model, rest, test, until, sgd(model, args), args.milestones, graph=args.graph)
    run.check_left(path.name, until)
    if path.exists():  # the run resumes in stage 3
        load_weights(path, model)
    filtered = evaluate(model, test)
    save_model(path, model, vars(args), filtered.figures(), poisoned.classes)
    return filtered


def first_stages(run, args, model, poisoned, test):
    """Stages 1 and 2: (isolated indices, Evaluation of the model without them)."""
    isolated = isolate_images(run, args, model, poisoned, test)
    return isolated, train_on_rest(run, args, model, poisoned, isolated, test)


def taken_stages(run, args, model, poisoned, test):
    """Stages 1 and 2 of the finished run --stages-of: (isolated indices, Evaluation), as these leave them; `model` gets
    the weights. Raises UserError for a run that differs in more than stage 3."""
    folder = Path(args.stages_of)
    isolated = read_isolated(folder / "isolated.npy", len(poisoned), args.isolation_rate)
    load_weights(folder / "model_filtered.th", model)
    write_array(run.folder / "isolated.npy", isolated)
    filtered = evaluate(model, test)
    save_model(run.folder / "model_filtered.th", model, vars(args), filtered.figures(), poisoned.classes)
    return isolated, filtered


def check_stages(args, poisoned):
    """Raise UserError if --stages-of is given and is no run whose first two stages are those that the flags ask for."""
    if not args.stages_of:
        return
    try:
        made = read_json(Path(args.stages_of) / "config.json")
        before, inputs = dict(made["arguments"]), made["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--stages-of {args.stages_of}: no run of defenses.abl") from None
    other = [f"--{name.replace('_', '-')} {before.get(name)}, not {getattr(args, name)}" for name in FIRST_STAGES
             if before.get(name) != getattr(args, name)]
    if other:
        raise UserError(f"--stages-of {args.stages_of}: made with {', '.join(other)}")
    if inputs != poisoned.fingerprint():
        raise UserError(f"--stages-of {args.stages_of}: made on other images")


def unlearn_isolated(run, args, model, poisoned, isolated, test, held_out):
    """Stage 3, where there is anything to unlearn; returns the number of its epochs that count."""
    if not args.unlearn_epochs or not len(isolated):
        return 0
    before = 0 if args.stages_of else args.isolation_epochs + args.epochs
    batches = batches_of(poisoned.subset(isolated), args, run)
    step = step_of(unlearning_loss)
    if args.even_steps:
        optimizer, step = even_steps(model, args.unlearn_length / len(batches)), with_statistics_held(step)
    else:
        optimizer = sgd(model, args, args.unlearn_lr)
    return unlearn(run, model, batches, test, held_out, before, args.unlearn_epochs, optimizer, step, args.max_drop)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        train, defender, test = load_splits(args.dataset, args.data_dir, image_size=args.image_size)
        poisoned, trigger = poison_by(args, train)
        check_isolation(args.isolation_rate, len(poisoned))
        images = EvalSets.stamped(run.device, test, trigger)
        held_out = evaluation_batches(defender, run.device)
        if args.graph:  # of stage 2, whose images are fewer
            check_graph(run.device, len(poisoned) - round(args.isolation_rate * len(poisoned)), args.batch_size)
        model = fresh_model(args, train, run.device)

        check_stages(args, poisoned)
        run.begin(poisoned)
        shares = start_attack(run, poisoned, trigger)
        isolated, filtered = (taken_stages if args.stages_of else first_stages)(run, args, model, poisoned, images)
        log.info("isolated %d images, %d of them poisoned (of %d)", len(isolated), poisoned.poisoned[isolated].sum(),
                 shares["poisoned"])

        log_figures("without the isolated images", filtered)
        climbed = unlearn_isolated(run, args, model, poisoned, isolated, images, held_out)
        final = evaluate(model, images)
        log_figures(f"after {climbed} epochs of unlearning", final)
        warn_of_chance(final, train.num_classes, is_attacked=False)  # a low ASR is ABL's goal

        save_model(run.folder / "model_last.th", model, vars(args), final.figures(), train.classes)
        training_curves(run.folder / "curves.png", run.rows, f"ABL on {variant_of(args)}, {train.name}")
        run.finish(final, model=model, data=train, epochs=args.isolation_epochs + args.epochs + climbed, method={
            "name": "ABL", "poison_type": args.poison_type, **shares, **isolation_figures(isolated, poisoned.poisoned),
            "filtered": filtered.figures(), "unlearning_epochs": climbed})


if __name__ == "__main__":
    main()
