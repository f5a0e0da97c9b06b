import numpy as np
import pytest
import torch

from common.errors import UserError
from data.batches import Batches
from data.image_set import ImageSet
from engine.measuring.evaluation import predict
from models import build_model
from models.pruning import dormant_mask, find_stage, fold_mask, output_masked, stage_means
from models.resnet import ResNet

STAGES = ResNet.stages


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("resnet18", 4, 10).eval()


@pytest.fixture
def pixels():
    return torch.rand(6, 3, 32, 32)


def half(stage):
    """A mask of every second channel of a stage of a network of width 4."""
    return torch.arange(4 * 2 ** STAGES.index(stage)) % 2 * 1.0


def test_masked_logits_are_the_linear_layer_on_the_channels_that_are_kept(network, pixels):
    keep = half("layer4").bool()
    features = network.feature_maps(pixels).mean((2, 3))
    by_hand = features[:, keep] @ network.linear.weight[:, keep].T + network.linear.bias
    with output_masked(network, "layer4", half("layer4")):
        torch.testing.assert_close(network(pixels), by_hand)
    assert not torch.allclose(network(pixels), by_hand, atol=1e-4)  # the mask is gone after the block


@pytest.mark.parametrize("stage", STAGES)
def test_folding_a_mask_is_masking_without_a_mask(network, pixels, stage):
    untouched = network(pixels)
    with output_masked(network, stage, half(stage)):
        masked = network(pixels)
        images = ImageSet(np.zeros((6, 32, 32, 3), dtype=np.uint8), np.zeros(6, dtype=np.int64))
        assert predict(network, Batches(images, 6)).shape == (6, 10)
    fold_mask(network, stage, half(stage))
    torch.testing.assert_close(network(pixels), masked, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(untouched, masked, atol=1e-4)


def test_a_mask_counts_when_batchnorm_is_folded_for_prediction(network, images):
    batches = Batches(images, 16)
    with output_masked(network, "layer3", half("layer3")):
        found = predict(network, batches)
    fold_mask(network, "layer3", half("layer3"))
    torch.testing.assert_close(found, predict(network, batches), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_means_are_those_of_the_stage(network, images, stage):
    found = stage_means(network, Batches(images, 16), stage)
    x = (next(iter(Batches(images, 40)))[0] - network.mean) / network.std
    x = torch.relu(network.bn1(network.conv1(x)))
    for name in STAGES[:STAGES.index(stage) + 1]:
        x = network.get_submodule(name)(x)
    torch.testing.assert_close(found, x.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_a_stage_is_found_by_name_and_the_last_without_one(network):
    assert find_stage(network, None) == "layer4" and find_stage(network, "layer2") == "layer2"
    with pytest.raises(UserError, match=r"--layer: expected a stage of resnet18 \(layer1, .*, layer4\), got layer9"):
        find_stage(network, "layer9")


def test_the_least_active_share_is_dormant():
    mask = dormant_mask(torch.tensor([0.5, 0.0, 0.3, 0.1, 0.9]), 0.6)
    assert mask.tolist() == [1, 0, 0, 0, 1]
    assert dormant_mask(torch.zeros(5), 0).tolist() == [1] * 5


def test_a_mask_leaves_bfloat16_as_it_is(network, pixels):
    kinds = []
    network.layer3[0].conv1.register_forward_hook(lambda module, inputs, output: kinds.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16), output_masked(network, "layer2", half("layer2")):
        network(pixels)
    assert kinds == [torch.bfloat16]
