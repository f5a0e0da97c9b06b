"""The flags that more than one script has, each declared once, with the checks that need no data."""
import argparse
from collections.abc import Callable

from data import sources
from engine.command_line.arch_flags import ModelFlag, architecture
from engine.command_line.inherit import (
    CROP_PADDING,
    NamedDataset,
    crop_of_model,
    dataset_of_model,
    flip_of_model,
    folder_of_model,
)
from engine.command_line.normalization import add_input_flags
from engine.command_line.parser import (  # noqa: F401 -- Parser, number and ratio are for the scripts
    Group,
    Parser,
    fraction,
    integer,
    isolation_rate,
    not_negative,
    number,
    positive,
    ratio,
    smoothing,
)
from engine.command_line.poison_flags import MADE_FLAGS, in_words
from models import DEFAULT, find_architecture, names

Folder = str | Callable[[argparse.Namespace], str]  # a default folder, or what finds it by the other flags


def add_data_flags(parser: Parser, note: str | None = None, of: str | None = None) -> None:
    """The images. note: what the help says of them all; with one there is no default in it. of: whose data set the
    default is, in words; by default the model's or the attack's input's, if the parser has such a flag already."""
    group = parser.add_argument_group("data", note)
    taken = {action.dest for action in parser._actions}
    if of is None:
        model = "the given model's, which config.json beside it names" if "checkpoint" in taken else None
        made = [f"--{name}".replace("_", "-") for name in MADE_FLAGS if name in taken]
        of = ", or ".join(filter(None, (model, f"that of what is given as {in_words(made)}" if made else None)))
    first = f"{of}, otherwise " if of else ""
    words = ["" if note else f" (default: {first}{usual})" for usual in (sources.DEFAULT, "data")]
    group.add_argument("--dataset", choices=sources.DATASETS, default=dataset_of_model, action=NamedDataset,
                       help=f"downloaded on first use, but for digits, which need no network{words[0]}")
    group.add_argument("--data-dir", default=folder_of_model,
                       help="folder where the data set is or is downloaded to, or an image folder with "
                            "train/<class>/* and test/<class>/* (a defense also takes <class>/*); not for digits"
                            f"{words[1]}")
    add_size_flag(group, usual_image_size)


def add_size_flag(group: Group, default: Callable[[argparse.Namespace], int | None] | None = None) -> None:
    group.add_argument("--image-size", type=integer(8, 1024), metavar="PIXELS", default=default,
                       help="pixels per side to which images are resized (default: the size on which the given "
                            "model was trained, otherwise that of --arch, 32 for most)")


def usual_image_size(args: argparse.Namespace) -> int | None:
    """Pixels a side that the network of --arch is made for; None for no such flag, and where 32 will do."""
    return find_architecture(args.arch).image_size if hasattr(args, "arch") else None


def add_run_flags(parser: Parser, default: Folder, resumable: bool = False, draws: bool = True) -> None:
    """The run's folder, seed and device. default: as for add_folder_flag. resumable: add --resume. draws: whether the
    script draws anything at random, and so takes --seed."""
    group = parser.add_argument_group("run")
    add_folder_flag(group, default, "folder for all files of this run ")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--overwrite", action="store_true", help="replace the run in that folder")
    if resumable:
        either.add_argument("--resume", action="store_true",
                            help="continue the run in that folder from its last saved epoch")
    if draws:
        group.add_argument("--seed", type=integer(0), default=0, help="of all that is drawn at random")
    add_device_flags(group)


def add_folder_flag(group: Group, default: Folder, what: str = "") -> None:
    """--output-dir. default: the default folder, or (parsed flags) -> it, whose docstring describes that folder."""
    said = "" if isinstance(default, str) else f"(default: {default.__doc__})"  # argparse itself says a plain one
    group.add_argument("--output-dir", default=default, help=f"{what}{said}".strip() or "folder for its files")


def add_device_flags(group: Group) -> None:
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument("--deterministic", action="store_true",
                       help="on a GPU, the same bits from the same seed, but slower; a CPU always does so")


def add_model_flags(parser: Parser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--arch", action=ModelFlag, type=architecture, metavar="NAME", default=DEFAULT,
                       help=f"network: {names()}")
    group.add_argument("--width", action=ModelFlag, type=integer(1), default=64,
                       help="channels of the first stage; 64 is the usual ResNet-18, 16 suits two CPU cores")


def add_augmentation_flags(parser: Parser, default: str = "") -> None:
    """--crop-padding and --flip. default: in words, for a script that fills both in itself; they are None till then."""
    has_model = any(action.dest == "checkpoint" for action in parser._actions)
    padding, flip = (f"as the model was trained, where its run says so, otherwise {usual}" if has_model else usual
                     for usual in (CROP_PADDING, "--flip"))
    if not default:
        parser.set_defaults(flip=flip_of_model, crop_padding=crop_of_model if has_model else CROP_PADDING)
    group = parser.add_argument_group("augmentation")
    group.add_argument("--crop-padding", type=integer(0, 32),
                       help=f"pixels of padding for random crops; 0 for none (default: {default or padding})")
    group.add_argument("--flip", action=argparse.BooleanOptionalAction,
                       help=f"mirror images at random; --no-flip suits {in_words(sources.NOT_MIRRORED)}, where a "
                            f"mirrored image is of another class or of none (default: {default or flip})")


SGD_FLAGS = ("epochs", "batch_size", "lr", "momentum", "weight_decay", "amp")


def add_sgd_flags(parser: Parser, epochs: int, lr: float) -> Group:
    """Epochs, batch size and SGD's settings; returns the group."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=integer(1), default=epochs, help="passes over the training images")
    group.add_argument("--batch-size", type=integer(1), default=128, help="images per step")
    group.add_argument("--lr", type=positive, default=lr, help="initial learning rate")
    group.add_argument("--momentum", type=fraction, default=0.9, help="momentum of SGD")
    group.add_argument("--weight-decay", type=not_negative, default=5e-4, help="weight decay of every parameter")
    group.add_argument("--amp", action=argparse.BooleanOptionalAction,
                       help="compute in bfloat16 (default: on a GPU that supports it, NVIDIA's from Ampere on)")
    return group


def add_training_flags(parser: Parser, epochs: int = 50) -> Group:
    """Training from scratch, with a learning rate that falls in steps; returns the group."""
    group = add_sgd_flags(parser, epochs, 0.1)
    group.add_argument("--milestones", type=integer(1), nargs="*", metavar="EPOCH",
                       help="epochs after which the learning rate is divided by ten "
                            "(default: 60 %% and 80 %% of the epochs, 30 and 40 of 50)")
    return group


def add_smoothing_flag(group: Group, default: float) -> None:
    """How far labels are smoothed; at 1 they would say nothing."""
    group.add_argument("--label-smoothing", type=smoothing, default=default, metavar="SHARE",
                       help="share of each label that is spread over all classes, below 1")


def add_compile_flag(group: Group) -> None:
    group.add_argument("--compile", action="store_true", help="torch.compile the model: slow start, faster steps")


def add_test_every_flag(group: Group, every: int = 1) -> None:
    """How often a training is tested, every `every` epochs by default."""
    group.add_argument("--test-every", type=integer(1), default=every, metavar="EPOCHS",
                       help="epochs from one test to the next, in bfloat16 if the training is; the last epoch of a "
                            "stage is always tested, in float32")


def add_loop_flags(group: Group) -> None:
    """How often a training is tested, and whether its steps' passes are CUDA graphs."""
    add_test_every_flag(group)
    group.add_argument("--graph", action=argparse.BooleanOptionalAction, default=False,
                       help="run a step's forward and its backward pass as a CUDA graph each, with fewer launches; off "
                            "by default, since it was seen with one network on one GPU alone (docs/gpu.md)")


def check_loop(parser: Parser, args: argparse.Namespace) -> None:
    if args.graph and getattr(args, "compile", False):
        parser.error("--graph: cannot be combined with --compile, which makes graphs of its own")


def usual_milestones(epochs: int) -> list[int]:
    """The homework's 30 and 40 of 50 epochs, in proportion."""
    return sorted({int(share * epochs) for share in (0.6, 0.8)} - {0, epochs})


def check_milestones(parser: Parser, args: argparse.Namespace, epochs: int | None = None) -> None:
    """Fill in the default milestones and refuse milestones that could never take effect. epochs: those of the longest
    stage that has them; None for --epochs."""
    if args.milestones is None:
        args.milestones = usual_milestones(args.epochs)
    if sorted(set(args.milestones)) != args.milestones:
        parser.error(f"--milestones: expected increasing epochs, got {' '.join(map(str, args.milestones))}")
    most = args.epochs if epochs is None else epochs
    if args.milestones and args.milestones[-1] >= most:
        which = f"--epochs {most}" if most == args.epochs else most
        parser.error(f"--milestones: expected epochs below {which}, got {args.milestones[-1]}")


CLASSES = {"metavar": "FILE.txt", "help": "class names in the model's label order, one a line (default: those in the "
                                          "checkpoint; where it has none, the images' in sorted order)"}


def add_suspect_flags(parser: Parser, default: str | None = None) -> None:
    """The model that a defense examines, and the trigger, which only its figures use.

    default: the default checkpoint in words, which the script fills in; None for the BadNets model.
    """
    group = parser.add_argument_group("model under suspicion")
    group.add_argument("--checkpoint", default=None if default else "output/badnets/model_last.th",
                       help="model_last.th of a run, or a known network's state_dict from anywhere (.th, .safetensors)"
                            + (f" (default: {default})" if default else ""))
    add_input_flags(group)
    group.add_argument("--trigger-info", metavar="FILE.th",
                       help="trigger with which ASR is measured (default: trigger_info.th beside the checkpoint; "
                            "without one ASR is not measured)")
    group.add_argument("--classes", **CLASSES)
