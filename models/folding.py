"""Batch normalization folded into the convolution before it: fewer passes over memory for a model that predicts."""
import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.noisy_batchnorm import NoisyBatchNorm2d


def folded(model):
    """A copy of `model` in eval mode that predicts the same (to float rounding) without its batch norms.

    Every BatchNorm2d registered right after a Conv2d is folded into it with its running statistics, a NoisyBatchNorm2d
    with its mask and, inside `perturbed`, its noise; anything else stays. A compiled model is returned as it is: its
    compiler fuses by itself, and would start over for a copy.
    """
    if model._compiled_call_impl is not None:
        return model.eval()
    model = copy.deepcopy(model).eval()
    for parent in list(model.modules()):
        for (_, conv), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                noisy = isinstance(norm, NoisyBatchNorm2d)
                scale, shift = norm.scale_and_shift() if noisy else (norm.weight, norm.bias)
                conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, norm.running_mean,
                                                              norm.running_var, norm.eps, scale, shift)
                setattr(parent, name, nn.Identity())
    return model
