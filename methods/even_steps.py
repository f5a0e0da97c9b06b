"""Steps of one length, with the batch norms' statistics held: how ABL may unlearn images that a network is sure of.

Their gradient is nearly nothing at first and grows by orders of magnitude as they are unlearned, so that one learning
rate does nothing for many steps and then too much in one. And in training mode batches of triggered images alone shift
the batch norms' running statistics, which costs accuracy on clean images and leaves the backdoor as it is.
"""
import torch

from engine.learning.training import Step


def even_steps(model: torch.nn.Module, share: float) -> torch.optim.SGD:
    """An optimizer whose every step is `share` of the weights' norm long and goes along the gradient, over all weights.

    Where all gradients are 0 it stays.
    """
    weights = list(model.parameters())
    optimizer = torch.optim.SGD(weights, share)

    def set_length(*_):
        gradients = [weight.grad for weight in weights]
        size, steepness = (torch.stack(torch._foreach_norm(values)).norm() for values in (weights, gradients))
        torch._foreach_mul_(gradients, torch.where(steepness > 0, size / steepness, 0.0))
    optimizer.register_step_pre_hook(set_length)
    return optimizer


def with_statistics_held(step: Step) -> Step:
    """A step for train_epoch with the batch norms in eval mode: they use their running statistics, and keep them."""
    def held(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor):
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        return step(model, images, labels)
    return held
