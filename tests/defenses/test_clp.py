import csv
import json

import pytest
import torch
from torch import nn

from common.errors import UserError
from defenses.clp import close_channels, examine, largest_deviation, main, outliers
from engine.weights.checkpoint import load_model
from methods.channel_bounds import channel_bounds
from models import build_model


class PreActivation(nn.Module):
    """A stem that a sum reads too, a pre-activation block, and layers registered in another order than they run."""

    def __init__(self):
        super().__init__()
        self.bn2, self.conv2 = nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, 1, 1, bias=False)
        self.bn1, self.conv1 = nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, 1, 1, bias=False)
        self.stem, self.bn3 = nn.Conv2d(3, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12)

    def forward(self, x):
        x = self.stem(x)
        out = self.conv1(self.bn1(x).relu())
        return self.bn3(self.conv2(self.bn2(out).relu()) + x)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("resnet18", 16, 4).eval()


def test_a_bound_is_the_most_that_a_channel_changes_per_unit_of_its_input():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(5, 7, 3, bias=False), nn.BatchNorm2d(7).eval()
    norm.running_var.uniform_(0.5, 2)
    norm.weight.data.uniform_(-2, 2)
    bounds = channel_bounds(conv, norm)
    for k in range(7):
        largest = torch.linalg.svdvals(conv.weight[k].reshape(5, 9))[0]
        assert torch.allclose(bounds[k], largest * norm.weight[k].abs() / (norm.running_var[k] + norm.eps).sqrt())


def test_a_planted_channel_of_large_norm_is_closed_and_nothing_passes_it(network):
    before = examine(network, 3)
    assert not next(layer for layer in before if layer.name == "layer2.1.bn1").closed[17]
    network.layer2[1].conv1.weight.data[17] *= 30
    layers = examine(network, 3)
    layer, = (layer for layer in layers if layer.name == "layer2.1.bn1")
    assert layer.closed.nonzero().flatten().tolist() == [17]
    assert len(layers) == 20  # every batch norm of a ResNet-18 follows a convolution
    close_channels(network, layers)
    assert network.layer2[1].bn1(torch.randn(2, 32, 4, 4))[:, 17].abs().max() == 0


def test_the_scale_of_a_layer_does_not_change_the_choice():
    bounds = torch.rand(64, generator=torch.Generator().manual_seed(0)) ** 4
    chosen = outliers(bounds, 1.5)
    assert 0 < chosen.sum() < 20 and torch.equal(chosen, outliers(1000 * bounds, 1.5))
    assert outliers(bounds, 1).sum() > chosen.sum() > outliers(bounds, 2.5).sum()


def test_few_channels_have_no_outlier():
    for count, is_there in ((10, False), (11, True)):
        bounds = torch.zeros(count)
        bounds[3] = 1
        assert outliers(bounds, 3).any() == is_there == (largest_deviation(count) > 3)


def test_pairs_go_by_the_order_of_execution_and_a_sum_between_parts_them():
    torch.manual_seed(0)
    model = PreActivation().eval()
    model.conv1.weight.data[4] *= 100  # behind it runs bn2, which is registered before it
    layer, = examine(model, 2)
    assert layer.name == "bn2" and layer.closed.nonzero().flatten().tolist() == [4]
    model.bn2 = nn.Identity()
    with pytest.raises(UserError, match="this network has none"):
        examine(model, 2)


@pytest.mark.slow
def test_the_file_has_zeros_where_the_table_says_closed(small_run, tmp_path):
    main(["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--u", "1.2", "--output-dir",
          str(tmp_path / "out")])
    rows = list(csv.DictReader((tmp_path / "out/channels.csv").open()))
    method = json.loads((tmp_path / "out/results.json").read_text())["method"]
    model = load_model(tmp_path / "out/model_last.th").model
    closed = {(row["layer"], int(row["channel"])) for row in rows if row["closed"] == "1"}
    assert len(rows) == method["channels"] == 300 and 0 < len(closed) < 100
    assert closed == {(name, channel) for name, channels in method["closed"].items() for channel in channels}
    for row in rows:
        norm, channel = model.get_submodule(row["layer"]), int(row["channel"])
        assert (norm.weight[channel] == 0 and norm.bias[channel] == 0) == (row["closed"] == "1")
        assert (float(row["deviations"]) > 1.2) == (row["closed"] == "1")
    assert "have too few channels" not in (tmp_path / "out/output.log").read_text()
