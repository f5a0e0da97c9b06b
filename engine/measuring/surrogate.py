"""Whether a surrogate, the attacker's own clean model, knows the images that it is to help with."""
import logging

import torch

from data.image_set import ImageSet
from engine.measuring.evaluation import evaluation_batches, score

log = logging.getLogger("backdoor")


def check_surrogate(path: str, model: torch.nn.Module, images: ImageSet, device: torch.device | str) -> None:
    """Log a warning if the model of the file `path` is right on no more of an ImageSet than guessing would be."""
    found = score(model, evaluation_batches(images, device)).accuracy
    if found.value <= 1 / images.num_classes:
        log.warning("%s: right on %d of %d training images, no more than by guessing; it was "
                    "trained too little, on other images, or with another normalization or order of the classes", path,
                    found.hits, found.n)
