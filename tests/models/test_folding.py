import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import build_model
from models.folding import conv_norm_pairs, folded
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


class Shuffled(nn.Module):
    """Runs conv, norm, conv2, norm2; registered so that each convolution is followed by the other's norm."""

    def __init__(self):
        super().__init__()
        self.conv2, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.conv, self.norm2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm2(self.conv2(F.relu(self.norm(self.conv(x)))))


class PreActivation(nn.Module):
    """Runs norm, ReLU, conv and adds its input; a convolution is registered right before each norm that runs first."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv, self.norm2, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv(F.relu(self.norm(x)))  # what the first norm takes is added, too, so that it cannot be folded
        return self.conv2(F.relu(self.norm2(x)))


class Shared(nn.Module):
    """One convolution under two norms: its weights cannot be those of both."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.norm2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm2(self.conv(F.relu(self.norm(self.conv(x)))))


class Looking(nn.Module):
    """Looks at the values of its input, so that it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(x if x.mean() > 0 else -x))


def with_statistics(model):
    """The model in eval mode with batch norms that change what goes through them."""
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.3, 2)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return model.eval()


@pytest.mark.parametrize(("kind", "pairs"), [
    (Shuffled, [("conv", "norm"), ("conv2", "norm2")]), (PreActivation, []), (Shared, []), (Looking, [])])
def test_a_batchnorm_is_folded_into_the_convolution_that_runs_before_it(kind, pairs):
    model, pixels = with_statistics(kind()), torch.rand(4, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(folded(model)(pixels), model(pixels), rtol=1e-4, atol=1e-4)
    assert conv_norm_pairs(model) == pairs


def test_a_replaced_layer_is_looked_at_anew():
    model, pixels = with_statistics(Shuffled()), torch.rand(4, 3, 8, 8)
    assert len(conv_norm_pairs(model)) == 2
    model.norm = nn.Identity()
    torch.testing.assert_close(folded(model)(pixels), model(pixels), rtol=1e-4, atol=1e-4)
    assert conv_norm_pairs(model) == [("conv2", "norm2")]


@pytest.mark.parametrize("watched", ["0", "0.0", "1"])
def test_hooks_between_convolution_and_batchnorm_still_count(watched):
    """Such as a mask on a stage that ends in a convolution."""
    model = with_statistics(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)))
    pixels, plain = torch.rand(2, 3, 8, 8), None
    assert conv_norm_pairs(model) == [("0.0", "1")]
    plain = model(pixels)
    model.get_submodule(watched).register_forward_hook(lambda module, inputs, output: output * 0.5)
    assert not torch.allclose(model(pixels), plain, atol=1e-3)
    torch.testing.assert_close(folded(model)(pixels), model(pixels), rtol=1e-4, atol=1e-4)


def test_tracing_runs_nobodys_hooks(lively):
    model, seen = lively(nn.BatchNorm2d), []
    model.layer2.register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert len(conv_norm_pairs(model)) == 20 and not seen
