"""Fine-Pruning: prune the channels that clean images leave dormant, then fine-tune what is left.

    python -m defenses.fine_prune --checkpoint output/badnets/model_last.th

Fine-Pruning (Liu et al., 2018); --mode prune and --mode fine-tune are its two halves by themselves. Reads a model, the
defender's clean images (half rank and fine-tune, half choose how much to prune), and the trigger beside the model, if
there is one, for ASR alone. A pruned channel is one that nothing reads: in a pre-activation network it is ranked and
cut behind the batch norm and ReLU through which the next convolutions read it. Writes into output/badnets/fine-prune/:
model_last.th (the same network, with zeros where it was pruned), pruning_curve.csv and .png, output.log, metrics.jsonl,
config.json and results.json.
"""
import logging
from dataclasses import dataclass

from common.files import write_table
from common.inputs import inputs_of
from engine.command_line import flags
from engine.command_line.command import command
from engine.defending.control import find_control
from engine.defending.suspect import default_folder, load_suspect, split_defender
from engine.drawing.curves import pruning_curve
from engine.learning.training import fine_tune
from engine.measuring.evaluation import evaluate, evaluation_batches, score, score_logits
from engine.measuring.progress import progress
from engine.measuring.scores import UNKNOWN, Evaluation, Score, last_within, plain_values
from engine.runs.run import Run
from engine.weights.checkpoint import save_model
from models.pruning import activity, find_stage, fold_mask, mask_of, output_masked, stage_means

CURVE = ("pruning_curve.csv", "pruning_curve.png")
COLUMNS = ("pruned", "channel", "activation", "acc", "asr", "robust_acc", "held_out_acc")
NAMES = {"prune": "pruning", "fine-tune": "fine-tuning", "fine-prune": "Fine-Pruning"}
POINTS = 20  # of the curve at a stage other than the last
log = logging.getLogger("backdoor")


@dataclass(frozen=True)
class Row:
    """The model with its `count` least active channels pruned; `channel` is the last of them."""

    count: int
    channel: int | None
    activation: float | None
    test: Evaluation
    held_out: Score

    def as_dict(self):
        """The row as results.json has it."""
        return {"pruned": self.count, "channel": self.channel, "activation": self.activation, **self.test.figures(),
                "held_out_acc": self.held_out.accuracy.as_dict()}


def usual_counts(model, stage, channels):
    """Every number of channels at the last stage, where each costs a matrix product; POINTS of them elsewhere."""
    if stage == model.stages[-1]:
        return range(channels)
    return [round(channels * step / POINTS) for step in range(POINTS)]


def last_stage_curve(model, order, sets):
    """score(i, count) of sets[i] with `count` channels pruned, for the last stage: from one pass over its outputs f.

    sets: the Batches to be scored, None where there are none. The logits are W[:, keep] @ f[keep] + b.
    """
    features = [batches and stage_means(model, batches, model.stages[-1]) for batches in sets]
    weight, bias = model.head.weight.detach(), model.head.bias.detach()

    def score_pruned(i, count):
        mask = mask_of(order, count)
        return score_logits((features[i] * mask) @ weight.T + bias, sets[i]) if sets[i] else UNKNOWN
    return score_pruned


def earlier_stage_curve(model, order, sets, stage):
    """The same for a stage with layers behind it, by a whole pass over the images each time."""
    def score_pruned(i, count):
        with output_masked(model, stage, mask_of(order, count)):
            return score(model, sets[i]) if sets[i] else UNKNOWN
    return score_pruned


def sweep(model, stage, order, activations, test, held_out, counts):
    """[Row] for each of `counts` channels pruned, the first of `order` (C,); activations (C,)."""
    sets = (test.clean, test.triggered, held_out)
    if stage == model.stages[-1]:
        score_pruned = last_stage_curve(model, order, sets)
    else:
        score_pruned = earlier_stage_curve(model, order, sets, stage)
    rows = []
    for count in progress(sorted(counts), "prune"):
        clean, triggered, own = (score_pruned(i, count) for i in range(3))
        last = int(order[count - 1]) if count else None
        rows.append(Row(count, last, float(activations[last]) if count else None, Evaluation(clean, triggered), own))
    return rows


def log_row(title, row):
    log.info("%s: %d channels pruned, ASR %.4f, ACC %.4f, held-out ACC %.4f", title, row.count,
             row.test.triggered.accuracy.value, row.test.clean.accuracy.value, row.held_out.accuracy.value)


def write_curve(folder, rows, chosen):
    """pruning_curve.csv and pruning_curve.png."""
    dicts = [row.as_dict() for row in rows]
    write_table(folder / "pruning_curve.csv", COLUMNS, plain_values(dicts, COLUMNS))
    pruning_curve(folder / "pruning_curve.png", dicts, chosen.as_dict(), "pruned", "channels pruned")


def choose(rows, max_drop, prune_fraction, channels):
    """The Row that the flags ask for: a share of the channels, or as many as `max_drop` allows. The first, with none
    pruned, where neither is given."""
    if prune_fraction is not None:
        return next(row for row in rows if row.count == int(prune_fraction * channels))
    if max_drop is not None:
        return rows[last_within([row.held_out.accuracy.value for row in rows], max_drop)]
    return rows[0]


def counts_of(model, mode, layer, prune_fraction, channels):
    """The numbers of channels that are pruned and scored, the one that the flags ask for among them."""
    if mode == "fine-tune":
        return {0}
    return {0 if prune_fraction is None else int(prune_fraction * channels), *usual_counts(model, layer, channels)}


def leave_pruning(folder, rows, chosen, mode):
    """Log the model as it is and, if anything is to be pruned, as it is then, with the whole curve as files."""
    log_row("before", rows[0])
    if mode != "fine-tune":
        log_row("pruned", chosen)
        write_curve(folder, rows, chosen)


def method_of(args, layer, rows, chosen, control, channels, images):
    """What results.json says of the method."""
    return {"name": NAMES[args.mode], "layer": layer, "max_drop": args.max_drop,
            "prune_fraction": args.prune_fraction, "control": control, "channels": channels, "images": images,
            "before": rows[0].as_dict(), "chosen": chosen.as_dict(), "sweep": [row.as_dict() for row in rows]}


def leaves_of(mode):
    """(the files that a run of this mode leaves, those that only the other modes do)."""
    if mode == "fine-tune":
        return ("model_last.th",), CURVE
    return ("model_last.th", *CURVE), ()


def output_dir(args):
    """the mode's name beneath the model's run"""
    return default_folder(args.checkpoint, args.mode)


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = parser.add_argument_group("pruning")
    group.add_argument("--mode", choices=("prune", "fine-tune", "fine-prune"), default="fine-prune",
                       help="both halves, or one alone")
    group.add_argument("--layer", help="stage whose output channels are pruned (default: the model's "
                       f"last); at another one in steps of 1/{POINTS} of them")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--max-drop", type=flags.fraction, default=0.04,
                        help="largest drop of held-out accuracy that pruning may cause")
    either.add_argument("--prune-fraction", type=flags.number(0, 0.9999, "a fraction in [0, 1)"),
                        help="prune this share of the channels instead of as many as --max-drop allows")
    group.add_argument("--val-frac", type=flags.fraction, default=0.05,
                       help="share of all training images that rank the channels and fine-tune, taken from the "
                            "defender's tenth; the rest of the tenth chooses how much to prune")
    flags.add_sgd_flags(parser, 10, 0.01)
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, output_dir, resumable=True)
    args = parser.parse_args(argv)
    if args.mode == "fine-tune":
        parser.refuse(argv, ["layer", "max_drop", "prune_fraction"], "with --mode fine-tune, which prunes nothing")
    if args.mode == "prune":
        unused = (*flags.SGD_FLAGS, "crop_padding", "flip", "seed")
        parser.refuse(argv, unused, "with --mode prune, which trains nothing")
    if args.prune_fraction is not None or args.mode == "fine-tune":
        args.max_drop = None
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, *leaves_of(args.mode)) as run:
        suspect = load_suspect(args, run)
        model, test = suspect.model, suspect.test
        own, held_out = split_defender(suspect.defender, args.val_frac)
        choosing = evaluation_batches(held_out, run.device)
        layer = find_stage(model, args.layer)

        run.begin(inputs_of(args.checkpoint, own))
        activations = activity(model, evaluation_batches(own, run.device), layer)
        order = activations.argsort(stable=True)
        counts = counts_of(model, args.mode, layer, args.prune_fraction, len(order))
        rows = sweep(model, layer, order, activations, test, choosing, counts)
        chosen = choose(rows, args.max_drop, args.prune_fraction, len(order))
        leave_pruning(run.folder, rows, chosen, args.mode)

        mask = mask_of(order, chosen.count)
        with output_masked(model, layer, mask):
            after = evaluate(model, test) if args.mode == "prune" else fine_tune(
                run, args, model, own, test, args.epochs)
        fold_mask(model, layer, mask)
        log_row("after", Row(chosen.count, None, None, after, score(model, choosing)))
        # Fine-tuning is the control of both halves together.
        control = find_control(args, "fine-tune", "--mode fine-tune") if args.mode == "fine-prune" else None

        save_model(run.folder / "model_last.th", model, vars(args), after.figures(), suspect.classes)
        run.finish(after, model=model, parent=args.checkpoint, data=suspect.defender,
                   epochs=0 if args.mode == "prune" else args.epochs,
                   method=method_of(args, layer, rows, chosen, control, len(order), len(own)))


if __name__ == "__main__":
    main()
