import pytest
import torch

from data.batches import Batches
from engine.learning.training import step_of, train_epoch, unlearning_loss
from methods.even_steps import even_steps, with_statistics_held
from models import build_model

HELD = with_statistics_held(step_of(unlearning_loss))


def norm_of(values):
    return float(torch.cat([value.flatten() for value in values]).norm())


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_a_step_has_its_length_whatever_the_gradient_s_and_goes_along_it(scale):
    torch.manual_seed(0)
    model, pixels = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)), torch.rand(5, 4)
    weights = [weight.detach().clone() for weight in model.parameters()]
    optimizer = even_steps(model, 0.01)
    (scale * model(pixels).square().mean()).backward()
    gradients = [weight.grad.clone() for weight in model.parameters()]
    optimizer.step()
    moves = [old - new.detach() for old, new in zip(weights, model.parameters(), strict=True)]
    assert norm_of(moves) == pytest.approx(0.01 * norm_of(weights), rel=1e-4)
    along = sum(float((move * gradient).sum()) for move, gradient in zip(moves, gradients, strict=True))
    assert along == pytest.approx(norm_of(moves) * norm_of(gradients), rel=1e-4)


def test_without_a_gradient_it_stays():
    model = torch.nn.Linear(3, 2)
    weights = model.weight.detach().clone()
    optimizer = even_steps(model, 0.1)
    (0 * model(torch.ones(1, 3))).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight, weights)


def test_the_statistics_are_held_and_used_while_the_weights_learn(images):
    model = build_model("resnet18", 2, 4)
    model.bn1.running_mean.fill_(0.3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    model.bn1.register_forward_hook(lambda module, given, _: seen.append(module.training))
    train_epoch(model, Batches(images, 8), even_steps(model, 1e-3), step=HELD)
    assert seen == [False] * 5
    for name, value in model.state_dict().items():
        held = "running" in name or "num_batches" in name or name in ("mean", "std")
        assert torch.equal(value, before[name]) is held, name


def test_images_are_unlearned(images):
    torch.manual_seed(0)
    model, batches = build_model("resnet18", 2, 4), Batches(images, 40)
    optimizer = even_steps(model, 1e-3)
    losses = [-train_epoch(model, batches, optimizer, step=HELD).loss for _ in range(4)]
    assert losses == sorted(losses) and losses[-1] > losses[0]
