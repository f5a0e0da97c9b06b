"""The data set of a model's own run, which a defense takes unless it is told another."""
import json

import pytest

import generate_mask
import prune_network
import train_backdoor
from defenses import max_margin, nad, spectral_signatures, strip
from engine.command_line.inherit import inherit


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


def test_an_attack_goes_on_with_the_images_of_what_another_script_left_for_it(made_on, tmp_path):
    made_on(dataset="digits", data_dir="data")
    for kind, own in (("clean-label", ["--clb-dir", "run"]), ("feature-collision", ["--fc-dir", "run/"]),
                      ("trojan", ["--patch", "run/patch.png"]), ("issba", ["--encoder", "run/encoder.th"]),
                      ("stored", ["--trigger-file", "run/trigger_info.th"])):
        words = ["--poison-type", kind, *own]
        assert named(words, train_backdoor) == ("digits", "data")
        assert named([*words, "--dataset", "mnist"], train_backdoor) == ("mnist", "data")
        assert named([*words, "--data-dir", "pictures"], train_backdoor) == ("cifar10", "pictures")


def test_a_run_that_is_resumed_goes_on_with_its_own_images(made_on):
    made_on(dataset="cifar10", data_dir="pictures")
    assert named(["--resume", "--output-dir", "run"], train_backdoor) == ("cifar10", "pictures")
    assert named(["--resume", "--output-dir", "run", "--data-dir", "data"], train_backdoor) == ("cifar10", "data")
    assert named(["--output-dir", "run"], train_backdoor) == ("cifar10", "data")
    made_on(dataset="cifar10", data_dir="run/images")  # which came with it
    assert named(["--resume", "--output-dir", "run"], train_backdoor) == ("cifar10", "data")


def test_images_that_came_with_an_attacks_input_are_not_taken(made_on, tmp_path):
    made_on(dataset="gtsrb", data_dir="run/images")
    (tmp_path / "run/images/train/a").mkdir(parents=True)
    assert named(["--poison-type", "trojan", "--patch", "run/patch.png"], train_backdoor) == ("gtsrb", "data")


def test_a_folder_that_is_not_there_is_not_answered_by_the_one_above_it(made_on):
    made_on(dataset="digits")
    assert named(["--poison-type", "clean-label", "--clb-dir", "run/none"], train_backdoor) == ("cifar10", "data")


def test_the_help_names_the_flags_whose_images_are_taken(capsys):
    for script, words in ((train_backdoor, "that of what is given as --clb-dir, --encoder"),
                          (spectral_signatures, "names, or that of what is given as --clb-dir")):
        with pytest.raises(SystemExit):
            script.parse_args(["--help"])
        assert words in " ".join(capsys.readouterr().out.split())


def test_what_an_attack_does_not_begin_with_says_nothing(made_on, tmp_path):
    made_on(dataset="digits", data_dir="data")
    (tmp_path / "data/clean-label").mkdir(parents=True)
    (tmp_path / "run").rename(tmp_path / "data/clean-label/0.1")  # where clean-label's flag leads by default
    assert named(["--poison-type", "clean-label"], train_backdoor) == ("digits", "data")
    for kind in ("badnets", "sig", "trojan"):
        assert named(["--poison-type", kind], train_backdoor) == ("cifar10", "data")


def test_a_detector_takes_its_models_images_before_its_attacks(made_on, tmp_path):
    model = made_on(dataset="mnist", data_dir="data")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/config.json").write_text(json.dumps({"arguments": {"dataset": "digits"}}))
    attack = ["--poison-type", "clean-label", "--clb-dir", "set"]
    assert named([*model, *attack], spectral_signatures)[0] == "mnist"
    assert named(["--checkpoint", "stranger.th", *attack], spectral_signatures)[0] == "digits"


def test_what_is_given_counts(made_on):
    model = made_on(dataset="gtsrb", data_dir="pictures")
    assert named([*model, "--data-dir", "elsewhere"]) == ("gtsrb", "elsewhere")
    for name in ("mnist", "gtsrb"):
        assert named([*model, "--dataset", name]) == (name, "data")
        assert named([*model, "--data-dir", "elsewhere", "--dataset", name]) == (name, "elsewhere")


def test_in_a_folder_with_several_data_sets_it_is_the_models(made_on, tmp_path):
    for place in ("MNIST/raw/train-images-idx3-ubyte", "cifar-10-batches-py/data_batch_1"):
        (tmp_path / "both" / place).parent.mkdir(parents=True)
        (tmp_path / "both" / place).touch()
    assert named([*made_on(dataset="mnist"), "--data-dir", "both"]) == ("mnist", "both")


def test_digits_are_not_looked_for_in_a_folder_of_images_that_is_given(made_on):
    model = made_on(dataset="digits", data_dir="data")
    assert named([*model, "--data-dir", "pictures"]) == ("cifar10", "pictures")
    assert named([*model, "--data-dir", "data"]) == ("digits", "data")
    assert named([*model, "--data-dir", "mistyped"]) == ("cifar10", "mistyped")  # which is then said not to be there


def test_a_model_above_the_current_folder_does_not_make_its_images_a_strangers(made_on, tmp_path, monkeypatch):
    made_on(dataset="cifar10", data_dir=str(tmp_path / "run/work/pictures"))
    (tmp_path / "run/work/pictures/train/a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run/work")
    assert named(["--checkpoint", "../model_last.th"]) == ("cifar10", str(tmp_path / "run/work/pictures"))


def test_images_that_came_with_a_model_are_not_taken(made_on, tmp_path):
    model = made_on(dataset="cifar10", data_dir=str(tmp_path / "run/pictures"))
    (tmp_path / "run/pictures/train/a").mkdir(parents=True)
    assert named(model) == ("cifar10", "data")
    assert named(made_on(dataset="cifar10", data_dir=str(tmp_path / "pictures"))) == (
        "cifar10", str(tmp_path / "pictures"))


@pytest.mark.parametrize("arguments", [{}, {"dataset": "imagenet"}, {"dataset": ["digits"]},
                                       {"dataset": "cifar10", "data_dir": "/no/such/folder"},
                                       {"dataset": "cifar10", "data_dir": 3},
                                       {"dataset": "cifar10", "data_dir": 300 * "x"}])
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


def test_a_script_that_needs_no_images_takes_none_by_itself(made_on, capsys):
    model = made_on(dataset="mnist", data_dir="pictures")
    assert named(model, max_margin) == (None, None)
    assert named([*model, "--data-dir", "x"], max_margin) == ("mnist", "x")
    assert named([*model, "--dataset", "digits"], max_margin) == ("digits", "data")
    with pytest.raises(SystemExit):
        max_margin.parse_args(["--help"])
    assert "(default: cifar10)" not in capsys.readouterr().out


def test_masks_without_a_record_are_of_the_data_set_of_their_model(made_on, tmp_path):
    model = made_on(dataset="mnist", data_dir="pictures")
    masks = ["--mask-file", str(tmp_path / "elsewhere/mask_values.txt")]
    args = inherit(prune_network.parse_args([*masks, *model]))
    assert (args.dataset, args.data_dir, args.checkpoint) == ("mnist", "pictures", "run/model_last.th")
    args = inherit(prune_network.parse_args([*masks, *model, "--dataset", "cifar10"]))
    assert (args.dataset, args.data_dir) == ("cifar10", "data")


@pytest.mark.parametrize(("said", "taken"), [({"flip": False}, False), ({"flip": True}, True), ({}, True),
                                             ({"flip": "no"}, True), ({"flip": 0}, True)])
@pytest.mark.parametrize("script", [nad, generate_mask])
def test_a_defense_mirrors_images_if_the_models_training_did(made_on, script, said, taken):
    model = made_on(**said)
    assert script.parse_args(model).flip is taken
    assert script.parse_args([*model, "--flip"]).flip is True
    assert script.parse_args([*model, "--no-flip"]).flip is False


@pytest.mark.parametrize(("said", "taken"), [({"crop_padding": 1}, 1), ({"crop_padding": 0}, 0), ({}, 4),
                                             ({"crop_padding": "1"}, 4), ({"crop_padding": -1}, 4)])
def test_a_defense_crops_images_as_the_models_training_did(made_on, said, taken):
    model = made_on(**said)
    for script in (nad, generate_mask):
        assert script.parse_args(model).crop_padding == taken
        assert script.parse_args([*model, "--crop-padding", "2"]).crop_padding == 2
    masks = ["--mask-file", "elsewhere/mask_values.txt", *model]
    assert inherit(prune_network.parse_args(masks)).crop_padding == taken


def test_without_a_model_images_are_mirrored_and_cropped_by_four_pixels():
    for args in (train_backdoor.parse_args([]), nad.parse_args(["--checkpoint", "none/model.th"])):
        assert args.flip is True and args.crop_padding == 4
    assert train_backdoor.parse_args(["--recipe", "fast"]).crop_padding == 1


def test_how_images_were_augmented_is_found_behind_repairs_that_train_on_none(made_on, tmp_path):
    made_on(flip=False, crop_padding=1)
    for name, before in (("clp", "run"), ("again", "clp")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({
            "arguments": {"checkpoint": f"{before}/model_last.th"}}))
    args = nad.parse_args(["--checkpoint", "again/model_last.th"])
    assert (args.flip, args.crop_padding) == (False, 1)


def test_masks_without_a_record_were_made_on_one_percent_of_the_images(made_on):
    model = made_on(dataset="digits")
    assert inherit(prune_network.parse_args(["--mask-file", "elsewhere/mask_values.txt", *model])).val_frac == 0.01
