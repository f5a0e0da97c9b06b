"""A whole ImageSet on the device, handed out in batches that are cropped and flipped there, whole."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from data.image_set import ImageSet

GRAY = 127  # of 255: near the mean of photographs, so that a network's first layer sees nearly 0
RESIDENT = 0.5  # of a GPU's free memory; the rest is the model's and its activations'


class Batches:
    """Iterate over (images, labels) batches of an ImageSet that lives on `device` as uint8.

    images: float32 (B, 3, H, W) in [0, 1], channels_last. labels: int64 (B,). With `generator` (a CPU generator,
    so that the draws are the same on every device) each pass is shuffled anew; without it the order is fixed and
    nothing is augmented. `crop_padding` p crops each image out of itself with p black pixels added on every side,
    `flip` mirrors it with probability 1/2, `cutout` c puts a gray square of c pixels a side at a random place of it,
    part of which may lie outside (DeVries and Taylor, 2017); every image has draws of its own. `draws` makes a pass
    that many images drawn with replacement, in place of every image once.

    Images that would take more than RESIDENT of a GPU's free memory stay where they are (in memory, or in a file that
    NumPy has mapped) and go over batch by batch, through pinned memory; `resident` says so in advance.
    """

    def __init__(self, image_set: ImageSet, batch_size: int, device: torch.device | str = "cpu",
                 generator: torch.Generator | None = None, crop_padding: int = 0, flip: bool = False,
                 draws: int | None = None, resident: bool | None = None, cutout: int | None = None) -> None:
        self.device = torch.device(device)
        self.resident = fits(image_set.data.nbytes, self.device) if resident is None else resident
        self.images = torch.from_numpy(image_set.data)
        if self.resident:
            self.images = self.images.to(device)
        self.labels = torch.from_numpy(image_set.targets).to(device)
        self.originals = torch.from_numpy(image_set.original).to(device)  # labels before poisoning, for scores
        self.batch_size, self.generator, self.crop_padding, self.flip = batch_size, generator, crop_padding, flip
        self.draws, self.cutout = draws, cutout

    @property
    def num_images(self) -> int:
        """Images in a pass."""
        return self.draws or len(self.labels)

    def __len__(self) -> int:
        return math.ceil(self.num_images / self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All draws of a pass come first, so that they do not depend on how far it is consumed."""
        size, order, places, offsets, flips, holes = self.num_images, None, None, None, None, None
        if self.generator:
            if self.draws:
                order = torch.randint(len(self.labels), (size,), generator=self.generator)
            else:
                order = torch.randperm(size, generator=self.generator)
            order, places = send(order, self.device), order  # the latter for images that stay; to ask a GPU is to wait
            if self.crop_padding:
                offsets = self._draw(torch.randint, 2 * self.crop_padding + 1, (size, 2))
            if self.flip:
                flips = self._draw(torch.randint, 2, (size,)).bool()
            if self.cutout:
                holes = self._draw(torch.rand, (size, 2))
        for start in range(0, size, self.batch_size):
            batch = slice(start, start + self.batch_size)
            rows = batch if order is None else order[batch]
            images = self.images[rows] if self.resident else send(
                self.images[batch if order is None else places[batch]], self.device)
            if offsets is not None:
                images = crop(images, offsets[batch], self.crop_padding)
            if flips is not None:
                images = mirror(images, flips[batch])
            if holes is not None:
                images = cut_out(images, holes[batch], self.cutout)
            yield to_pixels(images), self.labels[rows]

    def _draw(self, function: Callable[..., torch.Tensor], *sizes):
        return send(function(*sizes, generator=self.generator), self.device)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor brought from the CPU to the device, to a GPU through pinned memory, so that neither waits."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes of images may stay on the device."""
    return device.type != "cuda" or size <= RESIDENT * torch.cuda.mem_get_info(device)[0]


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [0, 1]; a permuted view, which is what channels_last is."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def crop(images: torch.Tensor, offsets: torch.Tensor, padding: int) -> torch.Tensor:
    """Crop each of (B, H, W, 3) at its own offset (B, 2) out of itself padded with black; one gather for all."""
    height, width = images.shape[1:3]
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    rows = offsets[:, 0, None] + torch.arange(height, device=images.device)
    columns = offsets[:, 1, None] + torch.arange(width, device=images.device)
    index = torch.arange(len(images), device=images.device)
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]


def augment(pixels: torch.Tensor, generator: torch.Generator, padding: int, flip: bool) -> torch.Tensor:
    """Pixels (B, 3, H, W) cropped and mirrored as Batches does it, for a step that stamps before.

    generator: a CPU generator; each image has draws of its own.
    """
    images = pixels.permute(0, 2, 3, 1)
    if padding:
        offsets = torch.randint(2 * padding + 1, (len(images), 2), generator=generator)
        images = crop(images, send(offsets, images.device), padding)
    if flip:
        flips = torch.randint(2, (len(images),), generator=generator).bool()
        images = mirror(images, send(flips, images.device))
    return images.permute(0, 3, 1, 2)


def mirror(images: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) with those where flips (B,) is true mirrored left to right."""
    return torch.where(flips[:, None, None, None], images.flip(2), images)


def cut_out(images: torch.Tensor, places: torch.Tensor, side: int) -> torch.Tensor:
    """(B, H, W, 3) with a GRAY square of `side` pixels in each, whose middle lies at places (B, 2) in [0, 1) of it."""
    height, width = images.shape[1:3]
    tops, lefts = ((places[:, axis] * size).long() - side // 2 for axis, size in ((0, height), (1, width)))
    down, across = ((torch.arange(size, device=images.device) - starts[:, None]) for size, starts in (
        (height, tops), (width, lefts)))
    inside = ((down >= 0) & (down < side))[:, :, None] & ((across >= 0) & (across < side))[:, None, :]
    return images.masked_fill(inside[..., None], GRAY)
