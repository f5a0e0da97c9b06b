"""ANP, step 2: prune the neurons with the lowest masks, as many as clean accuracy allows.

    python prune_network.py --mask-file output/badnets/anp/mask_values.txt

Adversarial Neuron Pruning (Wu & Wang, 2021). Reads generate_mask.py's masks, the model they belong to, the trigger
beside it if there is one (for ASR alone) and the rest of the defender's images, which choose the threshold. Writes
into pruned/ beside the masks: model_last.th, pruning_by_threshold.txt and .png, output.log, config.json, results.json.
"""
import engine.command_line.quick_help  # noqa: F401 -- before all others, so that --help waits for no PyTorch

import logging
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import atomic_file, hash_file
from common.untrusted import read_text
from engine.command_line import anp_flags, flags
from engine.command_line.command import command
from engine.command_line.inherit import check_weights, inherit
from engine.defending.suspect import load_given, load_suspect, split_defender
from engine.drawing.curves import pruning_curve
from engine.measuring.evaluation import evaluate, evaluation_batches, score
from engine.missing import check_there
from engine.runs.run import Run
from engine.weights.checkpoint import save_model
from methods.batch_statistics import StatisticsBatches, recalibrated
from methods.mask_pruning import (
    as_dict,
    evaluate_by_threshold,
    log_choice,
    make_choice,
    norm_layers,
    prune_lowest,
    sweep_points,
)

HOMEWORK_HEADER = "No \t Layer Name \t Neuron Idx \t Mask \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC"
HOMEWORK_ROW = "{:.2f} \t {} \t {} \t {} \t {:.4f} \t {:.4f} \t {:.4f} \t {:.4f}"
AXES = {"threshold": ("threshold", "threshold on the mask"), "number": ("pruned", "neurons pruned")}
AUGMENTATION = ("crop_padding", "flip")
FEWEST, STATISTICS_BATCH = 32, 128  # images that statistics are estimated on, at least, and at once
log = logging.getLogger("backdoor")


def read_data(file_name):
    """[(layer, channel, mask value)] of a mask file. Raises UserError with file and line for an invalid line."""
    check_there(file_name)
    try:
        lines = read_text(file_name).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{file_name}: not a mask file ({getattr(error, 'strerror', None) or error})") from None
    rows, seen = [], {}
    if lines and "mask" not in lines[0].lower():
        raise UserError(f"{file_name}:1: expected the header No, Layer Name, Neuron Idx, Mask Score, got "
                        f"{lines[0][:80]!r}")
    for number, line in enumerate(lines[1:], 2):
        fields = line.split()
        if not fields:
            continue
        try:
            _, layer, index, value = fields
            index, value = int(index), float(value)
        except ValueError:
            raise UserError(f"{file_name}:{number}: expected number, layer, channel and mask value, got "
                            f"{line.strip()[:80]!r}") from None
        layer = layer.removeprefix("module.")  # of DataParallel, as in a checkpoint
        if not 0 <= value <= 1:
            raise UserError(f"{file_name}:{number}: expected a mask value in [0, 1], got {value}")
        if (layer, index) in seen:
            raise UserError(f"{file_name}:{number}: {layer[:80]} {index} is already in line {seen[layer, index]}")
        seen[layer, index] = number
        rows.append((layer, index, value))
    if not rows:
        raise UserError(f"{file_name}: expected masks, got none")
    return rows


def check_masks(model, mask_values, file_name):
    """Raise UserError unless `mask_values` are those of exactly the model's batch-norm channels."""
    layers = norm_layers(model)
    for layer, index, _ in mask_values:
        if layer not in layers or not 0 <= index < layers[layer].num_features:
            raise UserError(f"{file_name}: the model has no neuron {layer[:80]} {index}; do the "
                            "masks belong to another model?")
    total = sum(layer.num_features for layer in layers.values())
    if len(mask_values) != total:
        raise UserError(f"{file_name}: holds {len(mask_values)} of the model's {total} neurons; do "
                        "the masks belong to another model?")


def pruning(net, neuron):
    """Prune one neuron (layer, channel, ...) in place: its batch-norm scale becomes 0, its bias stays, as published."""
    net.get_submodule(neuron[0]).weight.data[int(neuron[1])] = 0


def evaluate_by_number(model, mask_values, numbers, measure, after_pruning=None):
    """Prune the first n neurons for each of the rising `numbers`; see `evaluate_by_threshold`."""
    points = ((min(n, len(mask_values)), None) for n in numbers)
    return sweep_points(model, mask_values, points, measure, after_pruning)


def recalibration_batches(images, args, device):
    """StatisticsBatches of the ImageSet that made the masks. Raises UserError for too few images."""
    if len(images) < FEWEST:
        raise UserError(f"--recalibrate: expected at least {FEWEST} images that made the masks, got {len(images)}")
    return StatisticsBatches(images, STATISTICS_BATCH, device, args.crop_padding, args.flip, seed=0)


def oracle(rows, max_drop):
    """What the test set would have chosen: lowest ASR among the rows that lose at most `max_drop` of ACC. No defender
    knows it."""
    floor = rows[0].test.clean.accuracy.value - max_drop
    return min((row for row in rows if row.test.clean.accuracy.value >= floor - 1e-9),
               key=lambda row: row.test.triggered.accuracy.value)


def homework_row(row):
    """The row in the homework's format, whose Mask column is the threshold."""
    layer, index, value = row.neuron
    triggered, clean = row.test.triggered, row.test.clean
    shown = value if row.threshold is None else row.threshold
    return HOMEWORK_ROW.format(row.count, layer, index, shown, triggered.loss, triggered.accuracy.value, clean.loss,
                               clean.accuracy.value)


def output_dir(args):
    """pruned/ beside the mask file"""
    return str(Path(args.mask_file).parent / "pruned")


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser, "the one that the masks were made from")
    flags.add_data_flags(parser, of="that of the run that made the masks")
    parser.set_defaults(dataset=None, data_dir=None)  # as the masks were made
    group = parser.add_argument_group("pruning")
    group.add_argument("--mask-file", default="output/badnets/anp/mask_values.txt", help="what generate_mask.py left")
    group.add_argument("--pruning-by", choices=("threshold", "number"), default="threshold", help="how to count")
    group.add_argument("--threshold", type=flags.fraction,
                       help="prune up to this mask value (default: chosen on held-out clean images)")
    anp_flags.add_pruning_flags(group, ", or all neurons", ", or 20 neurons")
    group.add_argument("--val-frac", type=flags.fraction,
                       help="share of all training images that made the masks; the rest of the defender's "
                            "images choose the threshold (default: generate_mask.py's value)")
    group.add_argument("--recalibrate", action="store_true",
                       help="estimate the batch norm statistics of each pruned model anew, on the images that made the "
                            "masks, augmented as they were then")
    flags.add_augmentation_flags(parser, "as the masks were made")
    flags.add_run_flags(parser, output_dir, draws=False)
    args = parser.parse_args(argv)
    if not args.recalibrate:
        parser.refuse(argv, AUGMENTATION, "without --recalibrate")
    swept = (args.pruning_by, args.pruning_max, args.pruning_step) != ("threshold", None, None)
    if args.threshold is not None:
        if swept:
            parser.error("--threshold: prunes once, so --pruning-by number, --pruning-max and --pruning-step have no "
                         "effect")
        parser.refuse(argv, ["max_drop"], "with --threshold")
        args.max_drop = None
    if args.pruning_by == "threshold":
        anp_flags.check_thresholds(parser, args)
    elif args.pruning_step is not None and args.pruning_step < 1:
        parser.error(f"--pruning-step: expected at least 1 neuron, got {args.pruning_step}")
    return args


def sweep(model, mask_values, pruning_by, threshold, maximum, step, measure, after_pruning=None):
    """The rows that the flags ask for: a sweep of thresholds or of numbers, or one threshold."""
    if threshold is not None:
        return evaluate_by_threshold(model, mask_values, [threshold], measure, after_pruning)
    if pruning_by == "threshold":
        points = np.arange(0, (0.95 if maximum is None else maximum) + 1e-9, step or 0.05).round(6).tolist()
        return evaluate_by_threshold(model, mask_values, points, measure, after_pruning)
    last = int(len(mask_values) if maximum is None else maximum)
    points = [*range(0, last, int(step or 20)), last]
    return evaluate_by_number(model, mask_values, points, measure, after_pruning)


def write_rows(path, rows):
    """The table of a sweep, in the homework's format."""
    with atomic_file(path) as file:
        file.write("\n".join([HOMEWORK_HEADER, *map(homework_row, rows), ""]).encode())


def decide(rows, threshold, max_drop):
    """(the Row that pruning ends with, the oracle's), with their lines of the log.

    threshold: the one asked for, whose Row is the last; None to choose. The oracle is None where nothing is chosen or
    no trigger is known.
    """
    log_choice("before", rows[0])
    if threshold is not None:
        log_choice("requested", rows[-1])
        return rows[-1], None
    chosen = make_choice(rows, max_drop)
    if not rows[0].test.triggered.accuracy.n:
        return chosen, None
    best = oracle(rows, max_drop)
    log_choice("oracle (the test set's own choice, which no defender has)", best)
    return chosen, best


def load_pruned(args, device, mask_values, count, after_pruning=None):
    """The model that the flags `args` name, with the `count` lowest masks' neurons pruned; as it is if there are none.
    """
    model = load_given(args, device).model
    prune_lowest(model, mask_values, count)
    return after_pruning(model) if after_pruning and count else model


@command
def main(argv=None):
    args = inherit(parse_args(argv))
    table = f"pruning_by_{args.pruning_by}"
    with Run(args, ("model_last.th", f"{table}.txt", f"{table}.png")) as run:
        mask_values = read_data(args.mask_file)
        suspect = load_suspect(args, run)
        check_masks(suspect.model, mask_values, args.mask_file)
        check_weights(Path(args.mask_file).parent, args.checkpoint)
        own, held_out = split_defender(suspect.defender, args.val_frac)
        choosing = evaluation_batches(held_out, run.device)
        after_pruning = None
        if args.recalibrate:
            after_pruning = partial(recalibrated, batches=recalibration_batches(own, args, run.device))

        run.begin(suspect)
        rows = sweep(suspect.model, mask_values, args.pruning_by, args.threshold, args.pruning_max, args.pruning_step,
                     lambda model: (evaluate(model, suspect.test), score(model, choosing)), after_pruning)
        write_rows(run.folder / f"{table}.txt", rows)
        chosen, best = decide(rows, args.threshold, args.max_drop)

        pruned = load_pruned(args, run.device, mask_values, chosen.count, after_pruning)
        save_model(run.folder / "model_last.th", pruned, vars(args), as_dict(chosen), suspect.classes)
        pruning_curve(run.folder / f"{table}.png", [as_dict(row) for row in rows], as_dict(chosen),
                      *AXES[args.pruning_by])
        run.finish(chosen.test, model=pruned, parent=args.checkpoint, data=suspect.defender, method={
            "name": "ANP", "masks": hash_file(args.mask_file), "max_drop": args.max_drop,
            "recalibrated": args.recalibrate, "chosen": as_dict(chosen), "before": as_dict(rows[0]),
            "oracle": None if best is None else as_dict(best), "sweep": [as_dict(row) for row in rows]})


if __name__ == "__main__":
    main()
