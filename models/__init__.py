"""Networks. `getattr(models, "resnet18")(num_classes=10)` builds one, as the homework does."""
import torch

from models.resnet import resnet18

ARCHITECTURES = {"resnet18": resnet18}


def build_model(arch, width, num_classes, **options):
    """A network with fresh weights (from torch's global generator), convolutions in channels_last.

    channels_last is what the CPU's and the GPU's convolution kernels want; it changes strides, not values.
    Raises KeyError for an architecture that is not in ARCHITECTURES.
    """
    model = ARCHITECTURES[arch](num_classes=num_classes, width=width, **options)
    model.spec = {"arch": arch, "width": width, "num_classes": num_classes}  # what a checkpoint needs to rebuild it
    return model.to(memory_format=torch.channels_last)
