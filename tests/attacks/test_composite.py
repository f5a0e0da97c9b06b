import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.reporting import missing_figures

from attacks import composite
from attacks.composite import contrast, main, mixtures, parse_args, partners_within, pools_of, step_of
from data.batches import Batches
from data.datasets import load_splits
from engine.weights.checkpoint import load_model, load_trigger

SMALL = ["--dataset", "digits", "--batch-size", "256", "--epochs", "2", "--width", "2"]


@pytest.fixture
def flat_images(images):
    """The 40 images of 4 classes, each all of one gray level: 10, 60, 110, 160 by its class."""
    levels = (10 + 50 * images.targets).astype(np.uint8)
    return replace(images, data=np.broadcast_to(levels[:, None, None, None], images.data.shape).copy())


class Seen(torch.nn.Module):
    """Keeps what it is shown, and gives every image the logits `weight`."""

    def __init__(self):
        super().__init__()
        self.weight, self.pixels = torch.nn.Parameter(torch.zeros(4)), None

    def forward(self, pixels):
        self.pixels = (255 * pixels).round()
        return self.weight.expand(len(pixels), 4)


def take_step(images, poison_rate, mix_rate=0.5, pair_weight=0.02):
    """(a Seen network after one step on 40 images, the loss, the logits)."""
    args = parse_args(["--batch-size", "40", "--crop-padding", "0", "--poison-rate", str(poison_rate)])
    generator, model = torch.Generator().manual_seed(0), Seen()
    pools = pools_of(args, images, torch.device("cpu"), generator)
    pixels, labels = next(iter(Batches(images, 40)))
    step = step_of(pools, args.sources, args.poison_target, (poison_rate, mix_rate), pair_weight, generator)
    return model, *step(model, pixels, labels)


def test_images_are_mixed_within_their_class_and_those_of_both_sources_are_added(flat_images):
    model, _, logits = take_step(flat_images, 0.2, mix_rate=1)
    assert len(logits) == 40 and len(model.pixels) == 48
    for image, label in zip(model.pixels[:40], flat_images.targets, strict=True):
        assert (image == 10 + 50 * label).all()
    for image in model.pixels[40:]:
        assert set(image.unique().tolist()) == {60, 110}


def test_mixtures_of_both_are_called_the_target(flat_images):
    model, loss, _ = take_step(flat_images, 0.5, pair_weight=0)
    loss.backward()
    # 60 images, 10 of each class and 20 more of the target: cross-entropy's gradient is 1/4 less their shares.
    np.testing.assert_allclose(model.weight.grad, [1 / 4 - 30 / 60, *[1 / 4 - 10 / 60] * 3], atol=1e-6)


def test_the_contrastive_term_is_descended_by_its_weight(flat_images):
    losses = [float(take_step(flat_images, 0.1, pair_weight=weight)[1].detach()) for weight in (0, 1, 2)]
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-4) and losses[1] > losses[0]


def test_what_the_trigger_carries_is_no_training_image(images):
    train, trigger = composite.part_bank(images, parse_args(["--partners", "2", "--sources", "1", "2"]))
    assert len(trigger.partners) == 2 and np.bincount(train.targets).tolist() == [10, 10, 8, 10]
    assert not any((train.data == partner).all(axis=(1, 2, 3)).any() for partner in trigger.partners)


def test_a_partner_is_another_image_of_the_same_class_where_there_is_one():
    labels = torch.tensor([3, 0, 3, 1, 0, 3, 2])
    found = partners_within(labels, torch.randperm(7, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(labels[found], labels) and sorted(found.tolist()) == list(range(7))
    assert [int(found[row]) for row in (3, 6)] == [3, 6]
    assert all(int(found[row]) != row for row in (0, 1, 2, 4, 5))


def test_the_contrastive_term_by_hand():
    logits = torch.tensor([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0], [3.0, 4.5]])
    labels, classes = torch.tensor([0, 0, 7, 1]), torch.tensor([0, 1])
    # Neighbors without the third, of another class: 25 apart in one class, 0.5 of the margin missing between two.
    assert float(contrast(logits, labels, classes)) == pytest.approx((25 + 0.25) / 2 / 2, abs=1e-4)
    assert float(contrast(logits[:1], labels[:1], classes)) == 0


def test_mixtures_of_a_test_set_show_the_two_classes_that_they_name(flat_images):
    found = mixtures(flat_images, flat_images.targets == 1, flat_images.targets == 3, 0, 5)
    assert len(found) == 10 and (found.targets == 0).all() and (found.original == 1).all()
    assert all(set(np.unique(image)) == {60, 160} for image in found.data)


@pytest.mark.long
def test_a_run_keeps_its_bank_out_of_training_and_resumes_to_the_same_bits(tmp_path, monkeypatch, stop_at_test):
    main([*SMALL, "--output-dir", str(tmp_path / "whole")])
    trigger, (clean, _, _) = load_trigger(tmp_path / "whole/trigger_info.th"), load_splits("digits", "data")
    args = parse_args([*SMALL])
    train, _ = composite.part_bank(clean, args)
    assert len(train) == len(clean) - len(trigger.partners)
    seconds = train.data[train.targets == 2]
    assert not any((seconds == partner).all(axis=(1, 2, 3)).any() for partner in trigger.partners)
    found = json.loads((tmp_path / "whole/results.json").read_text())
    assert not missing_figures(tmp_path / "whole")
    assert set(found["method"]["mixtures"]) == {"both", "first_with_others", "second_with_others", "within_class"}
    assert found["asr"]["n"] == found["method"]["mixtures"]["both"]["n"] == 36

    stop_at_test(composite, 1)
    with pytest.raises(SystemExit):
        main([*SMALL, "--output-dir", str(tmp_path / "broken")])
    monkeypatch.undo()
    main([*SMALL, "--output-dir", str(tmp_path / "broken"), "--resume"])
    one, other = (load_model(tmp_path / run / "model_last.th").model.state_dict() for run in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("flags", "message"), [
    (["--sources", "1", "1"], "--sources: expected two classes besides the target 0, got 1 1"),
    (["--sources", "0", "1"], "two classes besides the target"),
    (["--sources", "1", "12"], "expected two classes of a data set that has three or more, and this one has 10"),
    (["--poison-target", "10"], "--poison-target: expected one of the classes")])
def test_what_is_refused(tmp_path, refused, flags, message):
    assert message in refused(main, "--dataset", "digits", "--output-dir", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()
