import copy
import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.reporting import missing_figures

from data.batches import Batches
from data.image_set import ImageSet
from defenses import rnp
from defenses.rnp import main, recover, unlearn, unlearning_loss
from engine.learning.training import train_epoch
from engine.weights.checkpoint import load_model
from models import build_model
from models.noisy_batchnorm import NoisyBatchNorm2d, parameters_named


@pytest.fixture
def rows():
    return []


@pytest.fixture
def run(rows):
    """What the stages need of a Run; `rows` gets their rows of metrics.jsonl."""
    return SimpleNamespace(record=rows.append)


@pytest.fixture(scope="module")
def images():
    """40 random images of 16x16 pixels and 4 classes."""
    data = np.random.default_rng(1).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    return ImageSet(data, np.arange(40) % 4, tuple("abcd"), "random")


@pytest.fixture(scope="module")
def learned(images):
    """A network with masks that has learned the 40 images by heart."""
    torch.manual_seed(0)
    net = build_model("resnet18", 4, 4, norm_layer=NoisyBatchNorm2d)
    optimizer = torch.optim.SGD([p for n, p in net.named_parameters() if "neuron_" not in n], 0.05, momentum=0.9)
    pixels, labels = next(iter(Batches(images, 40)))
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(pixels), labels).backward()
        optimizer.step()
    return net


@pytest.fixture
def fitted(learned):
    return copy.deepcopy(learned)


def batches_of(images):
    return Batches(images, 16, generator=torch.Generator().manual_seed(0), draws=16)


def accuracy(model, images):
    """On all images, with the batch's statistics as in training."""
    pixels, labels = next(iter(Batches(images, 40)))
    with torch.no_grad():
        return (model.train()(pixels).argmax(1) == labels).float().mean().item()


def test_unlearning_climbs_the_loss():
    logits, labels = torch.randn(5, 3, requires_grad=True), torch.arange(5) % 3
    up, down = (torch.autograd.grad(loss(logits, labels), logits)[0] for loss in (unlearning_loss, F.cross_entropy))
    assert torch.equal(up, -down)


def test_unlearning_stops_at_the_first_batch_that_is_forgotten_and_leaves_the_masks(fitted, images, run, rows):
    steps = unlearn(run, fitted, batches_of(images), 200, 0.01, 0.3)
    found = [row["accuracy"] for row in rows]
    assert steps == len(rows) < 200 and found[0] > 0.9
    assert found[-1] <= 0.3 < min(found[:-1])
    assert rows[-1]["loss"] > 3 * rows[0]["loss"]
    assert torch.cat(parameters_named(fitted, "neuron_mask")).eq(1).all()


def test_the_rate_of_unlearning_falls_to_a_tenth_after_half_of_the_steps(fitted, images, run, monkeypatch):
    rates = []

    def watched(model, batches, optimizer, step):
        rates.append(optimizer.param_groups[0]["lr"])
        return train_epoch(model, batches, optimizer, step=step)
    monkeypatch.setattr(rnp, "train_epoch", watched)
    unlearn(run, fitted, batches_of(images), 5, 1e-3, 0.0)
    assert rates == pytest.approx([1e-3] * 3 + [1e-4] * 2)


def test_too_few_steps_to_forget_are_warned_of(fitted, images, run, caplog):
    assert unlearn(run, fitted, batches_of(images), 2, 1e-6, 0.2) == 2
    assert "still above 0.2 after 2 steps" in caplog.text


def test_recovering_brings_accuracy_back_by_the_masks_alone(fitted, images, run):
    unlearn(run, fitted, batches_of(images), 200, 0.01, 0.3)
    before, forgotten = {name: value.clone() for name, value in fitted.state_dict().items()}, accuracy(fitted, images)
    masks = recover(run, fitted, batches_of(images), 40, 0.1)
    assert accuracy(fitted, images) > forgotten + 0.2
    assert len(masks) == 300 and all(0 <= value <= 1 for *_, value in masks) and min(masks, key=lambda m: m[2])[2] < 0.8
    for name, value in fitted.state_dict().items():
        if not any(part in name for part in ("neuron_mask", "running", "num_batches")):
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("wire, is_turned_down", [(200, True), (0, False)])
def test_a_planted_backdoor_neuron_is_turned_down_and_one_that_nothing_reads_is_not(fitted, images, run, wire,
                                                                                    is_turned_down):
    """A channel that clean images leave dark, wired to one logit: unlearning is free to light it."""
    last = fitted.layer4[1]
    with torch.no_grad():
        for layer in (fitted.layer4[0].bn2, fitted.layer4[0].shortcut[1]):  # nothing reaches it through the shortcut
            layer.weight[5], layer.bias[5] = 0, 0
        last.bn2.weight[5], last.bn2.bias[5] = 1, -3
        fitted.linear.weight[:, 5] = 0
        fitted.linear.weight[2, 5] = wire
    assert accuracy(fitted, images) > 0.9
    unlearn(run, fitted, batches_of(images), 200, 0.01, 0.3)
    masks = recover(run, fitted, batches_of(images), 40, 0.1)
    planted = next(value for layer, channel, value in masks if (layer, channel) == ("layer4.1.bn2", 5))
    assert planted < 0.05 if is_turned_down else planted > 0.5
    assert np.median([value for *_, value in masks]) > 0.5


@pytest.mark.slow
def test_what_is_left_is_the_given_model_without_the_channels_of_low_masks(small_run, tmp_path):
    main(["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--val-frac", "0.05",
          "--batch-size", "32", "--recover-steps", "30", "--unlearn-lr", "0.05", "--max-drop", "0.3",
          "--output-dir", str(tmp_path / "out")])
    folder = tmp_path / "out"
    method = json.loads((folder / "results.json").read_text())["method"]
    masks = {(row["layer"], int(row["channel"])): float(row["mask"]) for row in csv.DictReader(
        (folder / "masks.csv").open())}
    threshold, count = method["chosen"]["threshold"], method["chosen"]["pruned"]
    low = {neuron for neuron, mask in masks.items() if threshold is not None and mask <= threshold}
    assert len(masks) == 300 and len(low) == count > 0 and method["name"] == "RNP"
    model, given = (load_model(path / "model_last.th").model for path in (folder, small_run))
    for name, value in given.state_dict().items():
        layer, _, part = name.rpartition(".")
        expected = value.clone()
        for channel in range(len(value)) if part == "weight" and (layer, 0) in masks else ():
            expected[channel] = 0 if (layer, channel) in low else value[channel]
        assert torch.equal(model.state_dict()[name], expected), name
    assert "ANP" not in (folder / "output.log").read_text() and not missing_figures(folder)
