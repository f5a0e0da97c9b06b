import os
import re
import resource
import zipfile

import numpy as np
import pytest
import torch
from helpers.paths import ROOT

from common.errors import UserError
from common.untrusted.weights import SAFE_RELEASE, check_loader, read_tensors
from data.triggers import build_trigger, trigger_to_info
from engine.weights import checkpoint
from models import build_model


@pytest.fixture
def net():
    torch.manual_seed(0)
    return build_model("resnet18", 4, 10)


def rename_in_pickle(path, old, new):
    """Rewrite a torch file as another NumPy would have named its parts."""
    with zipfile.ZipFile(path) as archive:
        parts = [(item, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for item, content in parts:
            archive.writestr(item, content.replace(old, new) if item.filename.endswith(".pkl") else content)


def test_a_model_comes_back_with_what_made_it(net, tmp_path):
    checkpoint.save_model(tmp_path / "m.th", net, {"lr": 0.1}, {"asr": 1.0}, ("a", "b"))
    again = checkpoint.load_model(tmp_path / "m.th")
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.model.eval()(pixels), net.eval()(pixels))
    assert (again.args, again.metrics, again.classes) == ({"lr": 0.1}, {"asr": 1.0}, ("a", "b"))
    assert again.model.spec == net.spec
    plain = torch.load(tmp_path / "m.th", weights_only=True)
    assert set(plain) == {"state_dict", "spec", "classes", "args", "metrics"} and plain["spec"] == net.spec


def test_a_model_is_rebuilt_from_its_spec_alone(tmp_path):
    """Its mean, std and size are in no shape of its weights."""
    net = build_model("resnet18", 4, 10, image_size=48, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 1))
    checkpoint.save_model(tmp_path / "m.th", net, {}, {})
    again, pixels = checkpoint.load_model(tmp_path / "m.th").model, torch.rand(2, 3, 48, 48)
    assert again.spec == net.spec and again.spec["image_size"] == 48
    assert torch.equal(again.eval()(pixels), net.eval()(pixels))


def test_weights_in_half_precision_come_back_as_float32(net, tmp_path):
    """As zoo/badnets-full-width has them, to be half as large."""
    weights = {name: value.half() if value.is_floating_point() else value for name, value in net.state_dict().items()}
    checkpoint.save(tmp_path / "m.th", {"state_dict": weights, "spec": net.spec, "classes": [], "args": {},
                                        "metrics": {}})
    again = checkpoint.load_model(tmp_path / "m.th").model
    assert {weight.dtype for weight in again.parameters()} == {torch.float32}
    assert torch.equal(again.conv1.weight, net.conv1.weight.half().float())
    again.eval()(torch.rand(2, 3, 32, 32))


def test_the_size_is_read_without_a_random_number(net, tmp_path):
    checkpoint.save_model(tmp_path / "m.th", build_model("resnet18", 1, 2, image_size=48), {}, {})
    before = torch.random.get_rng_state()
    assert checkpoint.saved_image_size(tmp_path / "m.th") == 48 and checkpoint.saved_image_size(None) is None
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_file_from_before_there_was_a_spec_loads(net, tmp_path):
    torch.save({"state_dict": net.state_dict(), "arch": "resnet18", "width": 4, "num_classes": 10, "classes": ["a"],
                "args": {"lr": 1}, "metrics": {}}, tmp_path / "m.th")
    again = checkpoint.load_model(tmp_path / "m.th")
    assert again.model.spec == net.spec and again.args == {"lr": 1} and again.classes == ("a",)
    assert torch.equal(again.model.layer4[1].conv2.weight, net.layer4[1].conv2.weight)


@pytest.mark.parametrize(("change", "named"), [
    ({"arch": "vgg99"}, "expected one of the networks resnet18, .*, got vgg99"), ({"arch": None}, "got NoneType"),
    ({"width": 8}, r"conv1.weight is \(4, 3, 3, 3\), expected \(8, 3, 3, 3\)"),
    ({"width": 10**9}, "claims to be of width 1000000000; expected 1 to 4096"), ({"width": True}, "width True"),
    ({"num_classes": 0}, "num_classes 0"), ({"image_size": "32"}, "image_size str"),
    ({"mean": (0, 0)}, "three means"), ({"mean": (0, 0, float("nan"))}, "three means"),
    ({"std": (1, 1, 0)}, "three stds of pixels, .* above 0"), ({"std": 1}, "three stds")])
def test_a_spec_that_no_network_has_is_refused(net, tmp_path, change, named):
    checkpoint.save(tmp_path / "m.th", {"state_dict": net.state_dict(), "spec": net.spec | change})
    with pytest.raises(UserError, match=named):
        checkpoint.load_model(tmp_path / "m.th")


@pytest.mark.parametrize("spec", [None, [], {}, "resnet18"])
def test_what_is_no_spec_is_refused(net, tmp_path, spec):
    checkpoint.save(tmp_path / "m.th", {"state_dict": net.state_dict(), "spec": spec})
    with pytest.raises(UserError, match=r"m\.th: (damaged, expected a dict|expected one of the networks)"):
        checkpoint.load_model(tmp_path / "m.th")


@pytest.mark.parametrize("wrap", [
    lambda weights: weights, lambda weights: {"state_dict": weights}, lambda weights: {"net": weights, "acc": 93.0},
    lambda weights: {f"module.{name}": value for name, value in weights.items()},
    lambda weights: {name: value for name, value in weights.items() if "num_batches" not in name}])
def test_strangers_state_dicts_load_and_name_their_own_width(net, tmp_path, wrap):
    torch.save(wrap(net.state_dict()), tmp_path / "m.th")
    again = checkpoint.load_model(tmp_path / "m.th")
    assert again.model.spec == net.spec
    assert torch.equal(again.model.layer4[1].conv2.weight, net.layer4[1].conv2.weight)


def drop(weights):
    del weights["layer1.0.bn1.weight"]


def add(weights):
    weights["fc.weight"] = torch.zeros(1)


def spoil(weights):
    weights["linear.bias"] = torch.full((10,), float("nan"))


def reshape(weights):
    weights["layer4.1.conv2.weight"] = torch.zeros(1, 2, 3, 3)


@pytest.mark.parametrize("change, named", [
    (spoil, "linear.bias holds NaN or inf"), (drop, "missing layer1.0.bn1.weight"),
    (add, "unexpected fc.weight"),
    (reshape, r"layer4.1.conv2.weight is \(1, 2, 3, 3\), expected \(32, 32, 3, 3\)")])
def test_weights_that_do_not_fit_are_named(net, tmp_path, change, named):
    weights = net.state_dict()
    change(weights)
    torch.save(weights, tmp_path / "m.th")
    with pytest.raises(UserError, match=named):
        checkpoint.load_model(tmp_path / "m.th")


def test_another_number_of_classes_is_refused(net, tmp_path):
    checkpoint.save_model(tmp_path / "m.th", net, {}, {})
    with pytest.raises(UserError, match="10 classes, but the data set has 43"):
        checkpoint.load_model(tmp_path / "m.th", classes=range(43))


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 torn", b"\x80\x02}q\x00."])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "m.th").write_bytes(content)
    with pytest.raises(UserError, match=r"m\.th: ") as refused:
        checkpoint.load_model(tmp_path / "m.th")
    assert "\n" not in str(refused.value)


def test_a_torn_checkpoint_is_refused_wherever_it_is_torn(net, tmp_path):
    checkpoint.save_model(tmp_path / "m.th", net, {}, {})
    whole = (tmp_path / "m.th").read_bytes()
    for length in range(0, len(whole), len(whole) // 60):
        (tmp_path / "m.th").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"m\.th: "):
            checkpoint.load_model(tmp_path / "m.th")


def test_other_classes_of_the_same_number_are_refused(net, tmp_path):
    checkpoint.save_model(tmp_path / "m.th", net, {}, {}, tuple("0123456789"))
    with pytest.raises(UserError, match="made for the classes 0, 1, 2"):
        checkpoint.load_model(tmp_path / "m.th", classes=tuple("abcdefghij"))
    assert checkpoint.load_model(tmp_path / "m.th", classes=tuple("0123456789"))


@pytest.mark.parametrize("value", [[1, 2], {"epoch": 3}, torch.zeros(3), {"state_dict": {"a": "b"}},
                                   {1: torch.zeros(2)}, {}])
def test_a_torch_file_without_weights_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "m.th")
    with pytest.raises(UserError):
        checkpoint.load_model(tmp_path / "m.th")


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "extra": Evil()}, "evil.th")
    with pytest.raises(UserError, match=r"evil\.th: refused, it refers to \w+\.system") as refused:
        read_tensors("evil.th")
    assert "\n" not in str(refused.value) and not os.path.exists("ran")


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_a_homework_trigger_loads_whichever_numpy_wrote_it(tmp_path, images, module):
    trigger = build_trigger("blend", 3)
    info = trigger_to_info(trigger, [1, 2]) | {"trigger_alpha": np.float64(0.2)}
    torch.save(info, tmp_path / "trigger_info.th")
    for written in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        rename_in_pickle(tmp_path / "trigger_info.th", written, module)
    with zipfile.ZipFile(tmp_path / "trigger_info.th") as archive:
        assert module in b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".pkl"))
    again = checkpoint.load_trigger(tmp_path / "trigger_info.th")
    np.testing.assert_array_equal(again.stamp(images.data), trigger.stamp(images.data))


def test_a_trigger_that_poisoned_nothing_loads(tmp_path):
    checkpoint.save_trigger(tmp_path / "t.th", build_trigger("badnets", 0))
    assert read_tensors(tmp_path / "t.th")["data_index"].shape == (0,)


def test_a_fractional_mask_keeps_its_fractions(tmp_path):
    trigger = build_trigger("badnets", 0)
    soft = type(trigger)(trigger.pattern, trigger.mask * np.float32(0.123), 1.0, 0)
    checkpoint.save_trigger(tmp_path / "t.th", soft, [1])
    assert checkpoint.load_trigger(tmp_path / "t.th").mask.max() == np.float32(0.123)


def test_a_trigger_file_that_holds_none_names_the_file(tmp_path):
    torch.save([1], tmp_path / "t.th")
    with pytest.raises(UserError, match=r"t\.th: expected a trigger_info dict"):
        checkpoint.load_trigger(tmp_path / "t.th")
    with pytest.raises(UserError, match=r"none\.th: no such file"):
        checkpoint.load_trigger(tmp_path / "none.th")


@pytest.mark.parametrize("release, is_safe", [("2.5.1", False), ("2.9.1+cu128", False), ("1.13", False),
                                              ("2.10.0", True),
                                              ("2.14.1+cu130", True), ("3.0.0a0", True)])
def test_a_loader_that_files_can_take_over_is_not_used(release, is_safe):
    if is_safe:
        check_loader(release)
    else:
        with pytest.raises(UserError, match=f"PyTorch {re.escape(release)}: .*CVE-2026-24747"):
            check_loader(release)


def test_requirements_shut_out_what_the_loader_refuses():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert f"torch>={'.'.join(map(str, SAFE_RELEASE))}" in lines


def test_an_archive_that_unpacks_to_more_than_it_holds_is_refused(net, tmp_path):
    checkpoint.save_model(tmp_path / "m.th", net, {}, {})
    with zipfile.ZipFile(tmp_path / "m.th") as whole, zipfile.ZipFile(
            tmp_path / "packed.th", "w", zipfile.ZIP_DEFLATED) as packed:
        for info in whole.infolist():
            packed.writestr(info.filename, whole.read(info))
        packed.writestr("archive/data/999", bytes(10**7))
    with pytest.raises(UserError, match=r"packed\.th: refused, it holds \d+ bytes and claims to unpack to 1\d{7}"):
        checkpoint.load_model(tmp_path / "packed.th")


@pytest.mark.parametrize("claim, refused", [
    (torch.zeros(1000, 3, 3, 3), "resnet18 of width 1000 takes"),
    (torch.zeros(5000, 3, 3, 3), "claims to be of width 5000"),
    (torch.zeros(1).expand(10**9, 3, 3, 3), r"conv1\.weight is sparse, nested or without memory of its own")])
def test_a_width_that_the_file_only_claims_takes_no_memory(net, tmp_path, claim, refused):
    torch.save({**net.state_dict(), "conv1.weight": claim}, tmp_path / "m.th")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=refused):
        checkpoint.load_model(tmp_path / "m.th")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


@pytest.mark.parametrize("classes", [5, [1, 2], "ab", {"a": 1}, [["a"]]])
def test_classes_that_are_no_names_are_refused(net, tmp_path, classes):
    torch.save({"state_dict": net.state_dict(), "arch": "resnet18", "classes": classes}, tmp_path / "m.th")
    with pytest.raises(UserError, match="its classes are not names"):
        checkpoint.load_model(tmp_path / "m.th")


@pytest.mark.parametrize("change", [{"arch": [["x"] * 9] * 9}, {"state_dict": {
    "conv1.weight": torch.zeros(0, 3, 3, 3), "linear.weight": torch.zeros(10, 0)}}])
def test_odd_networks_are_refused_in_a_short_line(tmp_path, change, recwarn):
    path = tmp_path / "model.th"
    model = build_model("resnet18", 1, 2)
    checkpoint.save(path, {"state_dict": model.state_dict(), "arch": "resnet18", "classes": [], "args": {},
                           "metrics": {}, **change})
    with pytest.raises(UserError) as refused:
        checkpoint.load_model(path)
    assert len(str(refused.value)) < 400 and not recwarn.list
