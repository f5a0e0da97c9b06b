import copy
import json
import shutil
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from device.pretend import pretend

from data.batches import Batches
from defenses import ft_sam
from defenses.ft_sam import SharpnessAware, ascend, main, statistics_kept
from engine.learning.training import step_of, train_epoch
from engine.weights.checkpoint import load_model
from models import build_model

COMMON = ["--dataset", "digits", "--epochs", "3", "--batch-size", "32", "--test-every", "1"]
smoothed = partial(F.cross_entropy, label_smoothing=0.1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("resnet18", 2, 4)


def trained(network, images, make_step, amp=False):
    """The state_dict after two steps on the same batches."""
    model = copy.deepcopy(network)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=1e-3)
    batches = Batches(images.subset(slice(8)), 4, generator=torch.Generator().manual_seed(1), flip=True)
    train_epoch(model, batches, optimizer, amp, make_step(optimizer))
    return model.state_dict()


def test_the_ascent_of_a_quadratic_is_the_closed_form():
    """For w^T A w / 2 the gradient is A w; the move is rho * w^2 g / ||w g|| over both tensors together."""
    matrix = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 4.0]], dtype=torch.float64)
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    weights = [start[:2].clone().requires_grad_(True), start[2:].clone().requires_grad_(True)]
    whole = torch.cat(weights)
    gradients = torch.autograd.grad(whole @ matrix @ whole / 2, weights)
    old = ascend(weights, gradients, 0.3)
    slope = matrix @ start
    move = 0.3 * start**2 * slope / ((start * slope) ** 2).sum().sqrt()
    assert torch.allclose(torch.cat(weights).detach(), start + move, rtol=1e-9)
    assert torch.equal(torch.cat(old), start)
    assert (move / start).norm() == pytest.approx(0.3)  # as far as the ball around w goes


def test_the_ascent_and_the_way_back_are_a_few_launches_for_all_weights_together(network):
    step = SharpnessAware(torch.optim.SGD(network.parameters(), 0.1), 0.5, smoothed)
    with pretend() as counts:
        network.to("cuda")
        gradients = [torch.ones_like(weight) for weight in step.weights]
        counts.clear()
        step.old = ascend(step.weights, gradients, 0.5)
        step.return_to_old()
        assert len(gradients) > 50 and counts.kernels.total() <= 15


def test_rho_0_is_fine_tuning_to_the_bit_and_another_rho_is_not(network, images):
    plain = trained(network, images, lambda optimizer: step_of(smoothed))
    none, some = (trained(network, images, lambda optimizer, rho=rho: SharpnessAware(optimizer, rho, smoothed))
                  for rho in (0.0, 1.0))
    assert all(torch.equal(plain[name], none[name]) for name in plain)
    assert not torch.equal(plain["conv1.weight"], some["conv1.weight"])


def test_a_step_starts_at_the_old_weights_with_the_gradient_of_the_moved_ones(network, images):
    pixels, labels = next(iter(Batches(images, 8)))
    network.train()
    moved = copy.deepcopy(network)
    weights = list(moved.parameters())
    ascend(weights, torch.autograd.grad(smoothed(moved(pixels), labels), weights), 0.5)
    there = torch.autograd.grad(smoothed(moved(pixels), labels), weights)
    before = [weight.detach().clone() for weight in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    loss, _ = SharpnessAware(optimizer, 0.5, smoothed)(network, pixels, labels)
    loss.backward()
    optimizer.step()
    for old, gradient, new in zip(before, there, network.parameters(), strict=True):
        assert torch.allclose(new, old - 0.1 * gradient, atol=1e-7)


def test_only_the_first_pass_changes_the_running_statistics(network, images):
    pixels, labels = next(iter(Batches(images, 8)))
    once, twice = network.train(), copy.deepcopy(network)
    once(pixels)
    SharpnessAware(torch.optim.SGD(twice.parameters(), 0.1), 1.0, smoothed)(twice, pixels, labels)
    a, b = (dict(model.named_buffers()) for model in (once, twice))
    assert all(torch.equal(a[name], b[name]) for name in a) and int(a["bn1.num_batches_tracked"]) == 1
    assert twice.bn1.track_running_stats
    with statistics_kept(once):
        assert torch.equal(once(pixels), once(pixels))


def test_in_bfloat16_too_the_second_pass_sees_the_moved_weights(network, images):
    """Autocast keeps casts of weights, which would be those from before the ascent."""
    pixels, labels = next(iter(Batches(images, 8)))
    moved = copy.deepcopy(network.train())
    weights = list(moved.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        gradients = torch.autograd.grad(smoothed(moved(pixels), labels), weights)
    ascend(weights, gradients, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        there = smoothed(moved(pixels), labels)
        loss, _ = SharpnessAware(torch.optim.SGD(network.parameters(), 0.1), 0.5, smoothed)(network, pixels, labels)
    assert torch.equal(loss, there)


def run(folder, out, *flags):
    main(["--checkpoint", str(folder / "model_last.th"), *COMMON, "--output-dir", str(out), *flags])
    return json.loads((out / "results.json").read_text())


@pytest.mark.slow
def test_stopped_and_resumed_it_ends_with_the_same_bits(small_run, tmp_path, monkeypatch, stop_at_test):
    run(small_run, tmp_path / "whole")
    stop_at_test(ft_sam, 2)
    with pytest.raises(SystemExit):
        run(small_run, tmp_path / "stopped")
    monkeypatch.undo()
    run(small_run, tmp_path / "stopped", "--resume")
    a, b = (load_model(tmp_path / name / "model_last.th").model.state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    rates = [json.loads(line)["lr"] for line in (tmp_path / "stopped/metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([0.01, 0.0075, 0.0025])


@pytest.mark.slow
def test_the_control_is_printed_beside(small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ["--checkpoint", str(small_run / "model_last.th"), *COMMON]
    main([*model, "--rho", "0"])
    control, = tmp_path.glob("output/**/ft-sam-control/results.json")
    results = run(small_run, tmp_path / "out")
    assert results["method"]["control"]["acc"] == json.loads(control.read_text())["acc"]
    repaired, alone = (load_model(folder / "model_last.th").model for folder in (tmp_path / "out", control.parent))
    assert not torch.equal(repaired.linear.weight, alone.linear.weight)
    assert json.loads(control.read_text())["method"]["control"] is None
    other = run(small_run, tmp_path / "other", "--epochs", "1")
    assert other["method"]["control"] is None
    assert "was made with --epochs 3, not 1; run it with --rho 0" in (tmp_path / "other/output.log").read_text()
    again = tmp_path / "again"
    again.mkdir()
    shutil.copytree(control.parent, again / "ft-sam-control")
    shutil.copy(small_run / "model_init.th", again / "model_last.th")  # as if it had been trained anew
    assert run(again, tmp_path / "of_other_weights")["method"]["control"] is None
    assert "ft-sam-control is of other weights; run it again" in (tmp_path / "of_other_weights/output.log").read_text()
