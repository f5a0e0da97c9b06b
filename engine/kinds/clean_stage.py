"""The benign model that an attack starts from: a file, or what the attack's own first stage trains."""
import logging
from argparse import Namespace

import torch

from common.files import hash_file
from data.image_set import ImageSet
from engine.kinds.start import fresh_model
from engine.measuring.evaluation import Evaluation
from engine.runs.run import Run
from engine.weights.checkpoint import load_model, load_weights, save_model
from models.base import PixelModel

LEFT = "model_clean.th"  # what the first stage leaves
log = logging.getLogger("backdoor")


def first_model(args: Namespace, images: ImageSet, device: torch.device) -> PixelModel:
    """The network that an attack starts with: the model in --checkpoint, or fresh weights for the first stage."""
    if args.checkpoint:
        return load_model(args.checkpoint, device, images.classes).model
    return fresh_model(args, images, device)


def inputs_with(images: ImageSet, checkpoint: str | None) -> str:
    """A fingerprint of what an attack works on: its images, and a benign model where one is given."""
    return images.fingerprint() + (hash_file(checkpoint) if checkpoint else "")


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
    log.info("stage %d, %s: ASR %.4f, ACC %.4f", stage, title, score.triggered.accuracy.value,
             score.clean.accuracy.value)
    return {"stage": stage, "what": title, **score.figures()}
