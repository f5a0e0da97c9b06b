"""The data set of a model's own run, which a defense takes unless it is told another."""
import json

import pytest

from defenses import clp, spectral_signatures, strip
from engine.command_line.inherit import dataset_of_model


@pytest.fixture
def made_on(tmp_path, monkeypatch):
    """A run's folder whose config.json has these arguments, beneath a folder that has images in `pictures`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures/train/a").mkdir(parents=True)

    def make(**arguments):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run/config.json").write_text(json.dumps({"arguments": arguments}))
        return ["--checkpoint", "run/model_last.th"]
    return make


def named(argv, script=strip):
    args = script.parse_args(argv)
    return args.dataset, args.data_dir


def test_the_data_set_and_the_folder_are_those_of_the_models_run(made_on):
    assert named(made_on(dataset="digits", data_dir="data")) == ("digits", "data")
    assert named(made_on(dataset="gtsrb", data_dir="pictures")) == ("gtsrb", "pictures")


def test_what_is_given_counts(made_on):
    model = made_on(dataset="gtsrb", data_dir="pictures")
    assert named([*model, "--data-dir", "elsewhere"]) == ("gtsrb", "elsewhere")
    assert named([*model, "--dataset", "mnist"]) == ("mnist", "data")
    assert named([*model, "--dataset", "gtsrb"]) == ("gtsrb", "pictures")


def test_digits_are_not_looked_for_in_a_folder_that_is_given(made_on):
    assert named([*made_on(dataset="digits"), "--data-dir", "pictures"]) == ("cifar10", "pictures")


@pytest.mark.parametrize("arguments", [{}, {"dataset": "imagenet"}, {"dataset": ["digits"]},
                                       {"dataset": "cifar10", "data_dir": "/no/such/folder"},
                                       {"dataset": "cifar10", "data_dir": 3}])
def test_what_a_strangers_file_cannot_mean_leaves_the_usual(made_on, arguments):
    assert named(made_on(**arguments)) == ("cifar10", "data")


def test_without_a_file_beside_the_model_it_is_the_usual(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named(["--checkpoint", "stranger.th"]) == ("cifar10", "data")


def test_a_detector_finds_the_run_by_its_attack(made_on, tmp_path):
    made_on(dataset="digits")
    (tmp_path / "output").mkdir()
    (tmp_path / "run").rename(tmp_path / "output/blend")
    assert named(["--poison-type", "blend"], spectral_signatures) == ("digits", "data")
    assert named(["--poison-type", "badnets"], spectral_signatures) == ("cifar10", "data")


def test_a_script_that_needs_no_images_takes_none_by_itself(made_on):
    from defenses import max_margin
    assert named(made_on(dataset="digits"), max_margin) == (None, None)
    assert named(made_on(dataset="digits"), clp) == ("digits", "data")
    assert dataset_of_model(max_margin.parse_args([*made_on(dataset="mnist"), "--data-dir", "x"])) == "mnist"
