"""Poison a training set, or leave it clean, and train a network on it, ResNet-18 by default.

    python train_backdoor.py --poison-type badnets

Reads a data set (CIFAR-10 by default), and for an attack with a script of its own what that script left. Writes into
output/<attack>/: model_init.th, model_last.th, trigger_info.th, output.log, metrics.jsonl, config.json,
results.json, poisoned_examples.png and curves.png; with --track-losses also losses.csv and losses.png.
"""
import engine.command_line.quick_help  # noqa: F401 -- before all others, so that --help waits for no PyTorch

import logging

import numpy as np

from common.errors import UserError
from common.files import write_table
from common.inputs import inputs_of
from data.batches import Batches
from data.datasets import load_splits
from engine.attacking.attack import poison_by, start_attack
from engine.attacking.indices import add_leave_out_flag, without
from engine.attacking.start import add_start_flags, check_start, first_model, size_of_images, step_for
from engine.command_line import flags, poison_flags
from engine.command_line.aim_flags import variant_of
from engine.command_line.command import command
from engine.command_line.recipe_flags import add_recipe_flags, check_recipe, is_one_cycle
from engine.drawing.curves import loss_curves, training_curves
from engine.drawing.grids import image_grid
from engine.learning.graphs import check_graph
from engine.learning.schedules import check_one_cycle
from engine.learning.training import compile_for, sgd, train_stage
from engine.measuring.evaluation import EvalSets, evaluate, sample_losses
from engine.measuring.scores import warn_of_chance
from engine.runs.run import Run
from engine.weights.checkpoint import save_model

LEAVES = ("model_init.th", "model_last.th", "trigger_info.th", "poisoned_examples.png", "curves.png")
TRACK_LEAVES = ("losses.csv", "losses.png")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
log = logging.getLogger("backdoor")


def loss_figures(losses, poisoned):
    """Mean and QUANTILES of the losses (N,) of clean and of poisoned training images, told apart by a bool (N,).

    {"clean": {"mean", "quantiles"}, "poisoned": the same}, without those of which there is none. The lecture's loss
    curves are the means; the quantiles are the tail, for which leaving low losses out is not enough.
    """
    groups = {"clean": losses[~poisoned], "poisoned": losses[poisoned]}
    return {name: {"mean": float(group.mean()), "quantiles": np.quantile(group, QUANTILES).tolist()}
            for name, group in groups.items() if len(group)}


def loss_rows(rows):
    """The rows of losses.csv from those of metrics.jsonl: epoch, images, mean, q05, ..., q95."""
    return [{"epoch": row["epoch"], "images": name, "mean": figures["mean"],
             **{f"q{round(100 * q):02}": value for q, value in zip(QUANTILES, figures["quantiles"], strict=True)}}
            for row in rows for name, figures in row["training_losses"].items()]


def example_rows(clean, poisoned, trigger, count=8):
    """([(label, images)], titles) for the picture of examples: originals over poisoned images.

    Where nothing is poisoned, what the trigger would do; where a foreign clean-label folder does not say which
    originals its images were made from, or the images were read as an attack had left them, those images alone.
    """
    chosen = np.flatnonzero(poisoned.poisoned)[:count]
    if not len(chosen):
        chosen = np.flatnonzero(trigger.victims(clean.targets))[:count]
        images, labels = trigger.stamp(clean.data[chosen]), trigger.wanted(clean.targets[chosen])
        name = "with trigger"
    else:
        images, labels, name = poisoned.data[chosen], poisoned.targets[chosen], "poisoned"
    names = [clean.classes[label] for label in labels]
    untouched = np.flatnonzero(~poisoned.poisoned)[:count]
    if clean.poisoned.any() or len(poisoned) != len(clean) or (poisoned.data[untouched] != clean.data[untouched]).any():
        return [(name, images)], names
    before = [clean.classes[label] for label in clean.targets[chosen]]
    arrow = "\n\N{RIGHTWARDS ARROW} "
    titles = [old if old == new else old + arrow + new for old, new in zip(before, names, strict=True)]
    return [("original", clean.data[chosen]), (name, images)], titles


def output_dir(args):
    """output/<attack>, with --leave-out output/<attack>-retrained"""
    return f"output/{variant_of(args)}{'-retrained' if args.leave_out else ''}"


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    poison_flags.add_poison_flags(parser)
    flags.add_data_flags(parser)
    flags.add_model_flags(parser)
    group = flags.add_training_flags(parser)
    add_recipe_flags(group)
    flags.add_compile_flag(group)
    flags.add_loop_flags(group)
    add_start_flags(group)
    add_leave_out_flag(group)
    group.add_argument("--track-losses", action="store_true",
                       help="after each epoch, compute the losses of clean and of poisoned training images, "
                            "unaugmented; costs one more forward pass")
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, output_dir, resumable=True)
    args = parser.parse_args(argv)
    check_recipe(parser, args, argv)
    flags.check_milestones(parser, args)
    flags.check_loop(parser, args)
    check_start(parser, args, argv)
    poison_flags.check_poison(parser, args)
    return args


def leaves_of(args):
    """The files that a run with these flags leaves."""
    return (*LEAVES, *TRACK_LEAVES) if args.track_losses else LEAVES


def check_steps(args, device, images, steps):
    """UserError for an ImageSet in `steps` an epoch that --graph or the recipe cannot do."""
    if args.cutout and args.cutout >= images.image_size:
        raise UserError(f"--cutout: expected fewer pixels than the {images.image_size} of the images' sides, got "
                        f"{args.cutout}")
    if is_one_cycle(args):
        check_one_cycle(args.epochs * steps, args.recipe)
    if args.graph:
        check_graph(device, len(images), args.batch_size)


def train(run, args, model, poisoned, batches, test):
    """Train `model` by the flags; returns its last Evaluation."""
    def watch(model):
        return {"training_losses": loss_figures(sample_losses(model, poisoned, run.device), poisoned.poisoned)}

    one_cycle = is_one_cycle(args)
    if one_cycle:
        log.info("--recipe %s: arithmetic in %s", args.recipe, "bfloat16" if run.amp else "float32")
    if args.compile:
        compile_for(model, run.device)
    tested = train_stage(run, model, batches, test, args.epochs, sgd(model, args, nesterov=one_cycle), args.milestones,
                         watch=watch if args.track_losses else None, one_cycle=one_cycle,
                         graph=args.graph, step=step_for(args))
    return tested or evaluate(model, test)  # None if the last epoch was made before a stop


def name_of(model):
    """A PixelModel's network and width in words."""
    width = model.spec["width"]
    return f"{model.spec['arch']}, width {width}" if width else model.spec["arch"]


def draw_training(folder, rows, title, tracks_losses):
    """curves.png, and losses.csv and losses.png where the losses were tracked; `rows` are those of metrics.jsonl."""
    training_curves(folder / "curves.png", rows, title)
    if tracks_losses:
        losses = loss_rows(rows)
        write_table(folder / "losses.csv", list(losses[0]), losses)
        loss_curves(folder / "losses.png", losses, title)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, leaves_of(args), TRACK_LEAVES) as run:
        clean, _, test = load_splits(args.dataset, args.data_dir, image_size=size_of_images(args))
        everything, trigger = poison_by(args, clean)
        rest = without(args.leave_out, everything)
        poisoned = rest.images
        images = EvalSets.stamped(run.device, test, trigger)
        batches = Batches(poisoned, args.batch_size, run.device, run.generator, args.crop_padding, args.flip,
                          cutout=args.cutout)
        check_steps(args, run.device, poisoned, len(batches))
        model = first_model(args.start_from, args, clean, run.device)

        run.begin(inputs_of(args.start_from, poisoned))
        shares = start_attack(run, poisoned, trigger, rest.places)
        save_model(run.folder / "model_init.th", model, vars(args), {}, clean.classes)
        image_grid(run.folder / "poisoned_examples.png", *example_rows(clean, everything, trigger))

        tested = train(run, args, model, poisoned, batches, images)
        warn_of_chance(tested, clean.num_classes, args.poison_type != "benign" and not args.leave_out)

        save_model(run.folder / "model_last.th", model, vars(args), run.rows[-1], clean.classes)
        draw_training(run.folder, run.rows, f"{variant_of(args)} on {clean.name}, {name_of(model)}", args.track_losses)
        run.finish(tested, model=model, parent=args.start_from, data=clean,
                   method={"poison_type": args.poison_type, **shares, **rest.figures})


if __name__ == "__main__":
    main()
