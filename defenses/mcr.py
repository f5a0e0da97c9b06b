"""Mode connectivity repair: train a curve between two models, and keep the weights at a place inside it.

    python -m defenses.mcr --checkpoint output/badnets/model_last.th

MCR (Zhao et al., 2020): on the curve's inside there is no backdoor, though there is one at its ends. The other end is
--second, a model of the same network with any backdoor, for example from another seed or attack (the paper's setting);
without it, it is the model itself, fine-tuned. Reads a model, the defender's clean images, and the trigger beside the
model, if there is one, for ASR alone. Writes into output/badnets/mcr/: model_last.th, second.th (the fine-tuned end),
curve.csv and curve.png (ACC and ASR along the curve), output.log, metrics.jsonl, config.json and results.json.
"""
import copy
import logging
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.func import functional_call

from common.errors import UserError
from common.files import hash_file, write_table
from data.batches import Batches
from engine.command_line import flags
from engine.command_line.command import command
from engine.defending.control import log_control
from engine.defending.repair import Repair, add_share_flag
from engine.defending.suspect import beneath_model, load_second, load_suspect
from engine.drawing.curves import pruning_curve
from engine.learning.training import fine_tune, train_epoch
from engine.measuring.evaluation import evaluate, evaluation_batches, score
from engine.measuring.progress import progress
from engine.measuring.scores import UNTESTED, Evaluation, Score, log_figures, plain_values
from engine.runs.run import Run
from engine.weights.checkpoint import load_weights, save_model
from methods.batch_statistics import StatisticsBatches, recalibrated
from models.base import PixelModel

LEAVES = ("model_last.th", "curve.csv", "curve.png")
COLUMNS = ("t", "acc", "asr", "robust_acc", "held_out_acc")
MIDDLE, FAR = 0.5, 1.0  # places on the curve
PLACES = [step / 10 for step in range(11)]
log = logging.getLogger("backdoor")


def coefficients(t):
    """Shares of the first end, the bend and the second end at t in [0, 1] of a quadratic Bezier curve; their sum is 1.
    """
    return (1 - t)**2, 2 * t * (1 - t), t**2


def weights_at(t, first, bend, second):
    """{name: weight} at t, from the weights {name: weight} of the ends and the bend; gradients flow to all three."""
    # For all weights of a network together: on a GPU each launch costs time.
    one, own, other = (torch._foreach_mul([weights[name] for name in bend], share)
                       for weights, share in zip((first, bend, second), coefficients(t), strict=True))
    return dict(zip(bend, torch._foreach_add(torch._foreach_add(one, own), other), strict=True))


@dataclass(frozen=True)
class Curve:
    """A quadratic Bezier curve in the space of a network's weights, from `first` to `second`, drawn toward `bend`."""

    first: PixelModel
    bend: PixelModel
    second: PixelModel

    @classmethod
    def straight(cls, first, second):
        """The straight line between two models of the same network: its bend lies in the middle."""
        bend, other = copy.deepcopy(first), dict(second.named_parameters())
        with torch.no_grad():
            for name, weight in bend.named_parameters():
                weight.copy_((weight + other[name]) / 2)
        return cls(first, bend, second)

    def weights(self, t):
        """{name: weight} at t; only the bend's get gradients."""
        ends = [{name: weight.detach() for name, weight in model.named_parameters()} for model in (
            self.first, self.second)]
        return weights_at(t, ends[0], dict(self.bend.named_parameters()), ends[1])

    @torch.no_grad()
    def network(self, t, batches):
        """The PixelModel at t in eval mode, with the batch norms' statistics estimated anew on StatisticsBatches.

        Those of the ends say nothing of a model between them, which with them would fail on all images, triggered ones
        too.
        """
        model = copy.deepcopy(self.first)
        for name, weight in self.weights(t).items():
            model.get_parameter(name).copy_(weight)
        return recalibrated(model, batches)


def curve_step(curve, generator, decay):
    """A step for train_epoch on the curve's bend: the loss at one t for the batch, drawn evenly from [0, 1].

    decay: of all weights at t, half of it times their squared norm, in the loss and not in the optimizer.
    """
    def step(bend, images, labels):
        weights = curve.weights(float(torch.rand((), generator=generator)))
        logits = functional_call(bend, weights, (images,))
        norm = sum(weight.square().sum() for weight in weights.values())
        return F.cross_entropy(logits, labels) + decay / 2 * norm, logits
    return step


def rate_factor(progress):
    """What the learning rate is multiplied by after `progress`, a share of the epochs: 1 up to a half, then falling in
    a line to 0.01 at nine tenths."""
    return max(0.01, 1 - 0.99 * max(0.0, progress - 0.5) / 0.4)


def statistics_batches(repair, args):
    """StatisticsBatches of the images that the repair trains on, augmented as the curve is trained."""
    return StatisticsBatches(repair.own, args.batch_size, repair.run.device, args.crop_padding, args.flip, args.seed)


def train_curve(repair, args, curve, before, own):
    """Train the bend for --epochs after the `before` that the run has made; tests are of the curve's middle, with the
    statistics of StatisticsBatches `own`."""
    run, test, bend, until = repair.run, repair.suspect.test, curve.bend, before + args.epochs
    batches = Batches(repair.own, args.batch_size, run.device, run.generator, args.crop_padding, args.flip)
    optimizer = torch.optim.SGD(bend.parameters(), args.lr, args.momentum)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: rate_factor(epoch / args.epochs))
    step = curve_step(curve, run.generator, args.weight_decay)
    for epoch in run.epochs(until, model=bend, optimizer=optimizer, scheduler=scheduler):
        trained, tested = train_epoch(bend, batches, optimizer, run.amp, step), UNTESTED
        if run.is_tested(epoch, until):
            tested = evaluate(curve.network(MIDDLE, own), test)
        run.log(epoch, scheduler.get_last_lr()[0], trained, tested)
        scheduler.step()


@dataclass(frozen=True)
class Row:
    """The curve's model at t."""

    t: float
    test: Evaluation
    held_out: Score

    def as_dict(self):
        """The row as results.json has it."""
        return {"t": self.t, **self.test.figures(), "held_out_acc": self.held_out.accuracy.as_dict()}


def walk(curve, places, own, test, held_out):
    """[Row] at each of `places`; own: StatisticsBatches, test: EvalSets, held_out: Batches."""
    rows = []
    for t in progress(places, "curve"):
        model = curve.network(t, own)
        rows.append(Row(t, evaluate(model, test), score(model, held_out)))
        log_figures(f"t {t:.2f}: held-out ACC {rows[-1].held_out.accuracy.value:.4f}", rows[-1].test)
    return rows


def choose(rows, floor, wanted):
    """The Row nearest to `wanted` with a held-out accuracy of at least `floor`, neither end; the most accurate of two.

    wanted: MIDDLE between two models with backdoors of their own, FAR where the second is the first, fine-tuned, and
    the backdoor fades along the whole curve. Where no place reaches the floor, the most accurate of those between.
    """
    inner = [row for row in rows if 0 < row.t < 1]
    good = [row for row in inner if row.held_out.accuracy.value >= floor - 1e-9]
    if not good:
        log.warning("no place on the curve keeps a held-out accuracy of %.4f; the most accurate is kept", floor)
        return max(inner, key=lambda row: row.held_out.accuracy.value)
    return min(good, key=lambda row: (round(abs(row.t - wanted), 9), -row.held_out.accuracy.value))


def load_other_end(path, args, suspect, device):
    """The other end in `path`, None for no path. Raises UserError unless it is another model than the suspect's, of the
    same network."""
    if path is None:
        return None
    if hash_file(path) == hash_file(args.checkpoint):
        raise UserError(f"--second {path}: the same weights as --checkpoint; without --second the other end is those, "
                        "fine-tuned")
    second, own = load_second(path, args, suspect, device), suspect.model.spec
    if second.spec != own:
        raise UserError(f"--second {path}: expected the network of --checkpoint, {own}, got {second.spec}")
    return second


def fine_tuned(repair, args):
    """The default second end: a copy of the model, fine-tuned; leaves second.th."""
    run, suspect, second = repair.run, repair.suspect, copy.deepcopy(repair.suspect.model)
    fine_tune(run, args, second, repair.own, suspect.test, args.second_epochs)
    path = run.folder / "second.th"
    run.check_left(path.name, args.second_epochs)
    if path.exists():  # the run resumes on the curve
        load_weights(path, second)
    save_model(path, second, vars(args), {}, suspect.classes)
    return second


def write_curve(folder, rows, chosen):
    """curve.csv and curve.png."""
    dicts = [row.as_dict() for row in rows]
    write_table(folder / "curve.csv", COLUMNS, plain_values(dicts, COLUMNS))
    pruning_curve(folder / "curve.png", dicts, chosen.as_dict(), "t", "t, from the given model to the second one")


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = parser.add_argument_group("curve")
    group.add_argument("--second", metavar="FILE.th",
                       help="model at the other end, of the same network (default: the given one, fine-tuned)")
    group.add_argument("--second-epochs", type=flags.integer(1), default=10,
                       help="epochs of fine-tuning that make the other end")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--t", type=flags.fraction, help="place on the curve that is kept (default: chosen)")
    either.add_argument("--max-drop", type=flags.fraction, default=0.04,
                        help="largest drop of held-out accuracy that the place may cause; of such the one nearest to "
                             "the middle is chosen, without --second the one farthest from the given model")
    add_share_flag(group, rest="chooses the place on the curve")
    flags.add_test_every_flag(flags.add_sgd_flags(parser, 100, 0.01), 10)
    parser.set_defaults(weight_decay=1e-4)
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, beneath_model("mcr"), resumable=True)
    args = parser.parse_args(argv)
    if args.t is not None:
        args.max_drop = None
    if args.second:
        parser.refuse(argv, ["second_epochs"], "with --second, which needs no fine-tuning")
        args.second_epochs = 0
    return args


def follow(repair, args, curve, own):
    """Walk the trained curve with the statistics of StatisticsBatches `own`; returns (all Rows, the kept one)."""
    held_out = evaluation_batches(repair.held_out, repair.run.device)
    if args.t is not None:
        rows = walk(curve, sorted({*PLACES, args.t}), own, repair.suspect.test, held_out)
        return rows, next(row for row in rows if row.t == args.t)
    floor = score(repair.suspect.model, held_out).accuracy.value - args.max_drop
    rows = walk(curve, PLACES, own, repair.suspect.test, held_out)
    return rows, choose(rows, floor, MIDDLE if args.second else FAR)


def method_of(args, rows, kept, at_second, control):
    """What results.json says of the method."""
    return {"name": "MCR", "second": args.second, "at_second": at_second.figures(), "max_drop": args.max_drop,
            "chosen": kept.as_dict(), "control": control, "sweep": [row.as_dict() for row in rows]}


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES if args.second else (*LEAVES, "second.th"), ("second.th",)) as run:
        suspect = load_suspect(args, run)
        second = load_other_end(args.second, args, suspect, run.device)

        repair = Repair.begin(run, args, suspect, f" {hash_file(args.second)}" if args.second else "")
        other = "the second end" if args.second else "the second end, fine-tuned"
        second = second or fine_tuned(repair, args)
        at_second = log_figures(other, evaluate(second, suspect.test))
        curve = Curve.straight(suspect.model, second)
        own = statistics_batches(repair, args)
        train_curve(repair, args, curve, args.second_epochs, own)

        rows, kept = follow(repair, args, curve, own)
        write_curve(run.folder, rows, kept)
        log.info("kept: t %.2f", kept.t)
        control = None if args.second else {name: at_second.figures()[name] for name in ("acc", "asr")}
        if control:
            log_control(control)
        epochs = args.second_epochs + args.epochs
        repair.finish(curve.network(kept.t, own), kept.test, epochs=epochs,
                      method=method_of(args, rows, kept, at_second, control))


if __name__ == "__main__":
    main()
