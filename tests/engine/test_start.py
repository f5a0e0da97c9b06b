import json

import pytest
import torch

from data.batches import Batches
from engine.attacking.start import head_step
from engine.learning.training import train_epoch
from engine.weights.checkpoint import load_model
from models import build_model
from models.base import IMAGENET
from models.penultimate import penultimate
from train_backdoor import main


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def differing(one, other):
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_penultimate_features_are_what_the_last_layer_reads():
    model, pixels = build_model("resnet18", 2, 4).eval(), torch.rand(3, 3, 32, 32)
    features, logits = penultimate(model, pixels)
    torch.testing.assert_close(model.head(features), logits)
    torch.testing.assert_close(logits, model(pixels))
    assert features.shape == (3, model.head.in_features) and not model.head._forward_pre_hooks


def test_frozen_features_leave_all_but_the_last_layer_to_the_bit(images):
    model = build_model("resnet18", 2, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    train_epoch(model, Batches(images, 16, "cpu", torch.Generator()), optimizer, step=head_step)
    assert differing(before, model.state_dict()) == {"linear.weight", "linear.bias"}


@pytest.mark.parametrize("freeze", [True, False])
def test_a_training_starts_from_a_model(small_run, tmp_path, freeze):
    start = small_run / "model_last.th"
    main(["--dataset", "digits", "--epochs", "1", "--batch-size", "256", "--poison-type", "sig", "--start-from",
          str(start), "--output-dir", str(tmp_path / "run"), *["--freeze-features"][:freeze]])
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["parent"] == str(start) and results["width"] == 4
    assert not differing(weights(start), weights(tmp_path / "run/model_init.th"))
    changed = differing(weights(start), weights(tmp_path / "run/model_last.th"))
    assert (changed == {"linear.weight", "linear.bias"}) == freeze and "linear.weight" in changed


def test_a_strangers_weights_keep_the_normalization_that_is_given(small_run, tmp_path):
    torch.save(weights(small_run / "model_last.th"), tmp_path / "stranger.th")
    main(["--dataset", "digits", "--epochs", "1", "--batch-size", "256", "--poison-type", "benign", "--start-from",
          str(tmp_path / "stranger.th"), "--mean", "imagenet", "--std", "imagenet", "--output-dir",
          str(tmp_path / "run")])
    spec = load_model(tmp_path / "run/model_last.th").model.spec
    assert (tuple(spec["mean"]), tuple(spec["std"])) == IMAGENET


def test_flags_without_effect_are_refused(refused, small_run, tmp_path):
    start = ["--start-from", small_run / "model_last.th"]
    for flags, named in ((["--freeze-features"], "--freeze-features: has no effect without --start-from"),
                         (["--mean", "none", "--std", "none"], "--mean: has no effect without --start-from"),
                         (["--width", "4", *start], "--width: has no effect with --start-from"),
                         ([*start, "--freeze-features", "--compile"], "--compile: has no effect with"),
                         (["--start-from", "nowhere/model_last.th"], "nowhere/model_last.th: no such file")):
        words = ["--dataset", "digits", *flags, "--output-dir", tmp_path / "run"]
        assert named in refused(main, *words) and not (tmp_path / "run").exists()
