"""Channel Lipschitz Pruning: close the channels that can amplify their input far more than their layer's others.

    python -m defenses.clp --checkpoint output/badnets/model_last.th

CLP (Zheng et al., 2022) needs no data: it looks at the weights alone and takes milliseconds. Reads a model, and, for
the figures alone, test images and the trigger beside the model, if there is one. Writes into output/badnets/clp/:
model_last.th (the same network, with zeros where a channel is closed), channels.csv (the bound of every channel),
output.log, config.json and results.json.
"""
import logging
from dataclasses import dataclass

import torch

from common.errors import UserError
from common.files import write_table
from engine.command_line import flags
from engine.command_line.command import command
from engine.defending.suspect import beneath_model, load_suspect
from engine.measuring.evaluation import evaluate
from engine.measuring.scores import log_figures
from engine.runs.run import Run
from engine.weights.checkpoint import save_model
from methods.channel_bounds import farthest_channel, layer_bounds

COLUMNS = ("layer", "channel", "bound", "deviations", "closed")
log = logging.getLogger("backdoor")


@dataclass(frozen=True)
class Layer:
    """A batch norm with the convolution before it: the bound (C,) of each channel, and whether it is to be closed."""

    name: str
    bounds: torch.Tensor
    closed: torch.Tensor

    def rows(self):
        """The channels as rows of channels.csv; deviations: how many of the layer's standard deviations above its mean.
        """
        deviations = (self.bounds - self.bounds.mean()) / self.bounds.std()
        return [dict(zip(COLUMNS, (self.name, i, *values), strict=True)) for i, values in enumerate(zip(
            self.bounds.tolist(), deviations.tolist(), self.closed.int().tolist(), strict=True))]


def outliers(bounds, u):
    """bool (C,): the channels above mean + u standard deviations of their layer."""
    return bounds > bounds.mean() + u * bounds.std()


def examine(model, u):
    """[Layer] of every batch norm behind a convolution of its own. Raises UserError where there is none."""
    layers = [Layer(name, bounds, outliers(bounds, u)) for name, bounds in layer_bounds(model).items()]
    if not layers:
        raise UserError("CLP needs a batch norm that follows a convolution, and this network has none")
    return layers


@torch.no_grad()
def close_channels(model, layers):
    """Set scale and shift of the closed channels to 0, in place: what is behind them gets nothing of theirs."""
    for layer in layers:
        norm = model.get_submodule(layer.name)
        norm.weight[layer.closed] = 0
        norm.bias[layer.closed] = 0


def log_layers(model, layers, u):
    """What was examined and closed, and what could not be."""
    for layer in layers:
        if layer.closed.any():
            log.info("%s: closed %s of %d channels", layer.name, layer.closed.nonzero().flatten().tolist(),
                     len(layer.closed))
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    log.info("closed %d of %d channels in %d layers", sum(int(layer.closed.sum()) for layer in layers),
             sum(len(layer.closed) for layer in layers), len(layers))
    if len(layers) < norms:
        log.info("%d of %d batch norms follow no convolution directly and stay as they are", norms - len(layers), norms)
    log.info("%s: channel %d lies farthest above its layer's others, %.1f robust standard deviations",
             *farthest_channel({layer.name: layer.bounds for layer in layers}))
    small = [layer.name for layer in layers if largest_deviation(len(layer.closed)) <= u]
    if small:
        log.warning("%d layers have too few channels for one to lie %g standard deviations above the mean (%s); a "
                    "lower --u reaches them", len(small), u, ", ".join(small[:3]) + (", ..." if small[3:] else ""))


def largest_deviation(count):
    """How many sample standard deviations one of `count` values can lie above their mean: (n - 1) / sqrt(n)."""
    return (count - 1) / count**0.5


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = parser.add_argument_group("pruning")
    group.add_argument("--u", type=flags.number(-100, 100, "a number from -100 to 100"), default=3.0,
                       help="standard deviations above its layer's mean from which on a channel is closed; the lower, "
                            "the more are closed")
    flags.add_run_flags(parser, beneath_model("clp"), draws=False)
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, ("model_last.th", "channels.csv")) as run:
        suspect = load_suspect(args, run)
        model, test = suspect.model, suspect.test
        layers = examine(model, args.u)

        run.begin(suspect)
        before = log_figures("before", evaluate(model, test))
        close_channels(model, layers)
        log_layers(model, layers, args.u)
        after = log_figures("after", evaluate(model, test))

        write_table(run.folder / "channels.csv", COLUMNS, [row for layer in layers for row in layer.rows()])
        save_model(run.folder / "model_last.th", model, vars(args), after.figures(), suspect.classes)
        run.finish(after, model=model, parent=args.checkpoint, data=suspect.defender, epochs=0, method={
            "name": "CLP", "u": args.u, "before": before.figures(),
            "farthest": farthest_channel({layer.name: layer.bounds for layer in layers})._asdict(),
            "channels": sum(len(layer.closed) for layer in layers),
            "closed": {layer.name: layer.closed.nonzero().flatten().tolist() for layer in layers}})


if __name__ == "__main__":
    main()
