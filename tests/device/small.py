"""Small images and networks on the pretend GPU."""
import numpy as np
import torch

from data.batches import Batches
from data.image_set import ImageSet
from models import build_model


def random_images(count):
    """So many random images of 10 classes."""
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10,
                    tuple("0123456789"), "random")


def network(**options):
    """A network of width 2 for 10 classes, there."""
    return build_model("resnet18", 2, 10, **options).to("cuda")


def shuffled(count, batch_size, **options):
    """Batches of so many random images, there, in an order that is drawn."""
    return Batches(random_images(count), batch_size, "cuda", torch.Generator().manual_seed(0), **options)
