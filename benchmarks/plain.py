"""What the benchmarks compare against and measure with: the image pipeline that users write, and a clock."""
import time

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms

AUGMENT = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]


class PlainImages(Dataset):
    """Images as torchvision's CIFAR10 hands them out: PIL, transformed one at a time.

    Without Normalize, which the model does for both sides: the plain one is spared that work.
    """

    def __init__(self, images, augment):
        self.images = images
        self.transform = transforms.Compose([*(AUGMENT if augment else []), transforms.ToTensor()])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images.data[index])), int(self.images.targets[index])


def clock(device):
    """Seconds, after the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(device, work):
    """How long `work()` takes."""
    start = clock(device)
    work()
    return clock(device) - start
