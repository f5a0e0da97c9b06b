import torch

from methods.channel_bounds import farthest_channel, layer_bounds, robust_deviations
from models import build_model


def test_a_deviation_is_in_units_of_1_4826_mads_from_the_median():
    """Median 3, distances 2 1 0 1 97, whose median is 1."""
    found = robust_deviations(torch.tensor([1.0, 2, 3, 4, 100]))
    assert torch.allclose(found, torch.tensor([-2.0, -1, 0, 1, 97]) / 1.4826)
    assert robust_deviations(torch.tensor([0.0, 0, 0, 5])).tolist() == [0, 0, 0, 0]


def test_the_farthest_channel_is_the_one_that_was_planted():
    torch.manual_seed(0)
    model = build_model("resnet18", 4, 4).eval()
    before = farthest_channel(layer_bounds(model))
    model.layer2[1].conv1.weight.data[5] *= 30
    after = farthest_channel(layer_bounds(model))
    assert (after.layer, after.channel) == ("layer2.1.bn1", 5) and after.deviation > 5 * before.deviation
