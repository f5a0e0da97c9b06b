"""What does not fit into a GPU's memory continues with half as many images at a time."""
import logging
from collections.abc import Callable

import torch

SMALLEST_BATCH = 32  # images; a network for which these do not fit is too large for the device
log = logging.getLogger("backdoor")


class HalvingForward:
    """Calls `model` on at most `size` images at a time; `size` is halved each time the memory runs out.

    model: what takes images (B, ...) and returns a tensor, whose rows are joined over the parts of a batch; it may be
    called again on images on which it has failed. Raises torch.OutOfMemoryError if SMALLEST_BATCH images do not fit
    either.
    """

    def __init__(self, model: Callable[[torch.Tensor], torch.Tensor]):
        self.model, self.size = model, None  # None: whole batches

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """What the model makes of images (B, ...), in newly allocated memory."""
        while True:
            try:
                # clone: the next batch overwrites the output of a compiled model's graph
                return torch.cat([self.model(part).clone() for part in images.split(self.size or len(images))])
            except torch.OutOfMemoryError:
                size = min(self.size or len(images), len(images))
                if size < 2 * SMALLEST_BATCH:
                    raise
                self.size = size // 2
            # Outside the except clause, so that the error's traceback no longer holds the activations.
            torch.cuda.empty_cache()
            log.warning("%d images at a time do not fit into the device's memory; continuing with %d", size,
                        self.size)
