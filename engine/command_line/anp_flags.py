"""The flags of Adversarial Neuron Pruning that its two scripts and their sweep share."""
import argparse

from engine.command_line.parser import Group, Parser, fraction, integer, not_negative, positive

FINEST = 1e-3  # step from one threshold to the next


def add_mask_flags(parser: Parser) -> Group:
    """How ANP optimizes its masks; returns the group. --anp-alpha is left out, since a sweep varies it."""
    group = parser.add_argument_group("mask")
    group.add_argument("--val-frac", type=fraction, default=0.01,
                       help="share of all training images to optimize on, taken from the defender's tenth")
    group.add_argument("--lr", type=positive, default=0.2, help="learning rate of the masks")
    group.add_argument("--nb-iter", type=integer(1), default=2000, help="number of mask steps")
    group.add_argument("--print-every", type=integer(1), default=250, help="steps from one log line to the next")
    group.add_argument("--batch-size", type=integer(1), default=128, help="images per step, drawn with replacement")
    group.add_argument("--anp-eps", type=not_negative, default=0.4, help="largest relative noise")
    group.add_argument("--anp-steps", type=integer(1), default=1, help="steps that search for the worst noise")
    group.add_argument("--project", action=argparse.BooleanOptionalAction, default=True,
                       help="keep the noise within eps; the authors' code does not, and allows up to 2 eps")
    return group


def add_pruning_flags(group: Group, or_max: str = "", or_step: str = "") -> None:
    """Which thresholds are swept and how one is chosen. or_max, or_step: the defaults of what else may be swept."""
    group.add_argument("--pruning-max", type=not_negative, help=f"end of the sweep (default: threshold 0.95{or_max})")
    group.add_argument("--pruning-step", type=positive, help=f"its step (default: 0.05{or_step})")
    group.add_argument("--max-drop", type=fraction, default=0.02,
                       help="largest drop of held-out accuracy that pruning may cause")


def check_thresholds(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse thresholds that no mask has, and a step too small to be one."""
    if (args.pruning_max or 0) > 1:
        parser.error(f"--pruning-max: expected a threshold in [0, 1], got {args.pruning_max}")
    if args.pruning_step is not None and args.pruning_step < FINEST:
        parser.error(f"--pruning-step: expected at least {FINEST}, got {args.pruning_step}")
