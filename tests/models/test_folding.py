import pytest
import torch
from torch import nn

from models import build_model
from models.folding import folded
from models.noisy_batchnorm import NoisyBatchNorm2d, perturbed


@pytest.fixture
def lively():
    """Build a network with statistics, scales, masks and noises far from where they start."""
    def build(norm_layer):
        torch.manual_seed(0)
        model = build_model("resnet18", 4, 10, norm_layer=norm_layer)
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if "neuron_" in name or ("bn" in name and name.endswith(("weight", "running_var"))):
                values.data.uniform_(0.3, 1)
            elif name.endswith(("bias", "running_mean")):
                values.data.normal_(0, 0.3)
        return model
    return build


@pytest.mark.parametrize("norm_layer", [nn.BatchNorm2d, NoisyBatchNorm2d])
def test_a_folded_network_predicts_the_same_and_has_no_batchnorm_left(lively, norm_layer):
    model, pixels = lively(norm_layer).eval(), torch.rand(8, 3, 32, 32)
    with torch.inference_mode():
        quick = folded(model)
        torch.testing.assert_close(quick(pixels), model(pixels), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in quick.modules())
    assert sum(isinstance(layer, norm_layer) for layer in model.modules()) == 20


def test_masks_count_and_noise_only_inside_the_block(lively):
    model, pixels = lively(NoisyBatchNorm2d).eval(), torch.rand(8, 3, 32, 32)
    with torch.inference_mode():
        clean = folded(model)(pixels)
        with perturbed(model):
            noisy = folded(model)(pixels)
            torch.testing.assert_close(noisy, model(pixels), rtol=1e-4, atol=1e-4)
        for name, mask in model.named_parameters():
            if name.endswith("neuron_mask"):
                mask.data.fill_(1)
        unmasked = folded(model)(pixels)
    assert not torch.allclose(clean, noisy, atol=1e-3) and not torch.allclose(clean, unmasked, atol=1e-3)


def test_the_model_itself_is_left_alone(lively):
    model = lively(nn.BatchNorm2d).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quick = folded(model)
    assert not quick.training and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    quick.conv1.weight.data.zero_()
    assert model.conv1.weight.abs().sum() > 0


def test_only_a_convolution_right_before_takes_a_batchnorm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3),
                          nn.BatchNorm2d(4)).eval()
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
    quick, pixels = folded(model), torch.rand(2, 3, 8, 8)
    assert [type(layer).__name__ for layer in quick] == ["BatchNorm2d", "Conv2d", "ReLU", "BatchNorm2d", "Conv2d",
                                                         "Identity"]
    torch.testing.assert_close(quick(pixels), model(pixels))
