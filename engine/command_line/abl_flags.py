"""The flags of Anti-Backdoor Learning that its script and its sweep share."""
import argparse
from collections.abc import Sequence

from engine.command_line.parser import Group, Parser, fraction, integer, not_negative, positive


def add_abl_flags(parser: Parser) -> Group:
    """ABL's stages 1 and 3. The length of stage 1 and the isolation rate are left out, since a sweep varies them."""
    group = parser.add_argument_group("isolation")
    group.add_argument("--gamma", type=not_negative, default=0.5, help="loss at which stage 1 holds the images")
    group.add_argument("--lga", choices=("sample", "batch"), default="batch",
                       help="whose loss is held at gamma: each image's (the paper's equation), or the batch's mean "
                            "(the authors' code)")
    group.add_argument("--flooding", action="store_true",
                       help="use flooding instead of local gradient ascent; the same update as --lga batch")
    unlearning = parser.add_argument_group("unlearning")
    unlearning.add_argument("--unlearn-epochs", type=integer(0), default=lambda args: 30 if args.even_steps else 5,
                            help="epochs of stage 3; 0 leaves out the isolated images without unlearning them "
                                 "(default: 5; with --even-steps 30)")
    unlearning.add_argument("--unlearn-lr", type=positive, default=5e-4, help="learning rate of stage 3")
    unlearning.add_argument("--even-steps", action="store_true", default=None,
                            help="climb in steps of one length and hold the batch norms' statistics, in place of the "
                                 "authors' SGD at --unlearn-lr in training mode")
    unlearning.add_argument("--unlearn-length", type=positive, default=2e-3, metavar="SHARE",
                            help="with --even-steps, how far the weights move in an epoch, as a share of their norm")
    unlearning.add_argument("--max-drop", type=fraction, default=0.05,
                            help="drop of accuracy on the defender's clean images at which unlearning stops")
    return group


def check_abl(parser: Parser, args: argparse.Namespace, argv: Sequence[str] | None) -> None:
    """Refuse the flags of ABL that would have no effect, and set them to None."""
    unused = {}
    if args.flooding:
        unused["with --flooding"] = ("lga",)
    if args.even_steps:
        unused["with --even-steps"] = ("unlearn_lr",)
    else:
        unused["without --even-steps"] = ("unlearn_length",)
    if not args.unlearn_epochs:
        unused["with --unlearn-epochs 0"] = ("unlearn_lr", "even_steps", "unlearn_length", "max_drop")
    for why, names in unused.items():
        parser.refuse(argv, names, why)
        for name in names:
            setattr(args, name, None)
