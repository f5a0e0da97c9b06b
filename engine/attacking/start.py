"""A training that begins with the weights of a model instead of fresh ones, and may leave its features as they are."""
import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from data.image_set import ImageSet
from engine.command_line.normalization import INPUT_FLAGS, add_input_flags, input_of
from engine.command_line.parser import Group, Parser
from engine.learning.training import Step, step_of
from engine.measuring.surrogate import check_surrogate
from engine.weights.checkpoint import load_model, saved_image_size
from models import build_model
from models.base import PixelModel
from models.penultimate import penultimate

CHECKED = 1000  # images by which a given model is checked


def add_start_flags(group: Group) -> None:
    """--start-from and --freeze-features; check_start must be called on the parsed flags."""
    group.add_argument("--start-from", metavar="FILE.th",
                       help="fine-tune this model instead of training fresh weights; it decides --arch and --width")
    group.add_argument("--freeze-features", action="store_true",
                       help="with --start-from: train the last layer alone")
    add_input_flags(group, whose="weights of --start-from")


def check_start(parser: Parser, args: argparse.Namespace, argv: Sequence[str] | None) -> None:
    """Refuse flags that have no effect, and leave those open that the model decides."""
    if args.start_from:
        parser.refuse(argv, ["arch", "width"], "with --start-from, whose network it is")
        args.arch = args.width = None
    elif args.freeze_features:
        parser.error("--freeze-features: has no effect without --start-from")
    else:
        parser.refuse(argv, INPUT_FLAGS, "without --start-from")
        args.freeze_features = None
    if args.freeze_features:
        parser.refuse(argv, ["graph", "compile"], "with --freeze-features, whose steps are short")


def size_of_images(args: argparse.Namespace) -> int | None:
    """Pixels a side that the flags ask for: --image-size, or else the size that the given model was trained on."""
    return args.image_size or (saved_image_size(args.start_from) if args.start_from else None)


def fresh_model(args: argparse.Namespace, images: ImageSet, device: torch.device) -> PixelModel:
    """The network of --arch and --width with fresh weights, for the classes and the size of an ImageSet."""
    return build_model(args.arch, args.width, images.num_classes, image_size=images.image_size).to(device)


def first_model(path: str | None, args: argparse.Namespace, images: ImageSet, device: torch.device) -> PixelModel:
    """The network that a training begins with: the model in the file `path`, or for None a fresh_model.

    Logs a warning for a model that does not know the ImageSet. Raises UserError for a file that is of other classes, or
    no model.
    """
    if not path:
        return fresh_model(args, images, device)
    model = load_model(path, device, images.classes, input_of(args)).model
    model.take_size(images.image_size)
    check_surrogate(path, model, images.subset(slice(CHECKED)), device)
    return model


def step_for(args: argparse.Namespace) -> Step:
    """The step that the flags ask for."""
    objective = partial(F.cross_entropy, label_smoothing=args.label_smoothing or 0.0)
    return partial(head_step, objective=objective) if args.freeze_features else step_of(objective)


def head_step(model: PixelModel | Callable, images: torch.Tensor, labels: torch.Tensor,
              objective: Callable = F.cross_entropy) -> tuple[torch.Tensor, torch.Tensor]:
    """The step that trains the last layer alone: (loss, logits (B, C)). objective: (logits, labels) -> loss.

    The others are in eval mode, so that batch norm keeps its statistics, and get no gradient, so that SGD passes over
    them, weight decay included.
    """
    model.eval()
    with torch.no_grad():
        features, _ = penultimate(model, images)
    logits = model.head(features)
    return objective(logits, labels), logits
