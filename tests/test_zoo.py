"""The committed models give the committed figures again, on the real images where they are."""
import json
import os
import subprocess

import pytest
import torch
from helpers.paths import ROOT

from data.datasets import load_splits
from data.poison_cifar import stamp_all
from engine.measuring.evaluation import EvalSets, evaluate
from engine.weights import checkpoint
from models.base import MEAN, STD

pytestmark = pytest.mark.slow

MODELS = sorted(path.parent.name for path in (ROOT / "zoo").glob("*/model_last.th"))
FULL = "-full-width"
RESULTS = ("cifar10-jpeg-width16/{}", "lecture-abl/{}/seed-0", "wanet-wrn/{}",
           "full-width/{}")  # where their logs are, beneath results/
SPECS = ({"arch": "resnet18", "width": 16}, *2 * [{"arch": "wrn16-1", "width": None}],
         {"arch": "resnet18", "width": 64})  # by the same order
FOLDER, ARCHIVE = ROOT / "data/cifar10-jpeg", ROOT.parent / "shared/data/cifar10-jpeg.tar.xz"


@pytest.fixture(scope="module")
def cifar_test(tmp_path_factory):
    """The 10,000 test images of CIFAR-10 (JPEG)."""
    torch.set_num_threads(os.cpu_count() or 1)  # see conftest.py; networks of width 16 are safe
    folder = FOLDER
    if not folder.is_dir():
        if not ARCHIVE.exists():
            pytest.skip("needs CIFAR-10 (JPEG) in data/cifar10-jpeg, which is not here")
        folder = tmp_path_factory.mktemp("data") / "cifar10-jpeg"
        folder.mkdir()
        subprocess.run(["tar", "xf", ARCHIVE, "-C", folder], check=True)
    yield load_splits("cifar10", folder)[2]
    torch.set_num_threads(1)


def log_of(name):
    """(number of its place in RESULTS, the results.json) of a model's own run."""
    paths = [ROOT / "results" / place.format(name.removesuffix(FULL)) / "results.json" for place in RESULTS]
    number = len(paths) - 1 if name.endswith(FULL) else next(i for i, path in enumerate(paths) if path.exists())
    return number, json.loads(paths[number].read_text())


@pytest.mark.parametrize("name", MODELS)
def test_it_loads_without_running_anything(name):
    found = checkpoint.load_model(ROOT / "zoo" / name / "model_last.th")
    own = SPECS[log_of(name)[0]]
    assert found.model.spec == {**own, "num_classes": 10, "image_size": 32, "mean": MEAN, "std": STD}
    assert found.classes[0] == "airplane" and name.startswith(found.args.get("poison_type", name))
    assert checkpoint.load_trigger(ROOT / "zoo" / name / "trigger_info.th").target == 0


@pytest.mark.long  # up to half a minute each, and minutes at the full width
@pytest.mark.parametrize("name", MODELS)
def test_it_has_the_accuracy_and_asr_of_its_log(name, cifar_test):
    _, logged = log_of(name)
    model = checkpoint.load_model(ROOT / "zoo" / name / "model_last.th", classes=cifar_test.classes).model
    triggered = stamp_all(cifar_test, checkpoint.load_trigger(ROOT / "zoo" / name / "trigger_info.th"))
    figures = evaluate(model, EvalSets.on(torch.device("cpu"), cifar_test, triggered)).figures()
    for figure in ("acc", "asr", "robust_acc"):  # another processor may round a few images to another class
        assert figures[figure]["value"] == pytest.approx(logged[figure]["value"], abs=0.002)
        assert figures[figure]["n"] == logged[figure]["n"]
