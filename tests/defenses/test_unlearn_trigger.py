import json

import numpy as np
import pytest
import torch
from helpers.paths import SIDE
from helpers.searches import NORMS, searches_with

from common.errors import UserError
from data.datasets import load_splits
from data.poison_cifar import stamp_share
from data.triggers import build_trigger
from data.triggers.one_image import OneImageTrigger
from defenses import neural_cleanse
from defenses.unlearn_trigger import main, triggers_to_unlearn
from engine.weights.checkpoint import load_model, save_trigger

DIGITS = ["--dataset", "digits"]


def test_stamped_images_keep_their_labels_and_share_the_triggers(images):
    a, b = build_trigger("badnets", 0), build_trigger("clean-label", 1)
    patched = stamp_share(images, [a, b], 0.5, seed=3)
    assert patched.poisoned.sum() == 20 and np.array_equal(patched.targets, images.targets)
    before, after = images.data[patched.poisoned], patched.data[patched.poisoned]
    stamped = [int((after == trigger.stamp(before)).all((1, 2, 3)).sum()) for trigger in (a, b)]
    assert stamped == [10, 10]
    assert np.array_equal(patched.data[~patched.poisoned], images.data[~patched.poisoned])
    assert stamp_share(images, [], 0.5) is images


def test_unlearning_the_trigger_lowers_asr_more_than_clean_images_alone(learned_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["--checkpoint", str(learned_run / "model_last.th"), *DIGITS, "--batch-size", "16", "--epochs",
              "4", "--crop-padding", "0", "--no-flip"]
    main([*common, "--patch-with", "clean"])
    main([*common, "--patch-with", "original", "--output-dir", "original"])
    clean = json.loads(next((tmp_path / "output").rglob("unlearn-clean/results.json")).read_text())
    original = json.loads((tmp_path / "original/results.json").read_text())
    assert original["asr"]["value"] < 0.5 < clean["asr"]["value"] and original["acc"]["value"] > 0.7
    assert original["method"]["control"]["asr"] == clean["asr"]
    own = original["method"]["asr_of_stamped_triggers"]
    assert own["before"][0]["value"] > 0.8 and own["after"][0] == original["asr"]


@pytest.mark.parametrize("trigger, named", [
    (build_trigger("blend", 0, alpha=1.0), "replaces the whole image"),
    (OneImageTrigger(np.zeros((32, 32, 3), np.uint8), 3, 0), "replaces the whole image")])
def test_a_trigger_that_is_the_whole_image_is_not_stamped_under_many_labels(trigger, named):
    with pytest.raises(UserError, match=named):
        triggers_to_unlearn("original", None, "model_last.th", trigger, 10)


def test_a_reversed_trigger_of_other_classes_is_refused(tmp_path):
    file = str(tmp_path / "nine.th")
    save_trigger(file, build_trigger("badnets", 9))
    assert len(triggers_to_unlearn("reversed", [file], "model_last.th", None, 10)[1]) == 1
    with pytest.raises(UserError, match=r"nine\.th: its target 9 is none of the 9 classes"):
        triggers_to_unlearn("reversed", [file], "model_last.th", None, 9)


@pytest.mark.parametrize("patch", ["original", "clean", "reversed"])
def test_unlearning_leaves_an_ordinary_checkpoint(small_run, detected, tmp_path, patch):
    files = ["--reversed-trigger", str(detected / "reversed_trigger_0.th")] if patch == "reversed" else []
    main(["--checkpoint", str(small_run / "model_last.th"), *DIGITS, "--patch-with", patch, *files,
          "--output-dir", str(tmp_path / "out")])
    method = json.loads((tmp_path / "out/results.json").read_text())["method"]
    _, defender, _ = load_splits("digits", "", image_size=SIDE)
    assert method["images"] == len(defender)
    assert method["stamped"] == (0 if patch == "clean" else round(0.2 * len(defender)))
    load_model(tmp_path / "out/model_last.th")


def test_an_empty_stamped_share_is_plain_fine_tuning(small_run, tmp_path):
    common = ["--checkpoint", str(small_run / "model_last.th"), *DIGITS]
    main([*common, "--patch-with", "clean", "--output-dir", str(tmp_path / "clean")])
    main([*common, "--patch-with", "original", "--stamp-share", "0", "--output-dir", str(tmp_path / "none")])
    main([*common, "--patch-with", "original", "--output-dir", str(tmp_path / "some")])
    a, b, c = (load_model(tmp_path / name / "model_last.th").model.state_dict() for name in ("clean", "none", "some"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["conv1.weight"], c["conv1.weight"])


def test_what_is_refused(small_run, tmp_path, refused):
    model = ["--checkpoint", small_run / "model_last.th", *DIGITS, "--output-dir", tmp_path / "out"]
    assert "--stamp-share: has no effect with --patch-with clean" in refused(main, *model, "--patch-with",
                                                                           "clean", "--stamp-share", "0.1")
    assert "has no effect with --patch-with clean" in refused(main, *model, "--patch-with", "clean",
                                                            "--reversed-trigger", "x.th")
    assert "no such file" in refused(main, *model, "--reversed-trigger", tmp_path / "x.th")
    assert "expected a finished run of defenses.neural_cleanse" in refused(main, *model)
    (tmp_path / "model_last.th").write_bytes((small_run / "model_last.th").read_bytes())
    assert "no trigger is known" in refused(main, "--checkpoint", tmp_path / "model_last.th", *DIGITS,
                                            "--patch-with", "original", "--output-dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unlearning_takes_what_was_flagged_in_this_model(small_run, learned_run, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "output/mine"
    folder.mkdir(parents=True)
    model = folder / "model_last.th"
    model.write_bytes((small_run / "model_last.th").read_bytes())
    common = ["--checkpoint", "output/mine/model_last.th", *DIGITS]
    monkeypatch.setattr(neural_cleanse, "reverse_triggers", lambda *args: searches_with([60.0, *NORMS[1:]], 0))
    neural_cleanse.main([*common])
    main([*common])  # nothing is flagged: the model stays as it is
    results = json.loads((folder / "unlearn-reversed/results.json").read_text())
    assert results["method"]["triggers"] == [] and results["epochs"] == results["method"]["stamped"] == 0
    weights = [torch.load(file, weights_only=True)["state_dict"] for file in (
        model, folder / "unlearn-reversed/model_last.th")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert "nothing to unlearn" in (folder / "unlearn-reversed/output.log").read_text()
    monkeypatch.setattr(neural_cleanse, "reverse_triggers", lambda *args: searches_with(NORMS, 0))
    neural_cleanse.main([*common, "--overwrite"])
    main([*common, "--overwrite"])
    results = json.loads((folder / "unlearn-reversed/results.json").read_text())
    assert results["method"]["triggers"] == ["output/mine/neural-cleanse/reversed_trigger_0.th"]
    other = ["--output-dir", folder / "neural-cleanse", "--overwrite"]
    assert "holds a run of" in refused(main, *common, *other)
    model.write_bytes((learned_run / "model_last.th").read_bytes())
    assert "examined other weights" in refused(main, *common, "--overwrite")
    for text in ('{"method": {"targets": 5}}', '{"method": {"targets": ["x"]}}', "{}", "["):
        (folder / "neural-cleanse/results.json").write_text(text)
        assert "expected a finished run of defenses.neural_cleanse" in refused(main, *common, "--overwrite")


def test_weights_that_name_no_classes_are_unlearned_too(small_run, detected, tmp_path):
    weights = torch.load(small_run / "model_last.th", weights_only=True)["state_dict"]
    torch.save(weights, tmp_path / "bare.th")
    main(["--checkpoint", str(tmp_path / "bare.th"), *DIGITS, "--image-size", str(SIDE), "--reversed-trigger",
          str(detected / "reversed_trigger_0.th"), "--output-dir", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out/results.json").read_text())["method"]["stamped"] > 0
