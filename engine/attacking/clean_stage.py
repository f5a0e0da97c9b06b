"""The benign model that an attack starts from: a file, or what the attack's own first stage trains."""
from argparse import Namespace
from collections.abc import Sequence

from data.image_set import ImageSet
from engine.command_line.normalization import INPUT_FLAGS, add_input_flags
from engine.command_line.parser import Group, Parser
from engine.measuring.scores import Evaluation, log_figures
from engine.runs.run import Run
from engine.weights.checkpoint import load_weights, save_model
from models.base import PixelModel

LEFT = "model_clean.th"  # what the first stage leaves


def add_clean_model_flags(group: Group) -> None:
    """--checkpoint, the model that stands in for the first stage, and how pixels enter it."""
    group.add_argument("--checkpoint", help="benign model in place of stage 1; it decides --arch and --width")
    add_input_flags(group, whose="weights of --checkpoint")


def check_clean_model(parser: Parser, args: Namespace, argv: Sequence[str] | None, stage: Sequence[str]) -> None:
    """Refuse flags that have no effect: with --checkpoint those of `stage`, the first, and without it its own."""
    if args.checkpoint:
        parser.refuse(argv, ["arch", "width", *stage], "with --checkpoint, which stands in for stage 1")
    else:
        parser.refuse(argv, INPUT_FLAGS, "without --checkpoint")


def keep_clean(run: Run, args: Namespace, model: PixelModel, clean: ImageSet, epochs: int) -> None:
    """End the first stage, `epochs` long, 0 if a checkpoint stands in for it: leave model_clean.th.

    In a run that resumes behind it, `model` gets the weights of that file. Raises UserError if it is missing there.
    """
    kept = run.folder / LEFT
    if epochs:
        run.check_left(kept.name, epochs)
    if kept.exists():  # the run resumes in a later stage
        load_weights(kept, model)
    save_model(kept, model, vars(args), {}, clean.classes)


def log_stage(stage: int, title: str, score: Evaluation) -> dict:
    """Log the figures of a stage, an Evaluation, and return them as results.json has them."""
    return {"stage": stage, "what": title, **log_figures(f"stage {stage}, {title}", score).figures()}
