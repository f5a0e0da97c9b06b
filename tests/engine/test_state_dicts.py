"""Weights as other programs save them."""
import argparse
import collections

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image

from common.errors import UserError
from engine.weights import checkpoint
from models import build_model
from models.pixel_input import PixelInput


@pytest.fixture
def net():
    torch.manual_seed(0)
    return build_model("resnet18", 2, 10)


def prefixed(weights, prefix):
    return {f"{prefix}{name}": value for name, value in weights.items()}


def other_than(weights):
    """Weights of the same network with other values."""
    return {name: value + 1 for name, value in weights.items()}


def counted_as(weights, kind):
    return {name: value.to(kind) if name.endswith("num_batches_tracked") else value for name, value in weights.items()}


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(2, 3, 3, 3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
WRAPPED = {
    "PyTorch's tutorial": lambda w: {"epoch": 9, "model_state_dict": w, "optimizer_state_dict": OPTIMIZER, "loss": 0.1},
    "WaNet": lambda w: {"netC": w, "schedulerC": {"last_epoch": 3}, "netG": {"conv1.weight": torch.ones(2, 3, 3, 3)}},
    "Lightning": lambda w: {"state_dict": prefixed(w, "model.") | {"criterion.weight": torch.ones(10)}, "epoch": 3,
                            "pytorch-lightning_version": "2.0", "hyper_parameters": {"lr": 0.1}},
    "torch.compile": lambda w: prefixed(w, "_orig_mod."),
    "DataParallel in a module": lambda w: {"state_dict": prefixed(w, "module.backbone.")},
    "counts of int32": lambda w: counted_as(w, torch.int32),
    "counts of int16": lambda w: counted_as(w, torch.int16),
    "counts as floats": lambda w: counted_as(w, torch.float32),
    "half precision": lambda w: {name: value.half() for name, value in w.items()},
    "NumPy arrays": lambda w: {"params": {name: np.asarray(value) for name, value in w.items()}},
    "a tuple": lambda w: (w, 93.1), "a deep one": lambda w: {"a": [{"b": {"c": w}}]},
    "values beside the weights": lambda w: w | {"epoch": 3, "acc": 93.1},
    "Parameters": lambda w: {name: torch.nn.Parameter(value) if value.is_floating_point() else value
                             for name, value in w.items()},
    "the same twice": lambda w: {"best": w, "last": {name: value.clone() for name, value in w.items()}}}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_weights_are_found_however_they_are_wrapped(net, tmp_path, wrap):
    """The kind: tensors of a known network that lie deeper, or are called longer, than a bare state_dict's.

    Of it the users met four, a wrapper's name, a prefix, a type of the counts and (below) a format; the rest are
    siblings.
    """
    torch.save(wrap(net.state_dict()), tmp_path / "m.pt")
    again, pixels = checkpoint.load_model(tmp_path / "m.pt").model, torch.rand(2, 3, 32, 32)
    assert again.spec == net.spec
    assert torch.allclose(again.eval()(pixels), net.eval()(pixels), atol=0.05)


@pytest.mark.parametrize("suffix", [".pt", ".th", ".bin", ""])
def test_a_safetensors_file_is_read_whatever_it_is_called(net, tmp_path, suffix):
    safetensors.torch.save_file({name: value.contiguous() for name, value in net.state_dict().items()},
                                tmp_path / f"m{suffix}")
    assert torch.equal(checkpoint.load_model(tmp_path / f"m{suffix}").model.linear.weight, net.linear.weight)


def test_a_torch_file_is_read_although_it_is_called_safetensors(net, tmp_path):
    for new_format in (True, False):
        torch.save(net.state_dict(), tmp_path / "m.safetensors", _use_new_zipfile_serialization=new_format)
        assert torch.equal(checkpoint.load_model(tmp_path / "m.safetensors").model.linear.weight, net.linear.weight)


@pytest.mark.parametrize("wrap, names", [
    (lambda w: {"netC": w, "teacher": other_than(w)}, "netC, teacher"),
    (lambda w: {"state_dict": w, "state_dict_ema": other_than(w)}, "state_dict, state_dict_ema"),
    (lambda w: {"state_dict": prefixed(w, "student.") | prefixed(other_than(w), "teacher.")},
     r"state_dict > student\.\*, state_dict > teacher\.\*")])
def test_of_two_networks_none_is_guessed(net, tmp_path, monkeypatch, wrap, names):
    """What the line says to do takes the first out, which is then read."""
    monkeypatch.chdir(tmp_path)
    torch.save(wrap(net.state_dict()), "m.pt")
    with pytest.raises(UserError, match=f"m.pt: holds several networks: {names}; save the one that is meant") as told:
        checkpoint.load_model("m.pt")
    exec(str(told.value).rpartition("as in ")[2], {"torch": torch})
    assert torch.equal(checkpoint.load_model("one.th").model.linear.weight, net.linear.weight)


def test_of_two_networks_the_one_that_is_whole_is_read(net, tmp_path):
    torn = other_than(net.state_dict())
    del torn["layer3.0.bn1.weight"]
    torch.save({"a": torn, "b": net.state_dict()}, tmp_path / "m.pt")
    assert torch.equal(checkpoint.load_model(tmp_path / "m.pt").model.linear.weight, net.linear.weight)


def test_one_network_that_does_not_fit_is_told_by_its_keys(net, tmp_path):
    torn = prefixed(net.state_dict(), "model.")
    del torn["model.layer3.0.bn1.weight"]
    torch.save({"epoch": 3, "state_dict": torn}, tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"does not fit the network: missing layer3\.0\.bn1\.weight"):
        checkpoint.load_model(tmp_path / "m.pt")


def test_a_file_of_very_many_networks_is_refused_at_once(net, tmp_path):
    torch.save([{"conv1.weight": torch.full((1, 3, 3, 3), i), "linear.weight": torch.ones(2, 8)} for i in range(300)],
               tmp_path / "m.pt")
    with pytest.raises(UserError, match="more than 50 networks"):
        checkpoint.load_model(tmp_path / "m.pt")


def test_names_of_very_many_parts_take_no_time(tmp_path):
    torch.save({f"{i}." * 2000 + "conv1.weight": torch.zeros(1) for i in range(200)}, tmp_path / "m.pt")
    with pytest.raises(UserError, match="expected the weights of one of the networks") as told:
        checkpoint.load_model(tmp_path / "m.pt")
    assert len(str(told.value)) < 600


def torchvision_weights(name, **options):
    """The names of a network of torchvision's, and the shapes of those by which it is known."""
    with torch.device("meta"):
        weights = getattr(torchvision.models, name)(num_classes=7, **options).state_dict()
    shaped = ("conv1.weight", "layer1.0.conv1.weight", "fc.weight")
    return {name: torch.zeros(value.shape if name in shaped else 1) for name, value in weights.items()}


@pytest.mark.parametrize("wrap", [dict, collections.OrderedDict, lambda w: {"state_dict": prefixed(w, "model.")},
                                  lambda w: prefixed(w, "module.")])
def test_torchvisions_resnet_is_read_and_fed_as_torchvision_feeds_it(tmp_path, caplog, wrap):
    torch.save(wrap(torchvision.models.resnet18(num_classes=7).state_dict()), tmp_path / "m.pt")
    caplog.set_level("INFO")
    assert checkpoint.load_model(tmp_path / "m.pt").model.spec == {
        "arch": "torchvision-resnet18", "width": 64, "num_classes": 7, "image_size": 224,
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    assert "pixels enter as is usual for torchvision-resnet18 (--mean imagenet --std imagenet)" in caplog.text


def test_wide_resnets_weights_are_fed_raw_pixels_unless_a_flag_says_otherwise(tmp_path, caplog):
    torch.save(build_model("wrn10-1", None, 4).state_dict(), tmp_path / "m.th")
    caplog.set_level("INFO")
    spec = checkpoint.load_model(tmp_path / "m.th").model.spec
    assert (spec["arch"], spec["mean"], spec["std"]) == ("wrn10-1", (0, 0, 0), (1, 1, 1))
    assert "usual for wrn10-1 (--mean none --std none)" in caplog.text
    caplog.clear()
    given = PixelInput((0.5,) * 3, (0.25,) * 3)
    assert checkpoint.load_model(tmp_path / "m.th", given=given).model.spec["std"] == (0.25,) * 3
    assert not caplog.text


@pytest.mark.parametrize("weights, kind", [
    (lambda: torchvision_weights("wide_resnet50_2"), "a ResNet with torchvision's names"),
    (lambda: torchvision_weights("resnet101"), "a ResNet with torchvision's names"),
    (lambda: torchvision_weights("resnet18") | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, "another first layer"),
    (lambda: {name: torch.zeros(1) for name in ("features.0.weight", "classifier.0.weight", "classifier.6.weight")},
     "a VGG with three layers in its classifier"),
    (lambda: {name: torch.zeros(8, 8, 3, 3) for name in ("features.0.weight", "features.40.weight",
                                                         "classifier.weight")}, "a VGG of another depth"),
    (lambda: build_model("preactresnet18", 2, 4).state_dict() | {"bn.weight": torch.zeros(16)},
     "a norm before its pooling")])
def test_a_known_network_that_is_none_of_ours_is_called_by_its_name(tmp_path, weights, kind):
    torch.save({"state_dict": prefixed(weights(), "model.")}, tmp_path / "m.pt")
    with pytest.raises(UserError, match=f"expected the weights of one of the networks .* these are of .*{kind}"):
        checkpoint.load_model(tmp_path / "m.pt")


@pytest.mark.parametrize("wrap", [
    lambda own, mean, std: {**{f"1.{name}": value for name, value in own.items()}, "0.mean": mean, "0.std": std},
    lambda own, mean, std: {"net": {**{f"model.{name}": value for name, value in own.items()},
                                    "normalize.mu": mean.view(1, 3, 1, 1), "normalize.sigma": std.view(1, 3, 1, 1)}},
    lambda own, mean, std: {**{f"module.{name}": value for name, value in own.items()}, "module.normalize.mean": mean,
                            "module.normalize.std": std},
    lambda own, mean, std: {**own, "mean": 255 * mean, "std": 255 * std}])
def test_a_layer_that_normalizes_before_the_network_is_read(tmp_path, wrap):
    mean, std = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([0.25, 0.5, 1.0])
    net = build_model("resnet18", 2, 10, mean=mean.tolist(), std=std.tolist()).eval()
    torch.save(wrap(net.state_dict(), mean, std), tmp_path / "m.th")
    pixels = torch.rand(2, 3, 32, 32)
    read = checkpoint.load_model(tmp_path / "m.th").model.eval()
    assert torch.equal(read(pixels), net(pixels))
    given = checkpoint.load_model(tmp_path / "m.th", given=PixelInput((0.5,) * 3, (0.5,) * 3)).model.eval()
    assert not torch.allclose(given(pixels), net(pixels))  # what the caller says counts


@pytest.mark.parametrize("beside", [{"a.mean": torch.zeros(4), "a.std": torch.ones(4)}, {"a.mean": torch.zeros(3)},
                                    {"a.mean": torch.zeros(3), "a.std": torch.zeros(3)}])
def test_what_no_normalization_of_pixels_is_stays_unread(tmp_path, beside):
    net = build_model("resnet18", 2, 10)
    torch.save({**{f"1.{name}": value for name, value in net.state_dict().items()}, **beside}, tmp_path / "m.th")
    assert checkpoint.load_model(tmp_path / "m.th").model.spec == net.spec


@pytest.mark.parametrize("change, said", [
    (lambda weight: weight.to(torch.int8), "conv1.weight is of int8, expected floating point; save it before quanti"),
    (lambda weight: weight * float("inf"), "conv1.weight holds NaN or infinity")])
def test_a_weight_that_no_network_has_is_refused_by_its_fault(tmp_path, change, said):
    weights = build_model("resnet18", 2, 10).state_dict()
    torch.save({**weights, "conv1.weight": change(weights["conv1.weight"])}, tmp_path / "m.th")
    with pytest.raises(UserError, match=said):
        checkpoint.load_model(tmp_path / "m.th")


@pytest.mark.parametrize("beside", [argparse.Namespace(lr=0.1), Image.new("RGB", (2, 2)), torch.nn.Linear(1, 1)])
def test_objects_in_a_checkpoint_are_refused_whatever_they_are(tmp_path, beside):
    torch.save({"state_dict": build_model("resnet18", 2, 10).state_dict(), "beside": beside}, tmp_path / "m.th")
    with pytest.raises(UserError, match=r"which could run code; save model.state_dict\(\) by itself"):
        checkpoint.load_model(tmp_path / "m.th")
