"""Adversarial noise on neurons: the relative change of batch-norm scales and shifts that hurts most (ANP, eq. 3)."""
import torch

from models.noisy_batchnorm import perturbed


def start_noise(noises, epsilon, generator):
    """Set the noises, parameters (C,), to uniform random values in [-epsilon, epsilon] from a CPU generator."""
    for noise in noises:
        noise.data.copy_(torch.empty(noise.shape).uniform_(-epsilon, epsilon, generator=generator))


def ascend_noise(model, criterion, noises, noise_opt, images, labels, bound):
    """One step of the noises up the loss, by the sign of its gradient, then back into [-bound, bound].

    The step is `noise_opt`'s learning rate. Only the noises' gradients are computed.
    """
    with perturbed(model):
        gradients = torch.autograd.grad(criterion(model(images), labels), noises)
    for noise, gradient in zip(noises, gradients, strict=True):
        noise.grad = -gradient.sign()  # optimizers descend
    noise_opt.step()
    clip(noises, -bound, bound)


def clip(parameters, low, high):
    """Clamp parameters in place."""
    for parameter in parameters:
        parameter.data.clamp_(low, high)
