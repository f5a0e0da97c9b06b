"""--recipe: how train_backdoor.py trains, by the homework or by a recipe of the suite; and the flags that it sets."""
import argparse
from collections.abc import Sequence

from engine.command_line.flags import add_smoothing_flag, integer
from engine.command_line.parser import Group, Parser

# The defaults of each recipe that is not the homework's. Both replace the homework's three rates by one cycle of the
# rate, which changes at every step, with Nesterov's momentum, and bfloat16 if the machine has instructions for it.
#
# fast: in so few epochs a network does not learn images that are shifted by up to 4 pixels, nor a corner trigger that
# is shifted with them.
# strong: by the homework's recipe a full-width network fits the training images and then stops learning. Smoothed
# labels and a square cut out of each image are meant against that; neither was tried alone (results/README.md).
RECIPES = {
    "fast": {"epochs": 12, "lr": 0.2, "crop_padding": 1},
    "strong": {"epochs": 40, "lr": 0.2, "cutout": 8, "label_smoothing": 0.1},
}


def add_recipe_flags(group: Group) -> None:
    """--recipe, --label-smoothing and --cutout; check_recipe must be called on the parsed flags.

    The group has --amp already. Its default depends on the recipe (engine.runs.machine), as its help then says.
    """
    amp, = (action for action in group._actions if action.dest == "amp")
    amp.help = f"{amp.help.removesuffix(')')}; with --recipe {' or '.join(RECIPES)} also on a CPU that supports it)"
    fast, strong = RECIPES["fast"], RECIPES["strong"]
    group.add_argument("--recipe", choices=("homework", *RECIPES), default="homework",
                       help=f"fast: {fast['epochs']} epochs in which the rate rises to {fast['lr']} and falls to 0, "
                            f"Nesterov's momentum, crops of {fast['crop_padding']} pixel, bfloat16 if the processor "
                            f"supports it; strong: the same in {strong['epochs']} epochs with the homework's crops, "
                            f"--cutout {strong['cutout']} and --label-smoothing {strong['label_smoothing']}, for the "
                            "highest accuracy at full width")
    add_smoothing_flag(group, 0.0)
    group.add_argument("--cutout", type=integer(0), default=0, metavar="PIXELS",
                       help="side of a gray square at a random place of each training image, which may cover a "
                            "trigger; 0 for none")


def check_recipe(parser: Parser, args: argparse.Namespace, argv: Sequence[str] | None) -> None:
    """Fill in the defaults of the recipe, and refuse flags that have no effect with it.

    What is off becomes None, so that a run is the same as one of before there was such a flag.
    """
    if is_one_cycle(args):
        parser.refuse(argv, ["milestones"], f"with --recipe {args.recipe}, which sets the rate itself")
        if not args.momentum:
            parser.error(f"--momentum: expected more than 0 with --recipe {args.recipe}, which uses Nesterov's "
                         "momentum")
        args.milestones = []
        for name in RECIPES[args.recipe].keys() - parser.given(argv):
            setattr(args, name, RECIPES[args.recipe][name])
    args.cutout, args.label_smoothing = args.cutout or None, args.label_smoothing or None


def is_one_cycle(args: argparse.Namespace) -> bool:
    """Whether the rate makes one cycle over the whole run, with Nesterov's momentum."""
    return args.recipe in RECIPES
