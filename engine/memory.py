"""A test that does not fit into a GPU's memory goes on with half as many images at a time."""
import logging

import torch

SMALLEST_BATCH = 32  # images; below it a network that does not fit is too large for the device
log = logging.getLogger("backdoor")


class HalvingForward:
    """`model` called on at most `size` images at a time; `size` is halved each time that the memory runs out.

    Raises torch.OutOfMemoryError once SMALLEST_BATCH images do not fit either.
    """

    def __init__(self, model):
        self.model, self.size = model, None  # None: batches as they come

    def __call__(self, images):
        """The model's outputs (B, C) for images (B, ...), in memory of their own."""
        while True:
            try:
                # clone: the next batch writes into what a compiled model's graph has returned
                return torch.cat([self.model(part).clone() for part in images.split(self.size or len(images))])
            except torch.OutOfMemoryError:
                size = min(self.size or len(images), len(images))
                if size < 2 * SMALLEST_BATCH:
                    raise
                self.size = size // 2
            # Only here, outside the except clause, has the error let go of the activations that its traceback held.
            torch.cuda.empty_cache()
            log.warning("the device's memory does not hold a test of %d images at a time; it goes on with %d", size,
                        self.size)
