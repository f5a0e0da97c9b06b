import pytest
import torch
from torch import nn

from models import build_model
from models.noisy_batchnorm import NoisyBatchNorm2d, noisy_layers, parameters_named, perturbed


@pytest.fixture
def pair():
    """A plain network with lively statistics and its noisy twin."""
    torch.manual_seed(0)
    plain = build_model("resnet18", 4, 10)
    for layer in plain.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.running_var):
                values.uniform_(0.5, 2)
            for values in (layer.bias.data, layer.running_mean):
                values.normal_()
    noisy = build_model("resnet18", 4, 10, norm_layer=NoisyBatchNorm2d)
    missing, unexpected = noisy.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all("neuron_" in name for name in missing)
    return plain, noisy


@pytest.mark.parametrize("training", [False, True])
def test_masks_of_one_and_no_noise_are_plain_batchnorm_to_the_bit(pair, training):
    plain, noisy = (net.train(training) for net in pair)
    pixels = torch.rand(4, 3, 32, 32)
    assert torch.equal(plain(pixels), noisy(pixels))
    with perturbed(noisy):
        assert torch.equal(plain(pixels), noisy(pixels))
    assert torch.equal(plain.layer4[1].bn2.running_var, noisy.layer4[1].bn2.running_var)


def test_scale_and_shift_are_the_formula():
    layer = NoisyBatchNorm2d(3).eval()
    weight, bias, mask = torch.tensor([1.0, 2, 3]), torch.tensor([0.5, -1, 2]), torch.tensor([0.5, 0, 1])
    noise, noise_bias = torch.tensor([0.1, 0.2, -0.3]), torch.tensor([0.4, -0.4, 0])
    for name, value in (("weight", weight), ("bias", bias), ("neuron_mask", mask), ("neuron_noise", noise),
                        ("neuron_noise_bias", noise_bias)):
        getattr(layer, name).data.copy_(value)
    x = torch.randn(2, 3, 4, 4)
    shaped = [part.view(1, 3, 1, 1) for part in (weight * mask, bias, weight * (mask + noise), bias * (1 + noise_bias))]
    normal = x / (1 + layer.eps) ** 0.5
    torch.testing.assert_close(layer(x), normal * shaped[0] + shaped[1])
    with perturbed(nn.Sequential(layer)) as holder:
        torch.testing.assert_close(holder(x), normal * shaped[2] + shaped[3])


def test_a_mask_of_zero_leaves_the_channel_constant_at_its_bias(pair):
    layer = pair[1].layer2[0].bn1.eval()
    layer.neuron_mask.data[3] = 0
    out = layer(torch.randn(2, 8, 5, 5))
    assert torch.equal(out[:, 3], layer.bias[3].expand(2, 5, 5))
    assert out[:, 4].std() > 0.1


def test_noise_counts_only_inside_the_block(pair):
    noisy, pixels = pair[1].eval(), torch.rand(2, 3, 32, 32)
    before = noisy(pixels)
    for noise in parameters_named(noisy, "neuron_noise"):
        noise.data.fill_(0.3)
    assert torch.equal(noisy(pixels), before)
    with pytest.raises(RuntimeError), perturbed(noisy):
        assert not torch.allclose(noisy(pixels), before)
        raise RuntimeError
    assert torch.equal(noisy(pixels), before)


def test_it_has_4800_masks_at_full_width():
    net = build_model("resnet18", 64, 10, norm_layer=NoisyBatchNorm2d)
    assert sum(mask.numel() for mask in parameters_named(net, "neuron_mask")) == 4800
    assert len(parameters_named(net, "neuron_noise")) == 2 * len(noisy_layers(net)) == 40
