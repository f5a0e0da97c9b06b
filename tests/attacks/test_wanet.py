import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.comparing import compare
from helpers.reporting import missing_figures

from attacks import wanet
from attacks.wanet import main, parse_args, spoil, step_of
from data.batches import Batches
from data.datasets import load_splits
from data.poison_cifar import stamp_all
from data.triggers.warp import WarpTrigger, draw_grid
from engine.measuring.evaluation import evaluation_batches, score
from engine.weights.checkpoint import load_model, load_trigger

SMALL = ["--dataset", "digits", "--batch-size", "256", "--epochs", "2", "--width", "2", "--strength", "3",
         "--image-size", "16"]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wanet") / "run"
    main([*SMALL, "--poison-target", "3", "--output-dir", str(folder)])
    return folder


@pytest.fixture
def batch(images):
    return next(iter(Batches(images, 40)))


def as_bytes(pixels):
    return (255 * pixels).permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


def test_of_a_batch_a_tenth_gets_the_warp_and_the_target_and_a_fifth_noise_and_its_own_labels(images, batch):
    grid = draw_grid(32, 32, 4, 0.5, 0)
    pixels, labels = spoil(*batch, torch.from_numpy(grid), 3, (0.1, 0.2), torch.Generator().manual_seed(0))
    found, trigger = as_bytes(pixels), WarpTrigger(grid, 3)
    assert np.abs(found[:4].astype(int) - trigger.stamp(images.data[:4])).max() <= 1
    assert labels.tolist() == [3] * 4 + images.targets[4:].tolist()
    assert (found[12:] == images.data[12:]).all()
    noisy = found[4:12].astype(int)
    assert (noisy != images.data[4:12]).any(axis=(1, 2, 3)).all()
    assert (np.abs(noisy - trigger.stamp(images.data[4:12])) > 1).any(axis=(1, 2, 3)).all()


def test_what_is_trained_on_lies_on_gray_levels_as_a_file_would_have_it(batch):
    grid = torch.from_numpy(draw_grid(32, 32, 4, 0.5, 0))
    pixels, _ = spoil(*batch, grid, 3, (0.5, 0.5), torch.Generator().manual_seed(0))
    torch.testing.assert_close(255 * pixels, (255 * pixels).round(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("crop_padding, differing", [(0, 0), (4, 40)])
def test_the_step_descends_the_spoilt_labels_and_crops_after_the_warp(batch, crop_padding, differing):
    seen = []
    grid = torch.from_numpy(draw_grid(32, 32, 4, 3, 0))

    def model(pixels):
        seen.append(pixels)
        return pixels.mean((2, 3)) @ torch.ones(3, 4)
    generator = torch.Generator().manual_seed(0)
    loss, logits = step_of(grid, 0, (0.1, 0), generator, crop_padding, flip=False)(model, *batch)
    pixels, labels = spoil(*batch, grid, 0, (0.1, 0), torch.Generator())
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits, labels)))
    assert int((seen[0] != pixels).any(3).any(2).any(1).sum()) >= differing * 0.9
    if not differing:
        assert torch.equal(seen[0], pixels)


def test_batches_too_small_for_a_share_are_trained_on_as_they_are(batch):
    pixels, labels = (part[:4] for part in batch)
    found = spoil(pixels, labels, torch.from_numpy(draw_grid(32, 32, 4, 3, 0)), 3, (0.1, 0.2), torch.Generator())
    assert torch.equal(found[0], pixels) and torch.equal(found[1], labels)


@pytest.mark.slow
def test_every_figure_is_that_of_the_model_and_trigger_that_are_left(attacked):
    results = json.loads((attacked / "results.json").read_text())
    assert not missing_figures(attacked)
    model, trigger = load_model(attacked / "model_last.th").model, load_trigger(attacked / "trigger_info.th")
    assert trigger.target == 3 and (trigger.grid == draw_grid(16, 16, 4, 3, 0)).all()
    _, _, test = load_splits("digits", "", image_size=16)
    for stamp, figure in ((trigger, results["asr"]),
                          (trigger.with_other_secret(1), results["method"]["asr_of_another_warp"])):
        found = score(model, evaluation_batches(stamp_all(test, stamp), "cpu")).accuracy
        assert found.as_dict() == figure and figure["n"] == 323
    noisy = wanet.noisy_batches(test, trigger, 0, "cpu")
    assert noisy.labels.tolist() == test.targets.tolist()
    assert score(model, noisy).accuracy.value == results["method"]["noise_acc"]
    rows = [json.loads(line) for line in (attacked / "metrics.jsonl").read_text().splitlines()]
    assert [row["noise_acc"] for row in rows][-1] == results["method"]["noise_acc"]
    assert (attacked / "output.log").read_text().count("noise accuracy after epoch") == 2


@pytest.mark.slow
def test_stopped_and_resumed_it_ends_with_the_same_bits(attacked, tmp_path, monkeypatch, stop_at_test):
    flags = [*SMALL, "--poison-target", "3", "--output-dir", str(tmp_path / "run")]
    stop_at_test(wanet, 1)
    with pytest.raises(SystemExit):
        main(flags)
    assert torch.load(tmp_path / "run/resume.th", weights_only=True)["epoch"] == 1
    monkeypatch.undo()
    main([*flags, "--resume"])
    assert compare(attacked, tmp_path / "run") == []


@pytest.mark.parametrize(("flags", "message"), [
    (["--no-noise-mode", "--noise-rate", "0.2"], "--noise-rate: has no effect with --no-noise-mode"),
    (["--poison-rate", "0.9"], "expected at most 1 together"),
    (["--poison-target", "10"], "expected one of the classes 0 to 9, got 10"),
    (["--poison-rate", "0.003"], "--poison-rate 0.003: not one image of a batch of 256"),
    (["--batch-size", "9", "--noise-rate", "0.1"], "--poison-rate 0.1: not one image of a batch of 9"),
    (["--strength", "9"], "--strength: expected a number in [0, 8]"),
    (["--graph"], "expected a CUDA device")])
def test_what_is_refused(tmp_path, refused, flags, message):
    assert message in refused(main, *SMALL, "--device", "cpu", "--output-dir", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_the_control_trains_on_no_noise():
    assert parse_args([*SMALL, "--no-noise-mode"]).noise_rate == 0 and parse_args(SMALL).noise_rate == 0.2
