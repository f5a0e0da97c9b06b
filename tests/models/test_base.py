"""Every network keeps the face that methods rely on; a new row in ARCHITECTURES is tested by being there."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from data.batches import Batches
from engine.measuring.evaluation import predict
from models import ARCHITECTURES, build_model, recognize
from models.folding import conv_norm_pairs, folded
from models.noisy_batchnorm import NoisyBatchNorm2d, noisy_layers, perturbed
from models.pruning import activity, fold_mask, output_masked, stage_means


@pytest.fixture(params=ARCHITECTURES)
def network(request):
    """A small network of each architecture, with norms that change what goes through it, and let it through."""
    torch.manual_seed(0)
    model = build_model(request.param, 4, 4)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.bias.data.normal_(0, 0.3)
        layer.momentum = 1  # the statistics are those of one batch
    with torch.no_grad():
        model.train()(torch.rand(16, 3, 32, 32))
    for layer in norms:
        layer.running_mean.add_(torch.randn(layer.num_features) / 10)
        layer.momentum = 0.1
    return model.eval()


def pixels(size=32):
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_normalization_by_its_own_constants_is_the_first_step(network):
    other = build_model(**network.spec | {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}).eval()
    other.load_state_dict(network.state_dict())
    mean, std = (torch.tensor(network.spec[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(other((pixels() - mean) / std / 4 + 0.5), network(pixels()), rtol=1e-4, atol=1e-4)
    assert not {"mean", "std"} & set(network.state_dict())


def test_the_head_reads_the_features_mean_over_places(network):
    features = network.feature_maps(pixels())
    assert torch.equal(features, network.tail(network.stage_outputs(pixels(), len(network.stages))[-1]))
    by_hand = features.mean((2, 3)) @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(pixels()), by_hand, rtol=1e-4, atol=1e-5)
    assert f"{network.head_name}.weight" in network.state_dict()


def test_stage_outputs_are_what_the_stages_give(network):
    caught = []
    for name in network.stages[:2]:
        network.get_submodule(name).register_forward_hook(lambda module, inputs, output: caught.append(output))
    network(pixels())
    passed = caught.copy()
    outputs = network.stage_outputs(pixels(), 2)
    assert len(outputs) == 2 and all(torch.equal(a, b) for a, b in zip(outputs, passed, strict=True))


def test_what_reads_a_stage_is_all_that_reads_it(network):
    for stage, output in zip(network.stages, network.stage_outputs(pixels(), len(network.stages)), strict=True):
        mask, weights = torch.arange(output.shape[1]) % 2 * 1.0, {k: v.clone() for k, v in network.state_dict().items()}
        untouched = network(pixels())
        with output_masked(network, stage, mask):
            masked = network(pixels())
        fold_mask(network, stage, mask)
        torch.testing.assert_close(network(pixels()), masked, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(untouched, masked, atol=1e-4)
        network.load_state_dict(weights)
    with pytest.raises(ValueError):
        network.readers("no stage")


def test_the_last_block_adds_its_shortcut_to_its_norm(network):
    last, caught = network.last_block, {}
    if last is None:
        assert (network.feature_maps(pixels()) < 0).any()  # no ReLU behind the last stage
        return
    for part in filter(None, (last.norm, last.block)):
        network.get_submodule(part).register_forward_hook(
            lambda module, inputs, output, part=part: caught.update({part: (inputs[0].clone(), output.clone())}))
    features = network.feature_maps(pixels())
    total = caught[last.norm][1]
    if last.shortcut is not None:
        total = total + network.get_submodule(last.shortcut)(caught[last.block][0])
    assert (total < 0).any()
    torch.testing.assert_close(total.relu().amax((2, 3)), features.amax((2, 3)))  # the same behind a max pooling


def test_the_last_conv_and_norm_are_of_the_channels_that_the_head_reads(network):
    if network.last_block is None:
        return
    conv, norm = (network.get_submodule(name) for name in (network.last_block.conv, network.last_block.norm))
    before = network.feature_maps(pixels())
    conv.weight.data[::2] += 1
    moved = network.feature_maps(pixels())
    assert torch.equal(moved[:, 1::2], before[:, 1::2])
    assert (moved - before).abs().amax((0, 2, 3))[::2].median() > 0
    norm.bias.data[1::2] -= 1000
    silent = network.feature_maps(pixels())
    assert silent[:, 1::2].abs().max() == 0 and torch.equal(silent[:, ::2], moved[:, ::2])


def test_it_is_recognized_and_rebuilt(network):
    weights = network.state_dict()
    entering = {name: network.spec[name] for name in ("image_size", "mean", "std")}
    assert {"width": None, **recognize(weights), **entering} == network.spec
    again = build_model(**network.spec).eval()
    again.load_state_dict(weights)
    assert torch.equal(again(pixels()), network(pixels())) and again.spec == network.spec


def test_its_batch_norms_are_of_the_kind_that_is_asked_for(network):
    noisy = build_model(**network.spec, norm_layer=NoisyBatchNorm2d).eval()
    norms = [name for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [name for name, _ in noisy_layers(noisy)] == norms and norms
    missing, unexpected = noisy.load_state_dict(network.state_dict(), strict=False)
    assert not unexpected and all("neuron_" in name for name in missing)
    assert torch.equal(noisy(pixels()), network(pixels()))


@pytest.mark.parametrize("size", [16, 32, 48, 65])
def test_images_of_any_size_pass(network, size):
    if size < network.smallest:
        with pytest.raises(UserError, match=f"at least {network.smallest} pixels"):
            network.check_size("it", size)
        return
    assert network(pixels(size)).shape == (3, 4) and network(pixels(size)).isfinite().all()


FOLDED = {"resnet18": 20, "preactresnet18": 8, "wrn16-1": 6, "vgg19_bn": 16, "torchvision-resnet18": 20,
          "torchvision-resnet34": 36, "torchvision-resnet50": 53}


def test_a_pruned_channel_has_no_effect_whatever_its_value(network):
    """In a pre-activation network 0 before the batch norm would leave the batch norm's shift behind it."""
    for stage, output in zip(network.stages, network.stage_outputs(pixels(), len(network.stages)), strict=True):
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        pruned = torch.arange(output.shape[1]) % 3 == 0
        found = []
        with output_masked(network, stage, (~pruned).float()):
            found += [with_channels(network, stage, pruned, value) for value in (None, 0, 7, -7)]
        fold_mask(network, stage, (~pruned).float())
        found += [with_channels(network, stage, pruned, value) for value in (None, 0, 7, -7)]
        for logits in found[1:]:
            torch.testing.assert_close(logits, found[0], rtol=1e-4, atol=1e-5)
        network.load_state_dict(weights)
        assert not torch.allclose(with_channels(network, stage, pruned, 7), found[0], atol=1e-3)


def with_channels(network, stage, chosen, value):
    """The logits if the `chosen` channels (bool (C,)) of a stage's output are `value`; as they are for None."""
    def replace(module, inputs, output):
        return output if value is None else torch.where(chosen.view(1, -1, 1, 1), float(value), output)
    handle = network.get_submodule(stage).register_forward_hook(replace)
    try:
        return network(pixels())
    finally:
        handle.remove()


def test_what_is_ranked_is_what_is_read(network, images):
    """Behind a ReLU the size of the mean is the mean; else a channel far below 0 is not the most dormant."""
    batches = Batches(images, 16)
    for stage in network.stages:
        means = stage_means(network, batches, stage)
        found = activity(network, batches, stage)
        torch.testing.assert_close(found, means.abs().mean(0))
        assert (means < 0).any() == (stage == network.stages[-1] and network.last_block is None)
    with torch.inference_mode():
        by_hand = network.head(means)
    torch.testing.assert_close(by_hand, predict(network, batches), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm_layer", [nn.BatchNorm2d, NoisyBatchNorm2d])
def test_folded_it_predicts_the_same(network, norm_layer):
    model = build_model(**network.spec, norm_layer=norm_layer).eval()
    model.load_state_dict(network.state_dict(), strict=False)
    for name, values in model.named_parameters():
        if "neuron_" in name:
            values.data.uniform_(0.3, 1)
    with torch.inference_mode(), perturbed(model):
        torch.testing.assert_close(folded(model)(pixels()), model(pixels()), rtol=1e-3, atol=1e-4)
    assert len(conv_norm_pairs(model)) == FOLDED[network.spec["arch"]]


def test_every_layers_noise_and_mask_count(network):
    """ANP optimizes them: each has a gradient, in a pre-activation network too."""
    model = build_model(**network.spec, norm_layer=NoisyBatchNorm2d).eval()
    model.load_state_dict(network.state_dict(), strict=False)
    with perturbed(model):
        F.cross_entropy(model(pixels()), torch.arange(3)).backward()
    for name, layer in noisy_layers(model):
        for values in (layer.neuron_mask, layer.neuron_noise, layer.neuron_noise_bias):
            assert values.grad is not None and values.grad.abs().max() > 0, name
