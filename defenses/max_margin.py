"""MM-BD: find a backdoor's target by how far an image can be made to lean to each class, without any images.

    python -m defenses.max_margin --checkpoint output/badnets/model_last.th

Wang et al. (2024). A backdoored network is far surer of the target than it can be made of any other class, whatever the
trigger looks like. From random images, the lead of each class over all others is climbed; a class whose largest lead
lies outside the distribution of the others' is the target. Reads a model alone; ACC and ASR are measured only if
--dataset or --data-dir names images. Writes into output/badnets/max-margin/: margins.csv, margins.png, output.log,
config.json and results.json.

Starts, steps, step size, stopping rule, the fitted gamma distribution and the threshold are those of the authors'
published code; that the paper projects images onto [0, 1] in each step, as here, is as far as we know. Their network
takes pixels without normalization; here steps are taken in pixels too, whatever the model's own normalization is.
"""
import logging
import time

import numpy as np

from common.errors import UserError
from common.files import write_table
from engine.command_line import flags
from engine.command_line.aim_flags import called
from engine.command_line.command import command
from engine.defending.suspect import beneath_model
from engine.defending.without_images import add_optional_data_flags, check_data_flags, load_subject
from engine.drawing.bars import margin_bars
from engine.runs import machine
from engine.runs.run import Run
from methods.channel_bounds import farthest_channel, layer_bounds
from methods.margins import largest_margins

LEAVES = ("margins.csv", "margins.png")
COLUMNS = ("label", "class", "margin", "mean", "lowest", "steps")
OTHERS = 3  # classes, at least, that the null distribution is fitted to: it has three parameters
SAME = 1e-3  # relative difference of margins up to which they are called equal
log = logging.getLogger("backdoor")


def fit_null(margins):
    """(shape, location, scale) of the gamma distribution fitted by maximum likelihood to margins (n,)."""
    from scipy.stats import gamma  # half a second, which no script's start should take
    return tuple(map(float, gamma.fit(margins)))


def largest_of(count, value, null):
    """The probability that the largest of `count` draws from a gamma distribution (shape, location, scale) is at least
    `value`: 1 - F(value)^count, exact where it is tiny."""
    from scipy.stats import gamma
    shape, location, scale = null
    with np.errstate(divide="ignore"):  # below the distribution's support the logarithm is -inf, and this is 1
        return float(-np.expm1(count * np.log1p(-gamma.sf(value, shape, location, scale))))


def p_value(margins):
    """The p-value of the largest of margins (C,) against a null distribution fitted to the others.

    None with fewer than OTHERS others, which no distribution can be fitted to; 1 where the largest equals their median
    to a thousandth, so that nothing sticks out.
    """
    margins = np.sort(np.asarray(margins, dtype=np.float64))
    *others, largest = margins
    if len(others) < OTHERS:
        return None
    if largest - np.median(others) <= SAME * abs(np.median(others)):
        return 1.0
    if np.ptp(others) <= SAME * abs(np.median(others)):
        return 0.0  # the others are one value, which the largest is not
    return largest_of(len(margins), largest, fit_null(others))


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    add_optional_data_flags(parser)
    group = parser.add_argument_group("margin")
    group.add_argument("--starts", type=flags.integer(1), default=30, help="random images from which each class climbs")
    group.add_argument("--steps", type=flags.integer(2), default=300, help="largest number of steps")
    group.add_argument("--step", type=flags.positive, default=0.01,
                       help="what the margin's gradient is multiplied by in each step, for pixels in [0, 1]")
    group.add_argument("--tolerance", type=flags.not_negative, default=1e-5,
                       help="relative change of a class's margins below which it is done")
    group.add_argument("--p-value", type=flags.fraction, default=0.05, help="p-value below which a target is named")
    flags.add_run_flags(parser, beneath_model("max-margin"))
    args = parser.parse_args(argv)
    check_data_flags(parser, args)
    return args


def judge(climbs, threshold):
    """What results.json says of the verdict: p_value, infected (None where there is no p-value) and targets."""
    margins = [one.margins.max() for one in climbs]
    value = p_value(margins)
    infected = None if value is None else value < threshold
    return {"p_value": value, "infected": infected, "targets": [int(np.argmax(margins))] if infected else []}


def log_climbs(rows, verdict, classes):
    """The margin of every class, and the verdict."""
    for row in rows:
        log.info("label %s: margin %.2f, of all starts %.2f to %.2f, %d steps", called(row["label"], classes),
                 row["margin"], row["lowest"], row["margin"], row["steps"])
    if verdict["p_value"] is None:
        log.info("verdict: none, since %d classes leave too few to compare the largest margin with", len(rows))
        return
    targets = ", ".join(called(label, classes) for label in verdict["targets"])
    log.info("verdict: %s, p-value %.3g", f"infected, target {targets}" if targets else "clean", verdict["p_value"])


def farthest_of(model):
    """The Farthest channel as a dict, logged; None for a network without batch norms behind convolutions."""
    layers = layer_bounds(model)
    if not layers:
        return None
    found = farthest_channel(layers)
    log.info("%s: channel %d lies farthest above its layer's others, %.1f robust standard deviations; no part of the "
             "verdict", *found)
    return found._asdict()


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        subject = load_subject(args, run)
        model, classes = subject.model, subject.classes
        if len(classes) < 2:
            raise UserError(f"{args.checkpoint}: has one class, which leads over no other")
        machine.set_cudnn_benchmark(False)  # classes that are done leave the batch, so that it takes many sizes

        run.begin(subject)
        started = time.perf_counter()
        climbs = largest_margins(model, len(classes), subject.image_size, args, run.device, run.generator)
        seconds = time.perf_counter() - started
        rows, verdict = [one.row(classes) for one in climbs], judge(climbs, args.p_value)
        log_climbs(rows, verdict, classes)

        write_table(run.folder / "margins.csv", COLUMNS, rows)
        margin_bars(run.folder / "margins.png", classes, [one.margins for one in climbs], verdict)
        run.finish(subject.evaluate(), model=model, parent=args.checkpoint, data=subject.images, method={
            "name": "MM-BD", **verdict, "threshold": args.p_value, "margins": rows,
            "seconds": round(seconds, 1), "farthest_channel": farthest_of(model)})


if __name__ == "__main__":
    main()
