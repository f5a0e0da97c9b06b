import json
import math
import subprocess
import sys

import pytest
import torch
import torchvision
from helpers import runs
from helpers.paths import ROOT
from torch import nn

import models
from common.errors import UserError
from engine.command_line import flags
from engine.weights.checkpoint import load_model
from models import ARCHITECTURES, Architecture, build_model, preact_resnet, recognize, wide_resnet
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


def norm(name):
    """The keys of a batch norm."""
    return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]


def block(name, shortcut):
    """The keys of a pre-activation block."""
    return [*norm(f"{name}.bn1"), f"{name}.conv1.weight", *norm(f"{name}.bn2"), f"{name}.conv2.weight",
            *[f"{name}.{shortcut}.weight"] * bool(shortcut)]


def test_a_wide_resnet_has_the_fields_keys_and_size():
    model = build_model("wrn16-1", 64, 10)
    assert list(model.state_dict()) == [
        "conv1.weight", *block("block1.layer.0", ""), *block("block1.layer.1", ""),
        *block("block2.layer.0", "convShortcut"), *block("block2.layer.1", ""),
        *block("block3.layer.0", "convShortcut"), *block("block3.layer.1", ""), *norm("bn1"), "fc.weight", "fc.bias"]
    assert sum(value.numel() for value in model.parameters()) == 175_066
    assert [tuple(output.shape[1:]) for output in model.stage_outputs(torch.rand(2, 3, 32, 32), 3)] == [
        (16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert all((output < 0).any() for output in model.stage_outputs(torch.rand(2, 3, 32, 32), 3))


@pytest.mark.parametrize("block_class", [preact_resnet.PreActBlock, wide_resnet.Block])
def test_a_preactivation_blocks_shortcut_sees_the_activated_input(block_class):
    torch.manual_seed(0)
    made, x = block_class(3, 5, 2, nn.BatchNorm2d).eval(), torch.randn(2, 3, 8, 8)
    for part in (made.bn1, made.bn2):
        nn.init.normal_(part.weight), nn.init.normal_(part.bias)
    active = made.bn1(x).relu()
    shortcut = made.shortcut[0] if block_class is preact_resnet.PreActBlock else made.convShortcut
    torch.testing.assert_close(made(x), made.conv2(made.bn2(made.conv1(active)).relu()) + shortcut(active))
    same = block_class(3, 3, 1, nn.BatchNorm2d).eval()
    torch.testing.assert_close(same(x), same.conv2(same.bn2(same.conv1(same.bn1(x).relu())).relu()) + x)


def test_a_wide_resnet_begins_with_weights_by_what_its_filters_give():
    torch.manual_seed(0)
    first = build_model("wrn16-2", None, 10).block3.layer[0].conv1.weight  # from 64 channels to 128
    assert float(first.detach().std()) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


def test_a_preactivation_resnet_has_backdoorbenchs_keys_and_size():
    model = build_model("preactresnet18", 64, 10)
    assert list(model.state_dict()) == ["conv1.weight", *block("layer1.0", ""), *block("layer1.1", ""), *(
        key for stage in (2, 3, 4) for key in (*block(f"layer{stage}.0", "shortcut.0"), *block(f"layer{stage}.1", ""))),
        "linear.weight", "linear.bias"]
    assert sum(value.numel() for value in model.parameters()) == 11_171_146


def test_a_vgg_has_the_fields_keys_and_size():
    with torch.device("meta"):
        model, theirs = build_model("vgg19_bn", 64, 10), torchvision.models.vgg19_bn()
    features = [key for key in theirs.state_dict() if key.startswith("features.")]
    assert list(model.state_dict()) == [*features, "classifier.weight", "classifier.bias"]
    assert sum(value.numel() for value in model.parameters()) == 20_040_522
    with pytest.raises(UserError, match="vgg19_bn: takes images of at least 32 pixels a side, got 16"):
        build_model("vgg19_bn", 4, 10, image_size=16)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_torchvisions_networks_are_torchvisions(depth):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=7)
    ours = build_model(f"torchvision-resnet{depth}", 64, 7)
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(4, 3, 64, 64)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for mode in (True, False):  # first by the batch's statistics, then by those that it left
        torch.testing.assert_close(ours.train(mode)(images), theirs.train(mode)((images - mean) / std), rtol=1e-3,
                                   atol=1e-3)
    assert recognize(theirs.state_dict())["arch"] == f"torchvision-resnet{depth}"


@pytest.mark.parametrize(("name", "arch", "weights"), [
    ("wrn-40-2", "wrn40-2", 2_243_546), ("wrn-16-1", "wrn16-1", 175_066), ("wrn28-10", "wrn28-10", 36_479_194)])
def test_a_wide_resnet_of_any_depth_and_factor_is_built_and_recognized(name, arch, weights):
    parser = flags.Parser("text")
    flags.add_model_flags(parser)
    assert parser.parse_args(["--arch", name]).arch == arch
    with torch.device("meta"):
        model = build_model(name, None, 10)
    assert sum(value.numel() for value in model.parameters()) == weights and model.spec["arch"] == arch
    assert recognize(model.state_dict())["arch"] == arch


@pytest.mark.parametrize("name", ["wrn-17-1", "wrn16-0", "wrn-16", "wrn-106-1", "resnet19"])
def test_another_name_is_refused_with_those_that_there_are(name, capsys):
    parser = flags.Parser("text")
    flags.add_model_flags(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--arch", name])
    told = capsys.readouterr().err
    assert "--arch: expected one of the networks resnet18, preactresnet18, wrn16-1, vgg19_bn, " in told and name in told


@pytest.mark.parametrize(("words", "size"), [
    ([], None), (["--arch", "torchvision-resnet50"], 224), (["--arch", "wrn16-1"], None),
    (["--arch", "torchvision-resnet18", "--image-size", "64"], 64)])
def test_images_have_the_size_that_the_network_is_made_for(words, size):
    parser = flags.Parser("text")
    flags.add_data_flags(parser)
    flags.add_model_flags(parser)
    assert parser.parse_args(words).image_size == size


# The smallest form of each network that is not the scripts' default; ResNet-34 is made of ResNet-18's blocks.
NETWORKS = {name: ["--arch", name, *(["--width", "4"] if row.has_width else []), "--image-size", "32"]
            for name, row in ARCHITECTURES.items() if name not in (models.DEFAULT, "torchvision-resnet34")}


@pytest.mark.slow
@pytest.mark.parametrize("arch", [pytest.param(name, marks=[pytest.mark.long] if "torchvision" in name else [])
                                  for name in NETWORKS])
def test_pruners_run_on_every_network(arch, image_folder, tmp_path):
    """What asks most of the face, on a few images of noise."""
    images = ["--data-dir", str(image_folder(("a", "b", "c"), 30))]
    training = [*NETWORKS[arch], "--epochs", "1", "--batch-size", "30", "--crop-padding", "0", "--poison-rate", "0.3"]
    suspect = ["--checkpoint", str(tmp_path / "run/model_last.th")]

    def run(module, folder, *words):
        runs.main_of(module)([*words, *images, "--output-dir", str(tmp_path / folder)])
        return json.loads((tmp_path / folder / "results.json").read_text())
    run("train_backdoor", "run", *training)
    pruned = run("defenses.fine_prune", "fine-prune", *suspect, "--prune-fraction", "0.5", "--epochs", "1")
    assert pruned["spec"]["arch"] == arch and pruned["method"]["chosen"]["pruned"] == pruned["method"]["channels"] // 2
    head = load_model(tmp_path / "fine-prune/model_last.th").model.head.weight
    assert int((head == 0).all(0).sum()) == pruned["method"]["chosen"]["pruned"]
    run("generate_mask", "anp", *suspect, "--val-frac", "0.05", "--nb-iter", "2", "--batch-size", "4")
    assert run("prune_network", "pruned", "--mask-file", str(tmp_path / "anp/mask_values.txt"))["spec"]["arch"] == arch
    if arch == "preactresnet18":
        with pytest.raises(SystemExit):
            run("attacks.pruning_aware", "aware", *training)
        return
    stages = run("attacks.pruning_aware", "aware", *training)["method"]["stages"]
    assert stages[2]["acc"] == stages[3]["acc"]


@pytest.fixture(scope="module", params=NETWORKS)
def made_of(request, tmp_path_factory):
    """(name of a network, {name: path} of what the short runs of helpers/runs.py read, made of that network)."""
    root = tmp_path_factory.mktemp(request.param)
    return request.param, runs.make_inputs(root, [*NETWORKS[request.param], "--epochs", "2"])


def figures_in(value):
    """All numbers in the content of a results.json."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in figures_in(part)]
    return [value] if isinstance(value, (int, float)) else []


@pytest.mark.long
@pytest.mark.parametrize("module", runs.RUNS)
def test_every_script_runs_on_every_network(made_of, module, tmp_path):
    """Of the catalogue, so a new script is tested by being there."""
    arch, made = made_of
    words = runs.filled(made, runs.short_words(module))
    if "arch" in runs.flags_of(module):
        place = words.index("--image-size")
        del words[place:place + 2]  # the network's own
        place = words.index("--width")
        words[place:place + 2] = NETWORKS[arch]
    if (module, arch) == ("attacks.pruning_aware", "preactresnet18"):
        with pytest.raises(SystemExit) as stopped:
            runs.main_of(module)([*words, "--output-dir", str(tmp_path / "run")])
        assert stopped.value.code == 2 and not list(tmp_path.rglob("results.json"))
        return
    runs.main_of(module)([*words, "--output-dir", str(tmp_path / "run")])
    found = [json.loads(path.read_text()) for path in tmp_path.rglob("results.json")]
    assert found and all(math.isfinite(number) for number in figures_in(found))
    assert {results["spec"]["arch"] for results in found if "spec" in results} <= {arch}
    for path in tmp_path.rglob("model_last.th"):
        assert load_model(path).model.spec["arch"] == arch
