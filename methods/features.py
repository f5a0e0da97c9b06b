"""The penultimate features of a whole set of images."""
import torch

from common.memory import HalvingForward
from data.image_set import ImageSet
from engine.measuring.evaluation import check_outputs, evaluation_batches
from models.base import PixelModel
from models.folding import folded
from models.penultimate import penultimate


@torch.no_grad()
def features_of(model: PixelModel, images: ImageSet, device: torch.device | str) -> torch.Tensor:
    """What the last layer of `model` reads for every image of an ImageSet: float32 (N, D), on the device.

    The last stage's channels, averaged over places. Raises UserError if any is NaN.
    """
    quick = folded(model)
    forward = HalvingForward(lambda pixels: penultimate(quick, pixels)[0])
    return check_outputs(torch.cat([forward(pixels) for pixels, _ in evaluation_batches(images, device)]))
