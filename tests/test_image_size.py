"""Images of another size than 32 pixels: scripts go by the flag, the spec and the images, not by a constant."""
import json

import numpy as np
import pytest
import torch
from helpers.paths import SMALL
from PIL import Image

import generate_clb_attack
import train_backdoor
from defenses import fine_prune, neural_cleanse, strip
from engine.weights.checkpoint import load_model, load_trigger, save_model
from models import build_model


@pytest.fixture(scope="module")
def sized_run(tmp_path_factory):
    """(pixels a side, the folder of a one-epoch run at width 2 on digits of that size); other tests have 16 or 32."""
    folder = tmp_path_factory.mktemp("sized") / "run"
    train_backdoor.main([*SMALL, "--width", "2", "--image-size", "48", "--poison-rate", "0.2", "--output-dir",
                         str(folder)])
    return 48, folder


def test_a_model_and_its_trigger_have_the_size_of_their_images_and_defenses_take_it_from_the_model(sized_run):
    size, folder = sized_run
    assert load_model(folder / "model_last.th").model.spec["image_size"] == size
    trigger = load_trigger(folder / "trigger_info.th")
    assert trigger.pattern.shape[:2] == trigger.mask.shape[:2] == (size, size)

    suspected = ["--checkpoint", str(folder / "model_last.th"), "--dataset", "digits"]
    strip.main([*suspected, "--overlays", "4", "--inspect", "40", "--output-dir", str(folder / "strip")])
    assert np.load(folder / "strip/overlays.npy").shape[1:] == (size, size, 3)
    results = json.loads((folder / "strip/results.json").read_text())
    assert results["asr"]["n"] == 324

    neural_cleanse.main([*suspected, "--seeds", "1", "--budget", "2", "--batches", "1", "--success", "0.01",
                         "--output-dir", str(folder / "neural-cleanse")])
    assert json.loads((folder / "neural-cleanse/results.json").read_text())["asr"] == results["asr"]
    found = [load_trigger(path) for path in folder.glob("neural-cleanse/reversed_trigger_*.th")]
    assert found and all(trigger.mask.shape[:2] == (size, size) for trigger in found)
    assert np.asarray(Image.open(folder / "neural-cleanse/reversed_triggers.png").convert("L")).std() > 5


def test_a_strangers_model_sees_images_of_the_size_that_the_flag_says(sized_run, tmp_path):
    """Bare weights name no size."""
    size, folder = sized_run
    weights = torch.load(folder / "model_last.th", weights_only=True)["state_dict"]
    torch.save(weights, tmp_path / "stranger.th")
    strip.main(["--checkpoint", str(tmp_path / "stranger.th"), "--dataset", "digits", "--image-size", str(size),
                "--overlays", "4", "--inspect", "40", "--output-dir", str(tmp_path / "strip")])
    assert np.load(tmp_path / "strip/overlays.npy").shape[1:] == (size, size, 3)
    assert (json.loads((tmp_path / "strip/results.json").read_text())["acc"]
            == json.loads((folder / "results.json").read_text())["acc"])


def test_what_was_retrained_or_repaired_at_another_size_is_a_model_of_that_size(small_run, tmp_path):
    model = str(small_run / "model_last.th")
    train_backdoor.main(["--dataset", "digits", "--epochs", "1", "--start-from", model, "--image-size", "24",
                         "--output-dir", str(tmp_path / "run")])
    assert load_model(tmp_path / "run/model_last.th").model.spec["image_size"] == 24
    fine_prune.main(["--checkpoint", model, "--dataset", "digits", "--image-size", "24", "--mode", "fine-tune",
                     "--epochs", "1", "--trigger-info", str(tmp_path / "run/trigger_info.th"),
                     "--output-dir", str(tmp_path / "tuned")])
    assert load_model(tmp_path / "tuned/model_last.th").model.spec["image_size"] == 24
    assert json.loads((tmp_path / "tuned/results.json").read_text())["spec"]["image_size"] == 24


def test_images_too_small_for_a_given_network_are_one_line(tmp_path, refused):
    save_model(tmp_path / "vgg.th", build_model("vgg19_bn", 2, 10), {}, {}, tuple("0123456789"))
    words = ["--dataset", "digits", "--image-size", "16", "--output-dir", tmp_path / "out"]
    for main, flag in ((train_backdoor.main, "--start-from"), (generate_clb_attack.main, "--checkpoint")):
        assert "at least 32 pixels a side, got 16" in refused(main, flag, tmp_path / "vgg.th", *words)
