"""Networks. `getattr(models, "resnet18")(num_classes=10)` builds one, as the homework does.

A network is one file beneath models/base.py's face and one row in ARCHITECTURES. The rows need no PyTorch, so that a
script's flags can be read without it: a network's file is imported when it is first built, or recognized.
"""
from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from models.base import PixelModel

DEFAULT = "resnet18"


class Architecture(NamedTuple):
    """A row: builder is "module:function", or the function itself; has_width: whether --width has a meaning for it.

    The builder takes num_classes, width (where it has one), norm_layer and, for PixelModel, image_size, mean and std.
    """

    builder: str | Callable
    has_width: bool = True

    @property
    def build(self) -> Callable:
        """The function that builds the network."""
        if callable(self.builder):
            return self.builder
        module, _, function = self.builder.partition(":")
        return getattr(import_module(module), function)


ARCHITECTURES = {
    "resnet18": Architecture("models.resnet:resnet18"),
}


def __getattr__(name: str) -> Callable:
    """The builder of the architecture `name`, as an attribute of this package."""
    if name in ARCHITECTURES:
        return ARCHITECTURES[name].build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_model(arch: str, width: int | None, num_classes: int, **options) -> PixelModel:
    """A network with fresh weights (from torch's global generator), convolutions in channels_last.

    width: channels of the first stage; has no effect where ARCHITECTURES says that the network has none. options: of
    the builder (norm_layer, image_size, mean, std). channels_last is what the CPU's and the GPU's convolution kernels
    want; it changes strides, not values. Raises KeyError for an architecture that is not in ARCHITECTURES.
    """
    import torch
    row = ARCHITECTURES[arch]
    if row.has_width:
        options["width"] = width
    return row.build(num_classes=num_classes, **options).to(memory_format=torch.channels_last)


def recognize(weights: Mapping[str, torch.Tensor]) -> dict | None:
    """{"arch", "width", "num_classes"} of a state_dict that does not name its network, by keys and shapes.

    Each architecture's file says in a function `recognize_weights` how its state_dict is told from others'. None where
    no file claims it. The weights need not be complete: what is missing or too much is the caller's to check.
    """
    modules = dict.fromkeys(sys.modules[row.build.__module__] for row in ARCHITECTURES.values())
    found = (module.recognize_weights(weights) for module in modules if hasattr(module, "recognize_weights"))
    return next((spec for spec in found if spec), None)
