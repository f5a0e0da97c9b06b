"""A whole ImageSet on the device, handed out in batches that are cropped and flipped there, whole."""
import torch
import torch.nn.functional as F


class Batches:
    """Iterate over (images, labels) batches of an ImageSet that lives on `device` as uint8.

    images: float32 (B, 3, 32, 32) in [0, 1], channels_last. labels: int64 (B,). With `generator` (a CPU generator,
    so that the order is the same on every device) each pass is shuffled anew; without it the order is fixed. With
    `augment` each image is cropped out of its zero-padded self (`padding` pixels a side) and flipped by a coin, each
    with a draw of its own.
    """

    def __init__(self, image_set, batch_size, device="cpu", generator=None, augment=False, padding=4):
        self.images = torch.from_numpy(image_set.data).to(device)
        self.labels = torch.from_numpy(image_set.targets).to(device)
        self.originals = torch.from_numpy(image_set.original).to(device)  # labels before poisoning, for scores
        self.batch_size, self.generator, self.augment, self.padding = batch_size, generator, augment, padding

    @property
    def num_images(self):
        return len(self.labels)

    def __len__(self):
        return -(-self.num_images // self.batch_size)

    def __iter__(self):
        order = self._draw(torch.randperm, self.num_images) if self.generator else None
        offsets = flips = None
        if self.augment:
            offsets = self._draw(torch.randint, 2 * self.padding + 1, (self.num_images, 2))
            flips = self._draw(torch.randint, 2, (self.num_images,)).bool()
        for start in range(0, self.num_images, self.batch_size):
            batch = slice(start, start + self.batch_size)
            rows = batch if order is None else order[batch]
            images = self.images[rows]
            if self.augment:
                images = crop_and_flip(images, offsets[batch], flips[batch], self.padding)
            yield to_pixels(images), self.labels[rows]

    def _draw(self, function, *sizes):
        return function(*sizes, generator=self.generator).to(self.images.device)


def to_pixels(images):
    """uint8 (B, 32, 32, 3) to float32 (B, 3, 32, 32) in [0, 1]; a permuted view, which is what channels_last is."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def crop_and_flip(images, offsets, flips, padding):
    """Crop each of uint8 (B, H, W, 3) at its own offset (B, 2) in the padded image, then mirror where flips (B,).

    One gather for the whole batch: column indices run backwards where an image is flipped.
    """
    height, width = images.shape[1:3]
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    rows = offsets[:, :1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(len(images), width)
    columns = offsets[:, 1:] + torch.where(flips[:, None], width - 1 - columns, columns)
    index = torch.arange(len(images), device=images.device)
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
