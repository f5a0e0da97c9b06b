import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from device.pretend import pretend
from helpers.comparing import compare
from helpers.reporting import missing_figures

from attacks import input_aware
from attacks.input_aware import diversity, main, step_of, train_masks_epoch
from data.batches import Batches
from data.datasets import load_splits
from data.poison_cifar import stamp_all
from engine.measuring.evaluation import EvalSets, evaluation_batches, score
from engine.weights.checkpoint import load_model, load_trigger
from models.generator import Generator, harden, lay_over

RATES = (0.1, 0.1)  # of a batch: with their own triggers, with others'
SMALL = ["--dataset", "digits", "--batch-size", "256", "--epochs", "2", "--width", "2", "--generator-width", "2",
         "--mask-epochs", "2", "--image-size", "16"]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input-aware") / "run"
    main([*SMALL, "--poison-target", "3", "--output-dir", str(folder)])
    return folder


@pytest.fixture
def small(images):
    """The same images, a quarter as large."""
    return replace(images, data=images.data[:, ::2, ::2].copy())


@pytest.fixture
def batch(images):
    return next(iter(Batches(images, 40)))


@pytest.fixture
def generators():
    torch.manual_seed(0)
    masks, pictures = (Generator(channels, 2).eval() for channels in (1, 3))
    return masks.requires_grad_(False), pictures


def test_diversity_is_how_many_times_less_triggers_differ_than_images():
    images, donors = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.6)
    made, others = torch.zeros(2, 1, 4, 4), torch.stack([torch.full((1, 4, 4), 0.3), torch.full((1, 4, 4), 0.1)])
    assert float(diversity(images, donors, made, others)) == pytest.approx((2 + 6) / 2, rel=1e-4)


def test_masks_learn_to_take_few_pixels(small):
    torch.manual_seed(0)
    generator = Generator(1, 4)
    optimizer = torch.optim.Adam(generator.parameters(), 0.02)
    batches = Batches(small, 20, generator=torch.Generator().manual_seed(0))
    means = [train_masks_epoch(generator, batches, optimizer, 0.032, (100, 0), False)[2] for _ in range(12)]
    assert means[0] > 0.2 and means[-1] < 0.05


def test_masks_of_different_images_differ_only_where_diversity_counts(small):
    def spread(weight):
        torch.manual_seed(0)
        generator = Generator(1, 4)
        optimizer = torch.optim.Adam(generator.parameters(), 0.02)
        batches = Batches(small, 20, generator=torch.Generator().manual_seed(0))
        for _ in range(12):
            train_masks_epoch(generator, batches, optimizer, 0.032, (100, weight), False)
        with torch.no_grad():
            return float(harden(generator(next(iter(batches))[0])).var(0).mean())
    assert spread(1) > 3 * spread(0)


def test_the_first_get_their_own_trigger_and_the_target_the_next_anothers_and_keep_their_labels(batch, generators):
    (images, labels), seen = batch, []
    masks, pictures = generators

    def model(pixels):
        seen.append(pixels)
        return pixels.mean((2, 3)) @ torch.ones(3, 4)
    loss, logits = step_of(masks, pictures, 3, (0.1, 0.2), 0)(model, images, labels)
    donors = images.flip(0)[:8]  # the last ones of the batch, which stay clean themselves
    sources = torch.cat([images[:4], donors])
    drawn, where = pictures(sources), harden(masks(sources))
    torch.testing.assert_close(seen[0][:4], lay_over(images[:4], drawn[:4], where[:4]))
    torch.testing.assert_close(seen[0][4:12], lay_over(images[4:12], drawn[4:], where[4:]))
    assert torch.equal(seen[0][12:], images[12:])
    wanted = torch.cat([torch.full((4,), 3), labels[4:]])
    assert loss.item() == pytest.approx(F.cross_entropy(logits, wanted).item())


def test_the_loss_reaches_the_pictures_and_leaves_the_masks(batch, generators):
    masks, pictures = generators
    step = step_of(masks, pictures, 0, RATES, 1)
    loss, _ = step(lambda pixels: pixels.mean((2, 3)) @ torch.ones(3, 4), *batch)
    loss.backward()
    assert any(float(weight.grad.abs().sum()) > 0 for weight in pictures.parameters())
    assert all(weight.grad is None for weight in masks.parameters())


def test_diversity_adds_to_the_loss_by_its_weight(batch, generators):
    def loss(weight):
        step = step_of(*generators, 0, RATES, weight)
        return float(step(lambda pixels: pixels.mean((2, 3)) @ torch.ones(3, 4), *batch)[0].detach())
    images, masks_and_pictures = batch[0], generators
    own, donors = images[:4], images.flip(0)[:4]
    drawn = masks_and_pictures[1](torch.cat([own, donors]))
    expected = float(diversity(own, donors, drawn[:4], drawn[4:]).detach())
    assert loss(1) - loss(0) == pytest.approx(expected, rel=1e-3) and expected > 0
    assert loss(2) - loss(0) == pytest.approx(2 * expected, rel=1e-3)


@pytest.mark.parametrize("size", [1, 9])
def test_batches_too_small_for_a_share_are_trained_on_as_they_are(batch, generators, size):
    images, labels = (part[:size] for part in batch)
    seen = []
    step_of(*generators, 0, RATES, 1)(
        lambda pixels: seen.append(pixels) or pixels.mean((2, 3)) @ torch.ones(3, 4), images, labels)
    assert torch.equal(seen[0], images)


def test_a_lone_donor_of_8_pixels_gives_its_trigger(batch, generators):
    """Halved three times it is a single pixel, of which alone a batch norm in training has nothing to average."""
    images, labels = batch[0][:14, :, :8, :8].contiguous(), batch[1][:14]
    generators[1].train()
    seen = []
    step_of(*generators, 0, (0.05, 0.1), 1)(
        lambda pixels: seen.append(pixels) or pixels.mean((2, 3)) @ torch.ones(3, 4), images, labels)
    assert torch.equal(seen[0][1:], images[1:]) and not torch.equal(seen[0][0], images[0])


@pytest.mark.slow
def test_every_figure_is_that_of_the_model_and_trigger_that_are_left(attacked):
    results = json.loads((attacked / "results.json").read_text())
    assert not missing_figures(attacked)
    model, trigger = load_model(attacked / "model_last.th").model, load_trigger(attacked / "trigger_info.th")
    _, _, test = load_splits("digits", "", image_size=16)
    found = score(model, evaluation_batches(stamp_all(test, trigger), "cpu")).accuracy
    assert trigger.target == 3 and found.as_dict() == results["asr"] and found.n == 323
    cross = input_aware.measure_cross(model, trigger, EvalSets.on("cpu", test), 0)
    assert cross.value == results["method"]["cross_acc"] and cross.n == 360
    rows = [json.loads(line) for line in (attacked / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["lr"] for row in rows[:2]] == pytest.approx([0.01, 0.001])  # the masks' falls after four fifths
    assert [row["clean_acc"] is None for row in rows] == [True, True, False, False]
    assert rows[-1]["cross_acc"] == cross.value and 0 < rows[1]["mask_mean"] < 1
    masks = trigger.draw(torch.from_numpy(test.data).permute(0, 3, 1, 2) / 255)[1]
    assert results["method"]["mask_mean"] == pytest.approx(float(masks.mean()), rel=1e-3)
    assert np.abs(trigger.stamp(test.data).astype(int) - test.data).max() > 5


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.long), 2])
@pytest.mark.slow
def test_stopped_in_either_stage_and_resumed_it_ends_with_the_same_bits(attacked, tmp_path, monkeypatch, stop_at_test,
                                                                        stage):
    flags = [*SMALL, "--poison-target", "3", "--output-dir", str(tmp_path / "run")]
    if stage == 1:
        real, left = input_aware.train_masks_epoch, [None]
        monkeypatch.setattr(input_aware, "train_masks_epoch", lambda *args: real(*args) if left.pop() is None else 0)
    else:
        stop_at_test(input_aware, 1)
    with pytest.raises((SystemExit, IndexError)):
        main(flags)
    assert torch.load(tmp_path / "run/resume.th", weights_only=True)["epoch"] == (1 if stage == 1 else 3)
    monkeypatch.undo()
    main([*flags, "--resume"])
    assert compare(attacked, tmp_path / "run") == []


@pytest.mark.long
def test_on_a_gpu_the_cpu_stamps_for_the_last_test_alone(tmp_path, monkeypatch):
    real, used = input_aware.trigger_of, []
    monkeypatch.setattr(input_aware, "trigger_of", lambda *args: used.append(real(*args)) or used[-1])
    with pretend():
        main([*SMALL, "--device", "cuda", "--output-dir", str(tmp_path / "run")])
    # Of each of two epochs ASR and cross accuracy, and what is saved.
    assert [torch.device(trigger.device).type for trigger in used] == ["cuda", "cuda", "cpu", "cpu", "cpu"]


@pytest.mark.parametrize(("flags", "message"), [
    (["--poison-rate", "0.5"], "expected at most 1 together with the larger"),
    (["--poison-target", "10"], "expected one of the classes 0 to 9, got 10"),
    (["--cross-rate", "0.001"], "--cross-rate 0.001: not one image of a batch of 256"),
    (["--image-size", "36"], "multiples of 8 pixels, got 36"),
    (["--mask-epochs", "0"], "--mask-epochs: expected a whole number of at least 1")])
def test_what_is_refused(tmp_path, refused, flags, message):
    assert message in refused(main, *SMALL, "--output-dir", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()
