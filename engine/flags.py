"""Every flag that more than one script has, declared once, with the checks that need no data."""
import argparse
from collections.abc import Callable, Collection, Sequence

from common.errors import UserError
from data.datasets import DATASETS
from data.triggers import ATTACKS, Flag
from engine.parser import (  # noqa: F401 -- Parser, number and ratio are for the scripts
    Parser,
    fraction,
    integer,
    isolation_rate,
    not_negative,
    number,
    positive,
    ratio,
)
from models import ARCHITECTURES, DEFAULT


def add_data_flags(parser):
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", choices=DATASETS, default="cifar10",
                       help="cifar10 is downloaded on first use; digits needs no network")
    group.add_argument("--data-dir", default="data",
                       help="where CIFAR-10 lies or is downloaded to, or an image folder with train/<class>/* and "
                            "test/<class>/* (for a defense <class>/* will do), not for digits")
    group.add_argument("--image-size", type=integer(8, 1024), metavar="PIXELS",
                       help="pixels a side that images are resized to (default: those that the given model was "
                            "trained on, otherwise 32)")


def add_run_flags(parser: Parser, default: Callable[[argparse.Namespace], str], resumable: bool = False) -> None:
    """Where a run lies, its seed and its device. default: as for add_folder_flag. resumable: with --resume."""
    group = parser.add_argument_group("run")
    add_folder_flag(group, default, "folder for everything that this run leaves ")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--overwrite", action="store_true", help="replace the run that lies there")
    if resumable:
        either.add_argument("--resume", action="store_true", help="go on from the last saved epoch of the run there")
    group.add_argument("--seed", type=integer(0), default=0, help="of poisoned indices, initial weights and batches")
    add_device_flags(group)


def add_folder_flag(group, default: Callable[[argparse.Namespace], str], what: str = "") -> None:
    """--output-dir. default: (parsed flags) -> the usual folder; its docstring is that folder in words."""
    group.add_argument("--output-dir", default=default, help=f"{what}(default: {default.__doc__})")


def add_device_flags(group):
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument("--deterministic", action="store_true",
                       help="on a GPU, the same bits from the same seed, more slowly; a CPU gives them anyway")


class ModelFlag(argparse.Action):
    """Store --arch or --width; an error where both are given and that network has no width."""

    def __call__(self, parser, namespace, value, option_string=None):
        setattr(namespace, self.dest, value)
        if ARCHITECTURES[namespace.arch].has_width:
            return
        if namespace.width not in (None, parser.get_default("width")) or self.dest == "width":
            raise argparse.ArgumentError(self, f"{namespace.arch} has one size, so --width has no effect")
        namespace.width = None


def add_model_flags(parser):
    group = parser.add_argument_group("model")
    group.add_argument("--arch", action=ModelFlag, choices=ARCHITECTURES, default=DEFAULT, help="network")
    group.add_argument("--width", action=ModelFlag, type=integer(1), default=64,
                       help="channels of the first stage; 64 is the usual ResNet-18, 16 suits two CPU cores")


def add_augmentation_flags(parser):
    group = parser.add_argument_group("augmentation")
    group.add_argument("--crop-padding", type=integer(0, 32), default=4,
                       help="pixels of padding to crop at random from; 0 for none")
    group.add_argument("--flip", action=argparse.BooleanOptionalAction, default=True, help="mirror by a coin")


SGD_FLAGS = ("epochs", "batch_size", "lr", "momentum", "weight_decay", "amp")


def add_sgd_flags(parser, epochs, lr):
    """How long and how fast; returns the group."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=integer(1), default=epochs, help="passes over the training images")
    group.add_argument("--batch-size", type=integer(1), default=128, help="images a step")
    group.add_argument("--lr", type=positive, default=lr, help="learning rate of SGD")
    group.add_argument("--momentum", type=fraction, default=0.9, help="of SGD")
    group.add_argument("--weight-decay", type=not_negative, default=5e-4, help="of SGD, on every parameter")
    group.add_argument("--amp", action=argparse.BooleanOptionalAction,
                       help="bfloat16 arithmetic (default: on a GPU that has it, which NVIDIA's have from Ampere on)")
    return group


def add_training_flags(parser, epochs=50):
    """Training from scratch, with steps of the learning rate; returns the group."""
    group = add_sgd_flags(parser, epochs, 0.1)
    group.add_argument("--milestones", type=integer(1), nargs="*", metavar="EPOCH",
                       help="epochs after which the learning rate falls to a tenth "
                            "(default: 60 %% and 80 %% of the epochs, 30 and 40 of 50)")
    return group


# What --recipe fast has in place of the homework's 50 epochs at three rates: one cycle of the rate, up and down by the
# step, with Nesterov's momentum, and bfloat16 where the machine multiplies in it. In so few epochs a network does not
# get to fit images that are shifted by up to 4 pixels, nor a trigger in the corner that is shifted with them.
FAST = {"epochs": 12, "lr": 0.2, "crop_padding": 1}


def add_recipe_flag(group):
    group.add_argument("--recipe", choices=("homework", "fast"), default="homework",
                       help=f"fast: {FAST['epochs']} epochs in which the rate rises to {FAST['lr']} and falls to 0, "
                            f"Nesterov's momentum, crops of {FAST['crop_padding']} pixel, bfloat16 where the processor "
                            "has it")


def check_recipe(parser, args, argv):
    """Fill in what --recipe fast has in place of the usual defaults, and refuse what it leaves without meaning."""
    if args.recipe == "fast":
        parser.refuse(argv, ["milestones"], "with --recipe fast, whose rate rises and falls by itself")
        if not args.momentum:
            parser.error("--momentum: expected more than 0 with --recipe fast, whose momentum is Nesterov's")
        args.milestones = []
        for name in FAST.keys() - parser.given(argv):
            setattr(args, name, FAST[name])


def add_compile_flag(group):
    group.add_argument("--compile", action="store_true", help="torch.compile the model: slow start, faster steps")


def add_loop_flags(group):
    """How a training goes from epoch to epoch and from step to step."""
    group.add_argument("--test-every", type=integer(1), default=1, metavar="EPOCHS",
                       help="epochs from one test to the next, in bfloat16 if the training is; a stage's last is "
                            "always tested, in float32")
    group.add_argument("--graph", action=argparse.BooleanOptionalAction, default=False,
                       help="the step as a CUDA graph, fewer launches; off by default until graphed steps have been "
                            "seen equal to plain ones on a card")


def check_loop(parser, args):
    if args.graph and getattr(args, "compile", False):
        parser.error("--graph: not together with --compile, which makes graphs of its own")


def usual_milestones(epochs):
    """The homework's 30 and 40 of 50, in proportion."""
    return sorted({int(share * epochs) for share in (0.6, 0.8)} - {0, epochs})


def check_milestones(parser, args):
    """Fill in the default milestones and refuse those that could never take effect."""
    if args.milestones is None:
        args.milestones = usual_milestones(args.epochs)
    if sorted(set(args.milestones)) != args.milestones:
        parser.error(f"--milestones: expected rising epochs, got {' '.join(map(str, args.milestones))}")
    if args.milestones and args.milestones[-1] >= args.epochs:
        parser.error(f"--milestones: expected epochs below --epochs {args.epochs}, got {args.milestones[-1]}")


def check_target(target, classes):
    """UserError unless `target` is the number of one of `classes`, names in label order."""
    if target >= len(classes):
        raise UserError(f"--poison-target: expected one of the classes 0 ({classes[0]}) to {len(classes) - 1} "
                        f"({classes[-1]}), got {target}")


def add_trigger_flags(parser: Parser):
    """The target and the pattern; returns the group."""
    group = parser.add_argument_group("trigger")
    group.add_argument("--poison-target", type=integer(0), default=0,
                       help="number of the class that the attacker wants; classes are numbered from 0 in sorted order")
    own = "".join(f"{attack.alpha:g} for {name}, " for name, attack in ATTACKS.items() if attack.alpha != 1)
    group.add_argument("--trigger-alpha", type=fraction,
                       help=f"opacity of the trigger (default: {own}1 for the others and for --trigger-image)")
    group.add_argument("--trigger-image", metavar="FILE.png",
                       help="RGBA picture of the images' size (32x32) in place of the attack's own pattern; its alpha "
                            "channel is mask times opacity")
    return group


def add_poison_flags(parser: Parser, rate: bool = True, types: Collection[str] = tuple(ATTACKS)) -> None:
    """The attack and what it takes.

    rate: whether --poison-rate is among them; a sweep over it has its own. types: the attacks to choose from.
    """
    group = add_trigger_flags(parser)
    group.add_argument("--poison-type", choices=types, default="badnets", help="attack")
    if rate:
        group.add_argument("--poison-rate", type=fraction, help=rate_help(types))
    for name, users in own_flags().items():
        used = [attack for attack in users if attack in types]
        if used:
            add_own_flag(group, name, used, ATTACKS[used[0]].flags[name])
        else:
            parser.set_defaults(**{name: None})


def add_own_flag(group, name: str, attacks: Collection[str], flag: Flag) -> None:
    """A flag of a few attacks' own. Its default is filled in by check_poison, since others do not take it."""
    choices = [attack for attack, row in ATTACKS.items() if row.pattern] if flag.is_attack else None
    default = "" if flag.default is None else f" (default: {flag.default})"
    group.add_argument(f"--{name.replace('_', '-')}", type=flag.type, choices=choices, metavar=flag.metavar,
                       help=f"for {in_words(attacks)}: {flag.help}{default}")


def own_flags() -> dict[str, list[str]]:
    """{flag: the attacks that it is for} of the flags that rows of ATTACKS declare."""
    found = {}
    for attack, row in ATTACKS.items():
        for name in row.flags:
            found.setdefault(name, []).append(attack)
    return found


def rate_help(types: Collection[str]) -> str:
    """The help of --poison-rate: the share of what it is, for which attacks, and their defaults."""
    rates = {name: rate for name, rate in POISON_DEFAULTS["poison_rate"].items() if name in types}
    pools = {}
    for name in rates:
        pools.setdefault(ATTACKS[name].rate_of, []).append(name)
    shares = "; ".join(f"for {in_words(names)}: share of {pool} to poison" for pool, names in pools.items())
    usual = next(iter(rates.values()))
    others = "".join(f", for {name} {rate:g}" for name, rate in rates.items() if rate != usual)
    return f"{shares} (default: {usual:g}{others})"


def in_words(names: Collection[str]) -> str:
    """a, b and c."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


# {flag: {attack that uses it: its default there}}; the flags mean nothing for the other attacks.
POISON_DEFAULTS = {
    "poison_rate": {name: attack.rate for name, attack in ATTACKS.items() if attack.rate is not None},
    **{flag: {name: ATTACKS[name].flags[flag].default for name in names} for flag, names in own_flags().items()},
    **{flag: {name: None for name, attack in ATTACKS.items() if attack.takes_pattern}
       for flag in ("trigger_alpha", "trigger_image")},
}
POISON_FLAGS = ("poison_type", "poison_target", *POISON_DEFAULTS)
CLASSES = {"metavar": "FILE.txt", "help": "class names in the model's label order, one a line (default: those in the "
                                          "checkpoint; where it has none, the images' in sorted order)"}


def check_poison(parser: Parser, args: argparse.Namespace) -> None:
    """Fill in the defaults of what the attack uses, and refuse flags that would change nothing."""
    for name, default in POISON_DEFAULTS.items():
        if name in vars(args) and getattr(args, name) is None:
            setattr(args, name, default.get(args.poison_type))
        elif name in vars(args) and args.poison_type not in default:
            parser.error(f"--{name.replace('_', '-')}: means nothing for --poison-type {args.poison_type}, only for "
                         f"{', '.join(default)}")


def add_suspect_flags(parser, default=None):
    """What a defense looks at: a model, and, for its figures alone, the trigger.

    `default` is the default checkpoint in words, which the script fills in; None is BadNets' own.
    """
    group = parser.add_argument_group("model under suspicion")
    group.add_argument("--checkpoint", default=None if default else "output/badnets/model_last.th",
                       help="model_last.th of a run, or a CIFAR ResNet-18 state_dict from anywhere (.th, .safetensors)"
                            + (f" (default: {default})" if default else ""))
    group.add_argument("--trigger-info", metavar="FILE.th",
                       help="trigger to measure ASR with (default: trigger_info.th beside the checkpoint; without one "
                            "ASR is left out)")
    group.add_argument("--classes", **CLASSES)


def add_mask_flags(parser):
    """How ANP's masks are optimized; returns the group. --anp-alpha, which a sweep goes over, is not among them."""
    group = parser.add_argument_group("mask")
    group.add_argument("--val-frac", type=fraction, default=0.01,
                       help="share of all training images to optimize on, out of the defender's tenth")
    group.add_argument("--lr", type=positive, default=0.2, help="learning rate of the masks")
    group.add_argument("--nb-iter", type=integer(1), default=2000, help="mask steps")
    group.add_argument("--print-every", type=integer(1), default=250, help="steps from one log line to the next")
    group.add_argument("--batch-size", type=integer(1), default=128, help="images a step, with replacement")
    group.add_argument("--anp-eps", type=not_negative, default=0.4, help="largest relative noise")
    group.add_argument("--anp-steps", type=integer(1), default=1, help="steps to the worst noise")
    group.add_argument("--project", action=argparse.BooleanOptionalAction, default=True,
                       help="keep the noise within eps; the authors' code does not, and reaches 2 eps")
    return group


def add_abl_flags(parser):
    """ABL's stages 1 and 3. How long stage 1 lasts and how much it isolates, which a sweep goes over, are not here."""
    group = parser.add_argument_group("isolation")
    group.add_argument("--gamma", type=not_negative, default=0.5, help="loss that stage 1 keeps to")
    group.add_argument("--lga", choices=("sample", "batch"), default="batch",
                       help="whose loss is held at gamma: each image's (the paper's equation), or the batch's mean "
                            "(the authors' code)")
    group.add_argument("--flooding", action="store_true",
                       help="flooding in place of local gradient ascent; the same update as --lga batch")
    unlearning = parser.add_argument_group("unlearning")
    unlearning.add_argument("--unlearn-epochs", type=integer(0), default=5,
                            help="epochs of stage 3; 0 only leaves the isolated images out")
    unlearning.add_argument("--unlearn-lr", type=positive, default=5e-4, help="its learning rate")
    unlearning.add_argument("--max-drop", type=fraction, default=0.05,
                            help="loss of accuracy on the defender's clean images at which unlearning stops")
    return group


def check_abl(parser: Parser, args: argparse.Namespace, argv: Sequence[str] | None) -> None:
    """Refuse the flags of ABL that would change nothing, and set them to None."""
    unused = {}
    if args.flooding:
        unused["with --flooding"] = ("lga",)
    if not args.unlearn_epochs:
        unused["with --unlearn-epochs 0"] = ("unlearn_lr", "max_drop")
    for why, names in unused.items():
        parser.refuse(argv, names, why)
        for name in names:
            setattr(args, name, None)
