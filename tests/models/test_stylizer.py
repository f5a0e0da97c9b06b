import pytest
import torch
from device.pretend import pretend
from torch import nn

from models.stylizer import Stylizer, reflected

SHAPES = ((2, 3, 9, 12), (1, 2, 2, 2))


@pytest.fixture
def deterministic():
    """PyTorch refuses what has no deterministic kernel, until the test's end."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_put_together_on_a_gpu_is_pytorchs_padding(shape, deterministic):
    pixels = torch.randn(shape)
    own, there = pixels.clone().requires_grad_(), pixels.clone()
    expected, weights = nn.functional.pad(own, (1, 1, 1, 1), mode="reflect"), torch.randn(shape[0], 1, 1, 1)
    weights = weights * torch.arange(expected.shape[-1])
    with pretend():
        there, weights_there = there.to("cuda").requires_grad_(), weights.to("cuda")
        padded = reflected(there)
        slope, = torch.autograd.grad((padded * weights_there).sum(), there)
        found = padded.detach().cpu(), slope.cpu()
    assert torch.equal(found[0], expected)
    torch.testing.assert_close(found[1], torch.autograd.grad((expected * weights).sum(), own)[0])


def test_a_stylizer_is_the_one_of_padding_mode_reflect():
    torch.manual_seed(0)
    ours = Stylizer(4)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1, padding_mode="reflect"), nn.ReLU(),
                          nn.Conv2d(4, 4, 3, 1, 1, padding_mode="reflect"), nn.ReLU(), nn.Conv2d(4, 3, 1))
    names = [f"body.{name}" for name in plain.state_dict()]
    assert list(ours.state_dict()) == names
    pixels, results = torch.rand(2, 3, 8, 8), []
    for network in (ours.body, plain):
        taken = pixels.clone().requires_grad_()
        made = network(taken)
        results.append([made, *torch.autograd.grad(made.square().sum(), [taken, *network.parameters()])])
    assert all(map(torch.equal, *results))
