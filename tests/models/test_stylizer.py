import pytest
import torch
from device.pretend import pretend
from torch import nn

from models.stylizer import Stylizer, reflected, texture

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


def test_a_texture_is_the_mean_product_of_responses_at_two_scales():
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    filters = torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    halved = pixels.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
    for found, scaled in zip(texture(pixels, filters), (pixels, halved), strict=True):
        maps = torch.einsum("fc,bchw->bfhw", filters[..., 0, 0], scaled - 0.5).clamp(min=0)
        torch.testing.assert_close(found, torch.einsum("bfhw,bghw->bfg", maps, maps) / maps[0, 0].numel())


def test_what_a_stylizer_draws_is_added_to_the_image():
    torch.manual_seed(0)
    network, pixels = Stylizer(4), torch.rand(2, 3, 8, 8)
    made = pixels + network.body(pixels - 0.5)
    assert torch.equal(network(pixels), made.clamp(0, 1)) and (made > 1).any() and (made < 0).any()


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
