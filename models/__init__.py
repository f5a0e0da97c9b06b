"""Networks. `getattr(models, "resnet18")(num_classes=10)` builds one, as the homework does.

A network is one file beneath models/base.py's face and one row in ARCHITECTURES. The rows need no PyTorch, so that a
script's flags can be read without it: a network's file is imported when it is first built, or recognized.
"""
from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from models.base import PixelModel

DEFAULT = "resnet18"


WIDE = re.compile(r"wrn-?([1-9]\d)-([1-9]\d?)")  # a wide ResNet's depth and factor


class Architecture(NamedTuple):
    """A row: builder is "module:function", or the function itself; has_width: whether --width has a meaning for it.

    The builder takes num_classes, width (where it has one), norm_layer and, for PixelModel, image_size, mean and std.
    options: what else it takes, by which one function builds several networks. image_size: pixels a side that it is
    usually trained on; None for those of the data.
    """

    builder: str | Callable
    has_width: bool = True
    options: Mapping = {}
    image_size: int | None = None

    @property
    def function(self) -> Callable:
        """The function that builds the network, for all networks that it builds."""
        if callable(self.builder):
            return self.builder
        module, _, function = self.builder.partition(":")
        return getattr(import_module(module), function)

    @property
    def build(self) -> Callable:
        """The function that builds this network."""
        return partial(self.function, **self.options) if self.options else self.function


def wide_row(depth: int, factor: int) -> Architecture:
    """The row of WRN-depth-factor."""
    return Architecture("models.wide_resnet:WideResNet", has_width=False, options={"depth": depth, "factor": factor})


def torchvision_row(depth: int) -> Architecture:
    """The row of torchvision's ResNet of that depth."""
    return Architecture("models.torchvision_resnet:ResNet", options={"depth": depth}, image_size=224)


ARCHITECTURES = {
    "resnet18": Architecture("models.resnet:resnet18"),
    "preactresnet18": Architecture("models.preact_resnet:preactresnet18"),
    "wrn16-1": wide_row(16, 1),
    "vgg19_bn": Architecture("models.vgg:vgg19_bn"),
    "torchvision-resnet18": torchvision_row(18),
    "torchvision-resnet34": torchvision_row(34),
    "torchvision-resnet50": torchvision_row(50),
}


def names() -> str:
    """All networks in words."""
    return f"{', '.join(ARCHITECTURES)}, or wrn-D-K (a wide ResNet of depth D = 10, 16, 22, ... and factor K)"


def usual_name(name: str) -> str:
    """The name by which a network is known here: wrn40-2 for wrn-40-2, others as they are."""
    match = WIDE.fullmatch(name)
    return "wrn{}-{}".format(*match.groups()) if match else name


def find_architecture(name: str) -> Architecture:
    """The row called `name`: one of ARCHITECTURES, or a wide ResNet's, which has one for each depth and factor.

    Raises KeyError for any other name, and for a wide ResNet whose depth is not 10, 16, 22, ..., 94.
    """
    match = WIDE.fullmatch(name)
    depth, factor = map(int, match.groups()) if match else (0, 0)
    if depth % 6 == 4:
        return wide_row(depth, factor)
    return ARCHITECTURES[name]


def __getattr__(name: str) -> Callable:
    """The builder of the architecture `name`, as an attribute of this package."""
    if name in ARCHITECTURES:
        return ARCHITECTURES[name].build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_model(arch: str, width: int | None, num_classes: int, **options) -> PixelModel:
    """A network with fresh weights (from torch's global generator), convolutions in channels_last.

    width: channels of the first stage; has no effect where ARCHITECTURES says that the network has none. options: of
    the builder (norm_layer, image_size, mean, std). channels_last is what the CPU's and the GPU's convolution kernels
    want; it changes strides, not values. Raises KeyError for an architecture that find_architecture does not know.
    """
    import torch
    row = find_architecture(arch)
    if row.has_width:
        options["width"] = width
    return row.build(num_classes=num_classes, **options).to(memory_format=torch.channels_last)


def recognize(weights: Mapping[str, torch.Tensor]) -> dict | None:
    """The spec of a state_dict that does not name its network, by keys and shapes: {"arch", "width", "num_classes"}.

    Each architecture's file says in a function `recognize_weights` how its state_dict is told from others', and in the
    same spec what the field's weights of it take: "image_size", or "mean" and "std", where it is not what ours take.
    None where no file claims it. The weights need not be complete: what is missing or too much the caller checks.
    """
    modules = dict.fromkeys(sys.modules[row.function.__module__] for row in ARCHITECTURES.values())
    found = (module.recognize_weights(weights) for module in modules if hasattr(module, "recognize_weights"))
    return next((spec for spec in found if spec), None)
