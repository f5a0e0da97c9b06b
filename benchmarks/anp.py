"""Speed of ANP here against its straightforward form, alternating in one run.

    python -m benchmarks.anp --width 16

A mask iteration: all weights requiring gradients, NCHW, and a DataLoader with transforms on one image at a time,
against generate_mask.py's. A sweep of 20 thresholds: a state_dict copied and reloaded for every neuron pruned, and a
DataLoader, against prune_network.py's; once with the pruning alone and once with its tests on clean and triggered
images. Random images and masks: neither changes the work. Reads and writes nothing.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, RandomSampler

from benchmarks.plain import PlainImages, add_timing_flags, compare, heading, measured_device, random_images
from data.batches import Batches
from engine.command_line import flags
from engine.command_line.command import command
from engine.measuring.evaluation import evaluation_batches, score
from engine.measuring.scores import UNKNOWN, Evaluation
from generate_mask import make_masks_trainable, mask_train
from models import build_model
from models.noisy_batchnorm import NoisyBatchNorm2d, parameters_named, perturbed
from prune_network import evaluate_by_threshold, norm_layers

EPSILON, ALPHA = 0.4, 0.2


def plain_mask_iterations(model, mask_opt, noise_opt, loader, device):
    """ANP's loop as it is usually written: whole backward passes, gradients of every parameter."""
    masks, noises = parameters_named(model, "neuron_mask"), parameters_named(model, "neuron_noise")
    model.train()
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        for noise in noises:
            noise.data.uniform_(-EPSILON, EPSILON)
        noise_opt.zero_grad()
        with perturbed(model):
            F.cross_entropy(model(images), labels).backward()
        for noise in noises:
            noise.grad.sign_().neg_()
        noise_opt.step()
        mask_opt.zero_grad()
        with perturbed(model):
            robust = F.cross_entropy(model(images), labels)
        (ALPHA * F.cross_entropy(model(images), labels) + (1 - ALPHA) * robust).backward()
        mask_opt.step()
        for mask in masks:
            mask.data.clamp_(0, 1)


def plain_sweep(model, neurons, thresholds, test):
    """Prune neuron by neuron through the state_dict, and test after each threshold."""
    start = 0
    for threshold in thresholds:
        while start < len(neurons) and neurons[start][2] <= threshold:
            layer, index, _ = neurons[start]
            weights = model.state_dict()
            weights[f"{layer}.weight"][index] = 0
            model.load_state_dict(weights)
            start += 1
        test()


@torch.no_grad()
def plain_test(model, loader, device):
    model.eval()
    for images, labels in loader:
        F.cross_entropy(model(images.to(device)), labels.to(device)).item()


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_model_flags(parser)
    parser.add_argument("--batch-size", type=flags.integer(1), default=128, help="images of a mask iteration")
    parser.add_argument("--iterations", type=flags.integer(1), default=4, help="mask iterations in a round")
    parser.add_argument("--test-images", type=flags.integer(1), default=2000, help="clean, and as many triggered")
    add_timing_flags(parser, 5)
    return parser.parse_args(argv)


def compare_masks(args, device):
    images, count = random_images(500), args.iterations * args.batch_size
    plain = build_model(args.arch, args.width, 10, norm_layer=NoisyBatchNorm2d).to(
        device, memory_format=torch.contiguous_format)
    ours = build_model(args.arch, args.width, 10, norm_layer=NoisyBatchNorm2d).to(device)
    make_masks_trainable(ours)
    plain_masks, our_masks = (torch.optim.SGD(parameters_named(m, "neuron_mask"), 0.2, 0.9) for m in (plain, ours))
    plain_noise, our_noise = (torch.optim.SGD(parameters_named(m, "neuron_noise"), EPSILON) for m in (plain, ours))
    data = PlainImages(images, augment=True)
    loader = DataLoader(data, args.batch_size, sampler=RandomSampler(data, replacement=True, num_samples=count))
    batches = Batches(images, args.batch_size, device, torch.Generator(), 4, True, count)
    return compare(f"{args.iterations} mask iterations", args.rounds, device,
                   lambda: plain_mask_iterations(plain, plain_masks, plain_noise, loader, device),
                   lambda: mask_train(ours, F.cross_entropy, our_masks, our_noise, batches, EPSILON, 1, ALPHA))


def compare_sweeps(args, device):
    plain = build_model(args.arch, args.width, 10).to(device, memory_format=torch.contiguous_format)
    ours = build_model(args.arch, args.width, 10).to(device)
    rng, thresholds = np.random.default_rng(0), np.arange(0, 0.96, 0.05).tolist()
    neurons = [(name, i, float(rng.random())) for name, layer in norm_layers(ours).items()
               for i in range(layer.num_features)]
    ordered = sorted(neurons, key=lambda neuron: neuron[2])
    alone = compare("20 thresholds, pruning alone", args.rounds, device,
                    lambda: plain_sweep(plain, ordered, thresholds, lambda: None),
                    lambda: evaluate_by_threshold(ours, neurons, thresholds, lambda model: (None, None)))
    images = random_images(2 * args.test_images)
    loader = DataLoader(PlainImages(images, augment=False), 128)
    batches = evaluation_batches(images, device)
    tested = compare("20 thresholds with their tests", max(1, args.rounds // 2), device,
                     lambda: plain_sweep(plain, ordered, thresholds, lambda: plain_test(plain, loader, device)),
                     lambda: evaluate_by_threshold(ours, neurons, thresholds, lambda model: (
                         Evaluation(score(model, batches), UNKNOWN), UNKNOWN)))
    return [alone, tested]


@command
def main(argv=None):
    args = parse_args(argv)
    device = measured_device(args.device)
    print(heading(args.width, device))
    return [compare_masks(args, device), *compare_sweeps(args, device)]


if __name__ == "__main__":
    main()
