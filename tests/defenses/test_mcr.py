import csv
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from data.batches import Batches
from defenses import mcr
from defenses.mcr import Curve, Row, choose, coefficients, curve_step, main, rate_factor, weights_at
from engine.learning.training import train_epoch
from engine.measuring.scores import UNTESTED, Proportion, Score
from engine.weights.checkpoint import load_model
from models import build_model

COMMON = ["--dataset", "digits", "--batch-size", "36", "--epochs", "2", "--test-every", "1"]


def model(seed):
    torch.manual_seed(seed)
    return build_model("resnet18", 2, 4)


@pytest.fixture
def ends():
    return model(0), model(1)


def values(network):
    return dict(network.named_parameters())


def test_coefficients_sum_to_1_and_the_ends_are_the_models(ends):
    for t in (0, 0.1, 0.5, 0.73, 1):
        assert sum(coefficients(t)) == pytest.approx(1)
    curve = Curve.straight(*ends)
    for t, end in ((0, ends[0]), (1, ends[1])):
        assert all(torch.equal(weight, values(end)[name]) for name, weight in curve.weights(t).items())
    assert coefficients(0.5) == (0.25, 0.5, 0.25)


def test_a_new_curve_is_the_straight_line_and_between_equal_models_it_does_not_move(ends):
    first, second = map(values, ends)
    for name, weight in Curve.straight(*ends).weights(0.3).items():
        assert torch.allclose(weight, 0.7 * first[name] + 0.3 * second[name], atol=1e-6)
    for name, weight in Curve.straight(ends[0], ends[0]).weights(0.3).items():
        assert torch.allclose(weight, first[name], atol=1e-6)


def test_the_bend_gets_the_gradient_of_the_loss_at_t():
    """For a loss of w(t) the bend's gradient is 2 t (1 - t) times that of w(t)."""
    first, second = ({"w": torch.tensor([value])} for value in (1.0, 5.0))
    bend = {"w": torch.tensor([2.0], requires_grad=True)}
    weight = weights_at(0.25, first, bend, second)["w"]
    assert weight.item() == pytest.approx(0.5625 + 0.375 * 2 + 0.0625 * 5)
    weight.square().sum().backward()
    assert float(bend["w"].grad) == pytest.approx(0.375 * 2 * weight.item())


def test_training_moves_the_bend_alone_and_decay_counts_all_weights_at_t(ends, images):
    curve = Curve.straight(*ends)
    kept = [{name: value.clone() for name, value in network.state_dict().items()} for network in ends]
    bend = {name: value.detach().clone() for name, value in values(curve.bend).items()}
    batches = Batches(images.subset(slice(8)), 4)
    train_epoch(curve.bend, batches, torch.optim.SGD(curve.bend.parameters(), 0.1),
                step=curve_step(curve, torch.Generator().manual_seed(0), 1e-4))
    assert any(not torch.equal(bend[name], value) for name, value in values(curve.bend).items())
    for before, network in zip(kept, ends, strict=True):
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    pixels, labels = next(iter(batches))
    losses = [curve_step(curve, torch.Generator().manual_seed(3), decay)(curve.bend, pixels, labels)[0]
              for decay in (0.0, 0.2)]
    t = float(torch.rand((), generator=torch.Generator().manual_seed(3)))
    norm = sum(weight.square().sum() for weight in curve.weights(t).values())
    assert torch.allclose(losses[1] - losses[0], 0.1 * norm, rtol=1e-3)


def test_statistics_are_those_of_the_images_at_each_t(ends, images):
    curve, batches = Curve.straight(*ends), Batches(images.subset(slice(8)), 8)
    pixels, _ = next(iter(batches))
    for t in (0, 0.4):
        network = curve.network(t, batches)
        assert not network.training
        seen = torch.nn.functional.conv2d((pixels - network.mean) / network.std, network.conv1.weight, padding=1)
        assert torch.allclose(network.bn1.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
        assert torch.allclose(network.bn1.running_var, seen.transpose(0, 1).flatten(1).var(1), rtol=1e-4)
    assert torch.equal(ends[0].bn1.running_mean, torch.zeros(2))


def test_statistics_come_from_images_augmented_as_those_that_the_curve_is_trained_on(images):
    repair = SimpleNamespace(own=images, run=SimpleNamespace(device="cpu"))
    seen = []
    for padding, flip in (("0", "--no-flip"), ("0", "--flip"), ("4", "--no-flip")):
        args = mcr.parse_args(["--crop-padding", padding, flip, "--batch-size", "7"])
        batches = mcr.statistics_batches(repair, args)
        assert max(len(labels) for _, labels in batches) <= 7
        seen.append(sorted(float(image.mean()) for pixels, _ in batches for image in pixels))
    assert seen[0] == pytest.approx(seen[1]) and seen[0] != pytest.approx(seen[2])  # mirrored ones are as bright


def row(t, accuracy):
    share = Proportion(accuracy, 100)
    return Row(t, UNTESTED, Score(0.0, share, share))


def test_the_place_nearest_to_the_wanted_one_that_is_accurate_enough_is_chosen():
    rows = [row(t / 10, accuracy) for t, accuracy in enumerate((95, 94, 93, 92, 84, 80, 85, 90, 94, 96, 97))]
    assert choose(rows, 0.89, 0.5).t == 0.3
    assert choose(rows, 0.8, 0.5).t == 0.5
    assert choose(rows, 0.84, 0.5).t == 0.6  # as near as 0.4, and more accurate
    assert choose(rows, 0.965, 0.5).t == 0.9  # none but an end is that accurate
    assert choose(rows, 0.89, 1.0).t == 0.9  # not the end itself


@pytest.mark.parametrize(("second", "t"), [(None, 0.8), ("other.th", 0.5)])
def test_the_place_may_cost_so_much_of_the_given_models_held_out_accuracy(monkeypatch, second, t):
    suspect, shares = SimpleNamespace(model="given", test=None), (95, 95, 94, 93, 93, 92, 92, 92, 91, 90, 97)
    asked = {("given", "held out"): row(0, 95).held_out}
    monkeypatch.setattr(mcr, "evaluation_batches", lambda images, device: images)
    monkeypatch.setattr(mcr, "score", lambda *args: asked[args])
    monkeypatch.setattr(mcr, "walk", lambda *args: [row(i / 10, share) for i, share in enumerate(shares)])
    repair = SimpleNamespace(suspect=suspect, held_out="held out", run=SimpleNamespace(device="cpu"))
    args = mcr.parse_args(["--max-drop", "0.041"])
    args.second = second
    assert mcr.follow(repair, args, None, None)[1].t == t  # 0.91 and above, not 0.90


def test_the_rate_is_level_then_falls_in_a_line():
    assert [rate_factor(share) for share in (0, 0.5, 0.7, 0.9, 1)] == pytest.approx([1, 1, 0.505, 0.01, 0.01])


def run(folder, out, *flags):
    main(["--checkpoint", str(folder / "model_last.th"), *COMMON, "--output-dir", str(out), *flags])
    return json.loads((out / "results.json").read_text())


@pytest.mark.slow
def test_the_curve_is_left_as_a_table_and_a_picture_and_a_stopped_run_ends_with_the_same_bits(
        small_run, tmp_path, monkeypatch, stop_at_test):
    used, real = [], mcr.train_epoch
    monkeypatch.setattr(mcr, "train_epoch", lambda *args: used.append(args[2].defaults) or real(*args))
    whole = run(small_run, tmp_path / "whole", "--second-epochs", "1")
    assert [(each["momentum"], each["weight_decay"]) for each in used] == [(0.9, 0), (0.9, 0)]  # decay is in the loss
    rows = list(csv.DictReader((tmp_path / "whole/curve.csv").open()))
    assert [float(line["t"]) for line in rows] == [step / 10 for step in range(11)]
    kept = next(line for line in rows if float(line["t"]) == whole["method"]["chosen"]["t"])
    assert float(kept["acc"]) == whole["acc"]["value"] and whole["method"]["control"]["acc"]
    assert Image.open(tmp_path / "whole/curve.png").size[0] > 500
    stop_at_test(mcr, 2)  # after the second end and the curve's first epoch
    with pytest.raises(SystemExit):
        run(small_run, tmp_path / "stopped", "--second-epochs", "1")
    monkeypatch.undo()
    run(small_run, tmp_path / "stopped", "--second-epochs", "1", "--resume")
    a, b = (load_model(tmp_path / name / "model_last.th").model.state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("flag", [[0.0] * 3, None])  # None: the suspect says it itself
def test_the_other_end_is_fed_as_the_given_model_is(tmp_path, images, flag):
    suspect = SimpleNamespace(model=build_model("resnet18", 2, 4, mean=(0.0,) * 3, std=(1.0,) * 3), defender=images)
    torch.save(build_model("resnet18", 2, 4).state_dict(), tmp_path / "bare.th")
    torch.save(suspect.model.state_dict(), tmp_path / "given.th")
    args = SimpleNamespace(mean=flag, std=flag and [1.0] * 3, channels=None, checkpoint=tmp_path / "given.th")
    end = mcr.load_other_end(tmp_path / "bare.th", args, suspect, torch.device("cpu"))
    assert end.spec == suspect.model.spec


@pytest.mark.slow
def test_another_model_may_be_the_other_end(small_run, tmp_path, refused):
    other = load_model(small_run / "model_last.th").model
    with torch.no_grad():
        other.linear.bias += 30 * torch.eye(10)[3]  # says 3 to everything
    torch.save({"state_dict": other.state_dict(), "spec": other.spec}, tmp_path / "other.th")
    results = run(small_run, tmp_path / "out", "--second", str(tmp_path / "other.th"), "--t", "0.93", "--epochs", "1")
    sweep = results["method"]["sweep"]
    assert results["method"]["max_drop"] is None  # none decided
    assert sweep[-1]["acc"]["value"] < 0.2 and results["method"]["chosen"]["t"] == 0.93 and len(sweep) == 12
    assert results["method"]["control"] is None and not (tmp_path / "out/second.th").exists()
    narrow = build_model("resnet18", 2, 10)
    torch.save({"state_dict": narrow.state_dict(), "spec": narrow.spec}, tmp_path / "narrow.th")
    common = ["--checkpoint", small_run / "model_last.th", *COMMON, "--output-dir", tmp_path / "no"]
    assert "expected the network of --checkpoint" in refused(main, *common, "--second", tmp_path / "narrow.th")
    assert "the same weights as --checkpoint" in refused(main, *common, "--second", small_run / "model_last.th")
    assert "--second-epochs: has no effect with --second" in refused(
        main, *common, "--second", tmp_path / "other.th", "--second-epochs", 3)
    assert not (tmp_path / "no").exists()
