"""Batch normalization folded into the convolution before it: fewer passes over memory for a model that predicts."""
from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.noisy_batchnorm import NoisyBatchNorm2d

REMEMBERED = "_folded_pairs"  # attribute of a model that has been traced
log = logging.getLogger("backdoor")


class _Tracer(fx.Tracer):
    """Records which layer's output goes where, without running anyone's hooks, which expect numbers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, NoisyBatchNorm2d) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        return super().call_module(m, m.forward, args, kwargs)


def folded(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode that predicts the same (to float rounding) without its batch norms.

    A BatchNorm2d that takes the output of a Conv2d, which nothing else takes, is folded into it with its running
    statistics, a NoisyBatchNorm2d with its mask and, inside `perturbed`, its noise; anything else stays. A compiled
    model is returned as it is: its compiler fuses by itself, and would start over for a copy.
    """
    if model._compiled_call_impl is not None:
        return model.eval()
    pairs = conv_norm_pairs(model)
    model = copy.deepcopy(model).eval()
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        if norm.running_mean is None or is_watched(model, conv_name, norm_name):
            continue
        scale, shift = norm.scale_and_shift() if isinstance(norm, NoisyBatchNorm2d) else (norm.weight, norm.bias)
        conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, norm.running_mean, norm.running_var,
                                                      norm.eps, scale, shift)
        model.set_submodule(norm_name, nn.Identity())
    return model


def is_watched(model: nn.Module, first: str, second: str) -> bool:
    """Whether a hook could see or change what passes from the layer `first` to the layer `second`, or out of either.

    That of a module which holds both is called with what comes of both, folded or not.
    """
    one_of_both = _holders(first) ^ _holders(second)
    layers = [model.get_submodule(name) for name in one_of_both]
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)


def _holders(name: str) -> set[str]:
    """The layer `name` and every module that holds it, but for the model itself."""
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts) + 1)}


def conv_norm_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """[(convolution, batch norm)]: names of layers of which the second alone takes what the first gives, once a pass.

    By the order in which they run, found by tracing (torch.fx). The model remembers them until a layer of it is
    replaced, since it is folded before every test. [] for a model that cannot be traced, such as one that looks at its
    input's values: it then predicts unfolded.
    """
    layers = [(name, type(layer)) for name, layer in model.named_modules()]
    known = getattr(model, REMEMBERED, None)
    if known is None or known[0] != layers:
        known = (layers, trace_pairs(model))
        setattr(model, REMEMBERED, known)
    return known[1]


def trace_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """conv_norm_pairs by one symbolic pass, a few milliseconds."""
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # a forward may do anything with a symbolic value
        log.debug("batch norms are not folded, since the network cannot be traced: %s", error)
        return []
    layers = dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(id(layers[node.target]) for node in calls)
    pairs = [(node.args[0], node) for node in calls
             if isinstance(layers[node.target], nn.BatchNorm2d) and node.args and isinstance(node.args[0], fx.Node)]
    return [(conv.target, norm.target) for conv, norm in pairs
            if conv.op == "call_module" and type(layers[conv.target]) is nn.Conv2d and len(conv.users) == 1
            and times[id(layers[conv.target])] == times[id(layers[norm.target])] == 1]
