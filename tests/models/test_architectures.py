import subprocess
import sys

import pytest
import torch
from helpers.paths import ROOT
from torch import nn

import models
from engine import flags
from models import ARCHITECTURES, Architecture, build_model, recognize
from models.base import LastBlock, PixelModel


class Small(PixelModel):
    """A network of one size, with layers that no other network names."""

    stages, head_name, last_block = ("body",), "out", LastBlock("body", "body.0", "body.1")

    def __init__(self, num_classes=10, norm_layer=nn.BatchNorm2d, **pixels):
        super().__init__("small", None, num_classes, **pixels)
        self.body, self.out = nn.Sequential(nn.Conv2d(3, 5, 3), norm_layer(5), nn.ReLU()), nn.Linear(5, num_classes)

    def stem(self, x):
        return x

    def readers(self, stage):
        return [self.out]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "small", Architecture(Small, has_width=False))


def test_the_table_of_networks_needs_no_pytorch():
    code = "import sys, models; assert models.DEFAULT in models.ARCHITECTURES; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_row_may_be_a_function_and_a_network_may_have_one_size(small):
    model = build_model("small", 64, 7, image_size=24)
    assert model.spec | {"mean": 0, "std": 0} == {"arch": "small", "width": None, "num_classes": 7, "image_size": 24,
                                                  "mean": 0, "std": 0}
    assert build_model(**model.spec).spec == model.spec and models.small is Small
    assert model(torch.rand(2, 3, 24, 24)).shape == (2, 7)


def test_weights_that_no_file_claims_are_not_guessed(small):
    assert recognize(build_model("small", None, 7).state_dict()) is None
    weights = build_model("resnet18", 2, 3).state_dict()
    deeper = weights | {"layer3.2.conv1.weight": torch.zeros(8, 8, 3, 3)}  # a third block, so not ResNet-18
    assert recognize(weights)["arch"] == "resnet18" and recognize(deeper) is None


@pytest.mark.parametrize(("words", "width"), [
    ([], 64), (["--width", "8"], 8), (["--arch", "resnet18", "--width", "8"], 8), (["--arch", "small"], None),
    (["--width", "8", "--arch", "small"], "error"), (["--arch", "small", "--width", "8"], "error")])
def test_width_is_refused_for_a_network_of_one_size(small, words, width, capsys):
    parser = flags.Parser("text")
    flags.add_model_flags(parser)
    if width != "error":
        assert parser.parse_args(words).width == width
        return
    with pytest.raises(SystemExit):
        parser.parse_args(words)
    assert "small has one size, so --width has no effect" in capsys.readouterr().err


def test_a_name_that_is_no_network_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'resnet9000'"):
        models.resnet9000  # noqa: B018
