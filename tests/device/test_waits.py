"""How often each loop makes a GPU wait: while the host waits for a number, the device runs dry.

Bounds are for a pass, a test or a step, whatever the number of batches; the width makes no difference.
"""
import functools

import pytest
import torch
import torch.nn.functional as F
from device.small import network, random_images, shuffled

from attacks import dfst, issba_encoder
from defenses import abl, i_bau
from defenses.strip import Strip
from engine.learning.training import sgd, step_of, train_epoch
from engine.measuring.evaluation import EVALUATION_BATCH, EvalSets, evaluate, frozen
from generate_clb_attack import attack_pgd
from generate_mask import make_masks_trainable, mask_train, repeat_passes
from methods.detox import Injectors
from methods.margins import LOOK_EVERY, climb
from methods.trigger_search import reverse_triggers
from models.noisy_batchnorm import NoisyBatchNorm2d, parameters_named
from models.steganography import Decoder, Encoder

TRAINING = 3  # whether losses are finite, hits, loss
TEST = 3  # whether outputs are numbers; the figures of each of two sets
MASKING = 3  # of a pass of ANP: whether losses are finite, loss, hits
PERTURBING = 5  # of a start of PGD: the random start, and where the loss is larger
ENCODING = 2  # whether losses are finite, losses
UNLEARNING = 3  # of a pass of I-BAU: whether losses are finite, hits, loss
LOOKING = 6  # at the classes that climb: whether outputs are numbers; which leave, which stay; labels, margins, steps
STRIP_SET = 5  # images, overlays and draws brought there; whether entropies are numbers, entropies


class Flags:
    lr, momentum, weight_decay = 0.1, 0.9, 5e-4


def epoch_waits(counts, steps, amp=False, objective=F.cross_entropy, **options):
    """How often an epoch of so many steps waits."""
    model, batches = network(), shuffled(2 * steps, 2, crop_padding=4, flip=True, **options)
    return counts.waits_in(lambda: train_epoch(model, batches, sgd(model, Flags), amp, step_of(objective))).total()


@pytest.mark.parametrize("amp", [True, False], ids=["bfloat16", "float32"])
def test_an_epoch_waits_at_its_end_alone(amp, counts):
    assert [epoch_waits(counts, steps, amp) for steps in (8, 16)] == [TRAINING, TRAINING]


@pytest.mark.parametrize("name, options", [
    ("local_gradient_ascent", {"gamma": 0.5, "over": "batch"}),
    ("local_gradient_ascent", {"gamma": 0.5, "over": "sample"}),
    ("flooding", {"level": 0.5}), ("unlearning_loss", {})], ids=["batch", "sample", "flooding", "unlearning"])
def test_an_epoch_of_abl_waits_at_its_end_alone(name, options, counts):
    objective = functools.partial(getattr(abl, name), **options)
    assert [epoch_waits(counts, steps, True, objective) for steps in (8, 16)] == [TRAINING, TRAINING]


def test_an_epoch_of_streamed_images_waits_at_its_end_alone(counts):
    assert [epoch_waits(counts, steps, resident=False) for steps in (4, 8)] == [TRAINING, TRAINING]


def test_a_loss_looked_at_in_each_step_would_be_found(counts):
    def nosy(logits, labels):
        loss = F.cross_entropy(logits, labels)
        return loss if loss.item() >= 0 else None
    assert epoch_waits(counts, 4, objective=nosy) == TRAINING + 4


def test_a_test_waits_equally_often_for_any_number_of_batches(counts, monkeypatch):
    model, images = network(), random_images(24)
    found = []
    for size in (8, 24):
        monkeypatch.setitem(EVALUATION_BATCH, "cuda", size)
        test = EvalSets.on(torch.device("cuda"), images, images)
        found.append(counts.waits_in(lambda test=test: evaluate(model, test)).total())
    assert found == [TEST, TEST]


def test_anp_waits_at_most_once_a_step(counts):
    model = network(norm_layer=NoisyBatchNorm2d)
    make_masks_trainable(model)
    mask_opt = torch.optim.SGD(parameters_named(model, "neuron_mask"), 0.2, momentum=0.9)
    noise_opt = torch.optim.SGD(parameters_named(model, "neuron_noise"), 0.4)
    batches = shuffled(8, 2, draws=2)

    def optimize(steps):
        mask_train(model, F.cross_entropy, mask_opt, noise_opt, repeat_passes(batches, steps), 0.4, 1, 0.2, True,
                   batches.generator)
    few, many = (counts.waits_in(lambda steps=steps: optimize(steps)).total() for steps in (2, 5))
    assert many - few <= 3 and few <= MASKING + 2


@pytest.mark.parametrize("freeze_fooled, bound", [(True, 1), (False, 0)])
def test_pgd_waits_at_most_once_an_iteration(freeze_fooled, bound, counts):
    model, (pixels, _) = network().eval(), next(iter(shuffled(8, 8)))
    with torch.no_grad():  # images of the classes that they are given: none is fooled, and all go on to the end
        labels = model(pixels).argmax(1)

    def perturb(iterations):
        attack_pgd(model, pixels, labels, 16 / 255, 1e-9, iterations, 0, freeze_fooled, torch.Generator())
    few, many = (counts.waits_in(lambda steps=steps: perturb(steps)).total() for steps in (3, 6))
    assert few <= many <= few + 3 * bound and few <= PERTURBING + 3 * bound


def test_neural_cleanse_waits_at_most_once_a_step(counts):
    model, batches = network(), shuffled(4, 2)

    def search(budget):
        reverse_triggers(model, batches, 2, range(10), budget, generator=torch.Generator().manual_seed(0))
    few, many = (counts.waits_in(lambda steps=steps: search(steps)).total() for steps in (2, 4))
    assert many - few <= 2


def test_strip_waits_equally_often_for_sets_of_any_size(counts, monkeypatch):
    monkeypatch.setitem(EVALUATION_BATCH, "cuda", 20)
    detector = Strip(network(), random_images(20).data, 5, "sum-clip", 0, torch.device("cuda"))
    found = [counts.waits_in(lambda n=n: detector.entropies(random_images(n).data)).total() for n in (4, 12)]
    assert found == [STRIP_SET, STRIP_SET]


def test_an_epoch_of_the_encoder_waits_at_its_end_alone(counts):
    encoder, decoder = (net(4, 2).to("cuda", memory_format=torch.channels_last) for net in (Encoder, Decoder))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)

    def train(steps):
        batches = shuffled(2 * steps, 2, crop_padding=4, flip=True)
        with frozen(network()) as classifier:
            return counts.waits_in(lambda: issba_encoder.train_epoch(
                encoder, decoder, classifier, batches, optimizer, 1.0, (0.5, 2, 0.05), batches.generator)).total()
    assert [train(steps) for steps in (3, 6)] == [ENCODING, ENCODING]


def test_an_epoch_of_dfst_with_painted_images_waits_at_its_end_alone(counts):
    injectors = Injectors(1, "cuda")
    injectors.add(torch.zeros(3, 12, device="cuda"), torch.zeros(3, device="cuda"))
    generator = torch.Generator().manual_seed(0)
    step = dfst.step_of(injectors, shuffled(4, 2, draws=2), 0.1, 0.6, generator)

    def train(steps):
        model, batches = network(), shuffled(2 * steps, 2)
        return counts.waits_in(lambda: train_epoch(model, batches, sgd(model, Flags), False, step)).total()
    assert [train(steps) for steps in (2, 4)] == [TRAINING, TRAINING]


def test_a_pass_of_i_bau_waits_at_its_end_alone(counts):
    game = i_bau.Game(penalty=1e-3, steps=2, rate=0.1, perturbed_share=0.3)

    def unlearn(steps):
        model, batches = network(), shuffled(4 * steps, 4)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        perturbation = torch.zeros(1, 3, 32, 32, device="cuda")
        return counts.waits_in(lambda: i_bau.unlearn(game, model, batches, perturbation, optimizer,
                                                     batches.generator)).total()
    assert [unlearn(steps) for steps in (2, 4)] == [UNLEARNING, UNLEARNING]


def test_classes_that_climb_are_looked_at_every_tenth_step(counts):
    model = network().eval().requires_grad_(False)
    images = torch.rand(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to("cuda")

    def ascend(steps):  # from zero tolerance no class is done before the last step
        return counts.waits_in(lambda: climb(model, range(3), images, steps, 1e-3, 0)).total()
    few, many = ascend(LOOK_EVERY["cuda"]), ascend(3 * LOOK_EVERY["cuda"])
    assert few <= LOOKING + 1 and many - few <= 2 * LOOKING
