"""A test that does not fit into a GPU's memory continues with half as many images per batch."""
import logging

import torch

SMALLEST_BATCH = 32  # images; a network for which these do not fit is too large for the device
log = logging.getLogger("backdoor")


class HalvingForward:
    """Calls `model` on at most `size` images at a time; `size` is halved each time the memory runs out.

    Raises torch.OutOfMemoryError if SMALLEST_BATCH images do not fit either.
    """

    def __init__(self, model: torch.nn.Module):
        self.model, self.size = model, None  # None: whole batches

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The model's outputs (B, C) for images (B, ...), in newly allocated memory."""
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
            log.warning("a test of %d images at a time does not fit into the device's memory; continuing with %d", size,
                        self.size)
