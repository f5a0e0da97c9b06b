import json

import pytest
import torch
import torch.nn.functional as F

from data.batches import Batches
from defenses import i_bau
from defenses.i_bau import Game, added_to, damage, find_perturbation, gradients_against, hypergradient, main
from engine.weights.checkpoint import load_model
from models import build_model

COMMON = ["--dataset", "digits", "--rounds", "2", "--batch-size", "36"]
GAME = Game(penalty=0.001, steps=5, rate=0.1, perturbed_share=1.0)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("resnet18", 2, 4).eval()


@pytest.fixture
def quadratic():
    """inner(d) = -(d - A w)^T H (d - A w) / 2, largest at d = A w; outer(d) = |d - b|^2 / 2 + |w|^2 / 2."""
    torch.manual_seed(0)
    a, b, w = torch.randn(3, 2).double(), torch.randn(3).double(), torch.randn(2).double().requires_grad_(True)
    h = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, 0.2], [0.0, 0.2, 3.0]], dtype=torch.float64)

    def inner(d):
        return -((d - a @ w) @ h @ (d - a @ w)) / 2

    def outer(d):
        return ((d - b) ** 2).sum() / 2 + (w**2).sum() / 2
    return a, b, h, w, inner, outer


def test_on_a_quadratic_game_the_hypergradient_is_the_closed_form(quadratic):
    """The leader's loss is |A w - b|^2 / 2 + |w|^2 / 2, whose gradient is A^T (A w - b) + w."""
    a, b, _, w, inner, outer = quadratic
    best = (a @ w).detach()
    found, = hypergradient(outer, inner, best, [w], 400, 0.2)
    expected = a.T @ (best - b) + w.detach()
    assert torch.allclose(found, expected, rtol=1e-9)
    assert not torch.allclose(hypergradient(outer, inner, best, [w], 0, 0.2)[0], expected)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_few_steps_are_so_many_terms_of_the_series(quadratic, steps):
    a, b, h, w, inner, outer = quadratic
    d, rate = torch.ones(3, dtype=torch.float64), 0.2
    found, = hypergradient(outer, inner, d, [w], steps, rate)
    series = sum(torch.linalg.matrix_power(torch.eye(3) - rate * h, k) for k in range(steps))
    assert torch.allclose(found, rate * a.T @ h @ series @ (d - b) + w.detach(), rtol=1e-9)


def test_no_steps_are_adversarial_training(network, images):
    network.linear.weight.data *= 200
    pixels, labels = next(iter(Batches(images, 8)))
    perturbation, weights = torch.rand(1, 3, 32, 32) - 0.5, list(network.parameters())
    added = pixels + perturbation
    plain = torch.autograd.grad(F.cross_entropy(network(added), labels), weights)

    def found(steps):
        game = Game(GAME.penalty, steps, GAME.rate, 1.0)
        return gradients_against(game, network, pixels, labels, perturbation, weights)
    gradients, logits = found(0)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(plain, gradients, strict=True))
    assert torch.allclose(logits, network(added))
    gradients, _ = found(2)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert not torch.allclose(plain[0], gradients[0], rtol=1e-3)


def test_the_perturbation_takes_images_from_what_the_model_says_and_leaves_it_as_it_is(network, images):
    network.linear.weight.data *= 200
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    batches = Batches(images.subset(slice(8)), 4)
    perturbation = find_perturbation(network, batches, 10.0, 0.001, 5.0)
    pixels = torch.cat([batch for batch, _ in batches])
    with torch.no_grad():
        own = network(pixels).argmax(1)
        before, after = (float(damage(network, pixels, own, d, 0.001)) for d in (0 * perturbation, perturbation))
    assert perturbation.shape == (1, 3, 32, 32) and after > before + 0.02
    norms = [float(find_perturbation(network, batches, 10.0, *flags).norm()) for flags in (
        (0.001, 5.0), (0.04, 5.0), (0.001, 0.01))]
    assert norms[1] < norms[0] and norms[2] == pytest.approx(0.01, rel=1e-4)
    assert all(torch.equal(kept[name], value) for name, value in network.state_dict().items())


def test_the_perturbation_is_added_to_the_share_of_images_that_is_asked_for(images):
    pixels = torch.rand(40, 3, 8, 8)
    assert added_to(pixels, 1.0, None).eq(1).all()
    some = added_to(pixels, 0.25, torch.Generator().manual_seed(0))
    assert some.shape == (40, 1, 1, 1) and some.sum() == 10 and set(some.unique().tolist()) == {0, 1}
    assert added_to(pixels, 0.0, torch.Generator()).sum() == 1


class Planted(torch.nn.Module):
    """Answers with class 0 by the mean of an image, and with class 1 where one pixel in the corner is bright."""

    std = torch.full((1, 3, 1, 1), 0.25)

    def forward(self, images):
        return torch.stack([images.mean((1, 2, 3)), 4 * images[:, :, 0, 0].mean(1)], 1)


def test_the_perturbation_is_in_pixels_and_grows_where_the_trigger_is():
    """One step of rate 10 is ten times the gradient by the pixels themselves, whatever the model divides them by and
    whatever the images' own labels are."""
    images = torch.full((4, 3, 8, 8), 0.5)
    images[:, :, 0, 0] = 0

    class Once(list):
        device, num_images = images.device, 4
    model = Planted()
    found = find_perturbation(model, Once([(images, torch.ones(4).long())]), 10.0, 0.0, 100.0)
    variable = torch.zeros(1, 3, 8, 8, requires_grad=True)
    slope, = torch.autograd.grad(F.cross_entropy(model(images + variable), torch.zeros(4).long()), variable)
    assert torch.allclose(found, 10 * slope, rtol=1e-4)
    assert found[..., 0, 0].min() > 50 * found[..., 1:, 1:].abs().max()


def test_the_defaults_are_the_authors():
    """Their published code: Adam of 0.001, one image in a hundred, an ascent by 10, five rounds of five terms."""
    args = i_bau.parse_args([])
    assert (args.lr, args.perturbed_share, args.inner_lr, args.penalty) == (0.001, 0.01, 10, 0.001)
    assert (args.rounds, args.steps, args.batch_size) == (5, 5, 100)


def test_a_rate_that_no_term_uses_is_refused(tmp_path, refused):
    assert "--rate: has no effect with --steps 0" in refused(main, *COMMON, "--steps", 0, "--rate", 0.3)


def run(folder, out, *flags):
    main(["--checkpoint", str(folder / "model_last.th"), *COMMON, "--output-dir", str(out), *flags])
    return json.loads((out / "results.json").read_text())


@pytest.mark.slow
def test_stopped_and_resumed_it_ends_with_the_same_bits(small_run, tmp_path, monkeypatch, stop_at_test):
    whole = run(small_run, tmp_path / "whole")
    assert whole["epochs"] == 2 and whole["method"]["images"] == 72
    stop_at_test(i_bau, 1)
    with pytest.raises(SystemExit):
        run(small_run, tmp_path / "stopped")
    monkeypatch.undo()
    run(small_run, tmp_path / "stopped", "--resume")
    a, b = (load_model(tmp_path / name / "model_last.th").model.state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    before = load_model(small_run / "model_last.th").model.state_dict()
    assert torch.equal(a["bn1.running_mean"], before["bn1.running_mean"])
    assert not torch.equal(a["conv1.weight"], before["conv1.weight"])
    norms = [json.loads(line)["perturbation_norm"] for line in (tmp_path / "whole/metrics.jsonl").open()]
    assert len(norms) == 2 and min(norms) > 0
