import shutil

import pytest
import safetensors.torch
import torch

from common.errors import UserError
from data.datasets import ImageSet, load_splits
from engine.inputs import default_folder, find_trigger, load_suspect, split_defender


@pytest.mark.parametrize("checkpoint, folder", [
    ("output/badnets/model_last.th", "output/badnets/anp"), ("zoo/blend/model_last.th", "output/zoo/blend/anp"),
    ("stranger.th", "output/stranger/anp"), ("/somewhere/models/stranger.th", "output/models/anp"),
    ("../other/model.th", "output/other/anp")])
def test_a_defense_leaves_its_files_beneath_the_models_run(checkpoint, folder):
    assert default_folder(checkpoint, "anp") == folder


def test_the_trigger_beside_the_checkpoint_is_found_and_none_is_invented(small_run, tmp_path):
    assert find_trigger(small_run / "model_last.th").target == 0
    shutil.copy(small_run / "model_last.th", tmp_path)
    assert find_trigger(tmp_path / "model_last.th") is None
    assert find_trigger(tmp_path / "model_last.th", small_run / "trigger_info.th").target == 0
    _, images, _ = load_suspect(tmp_path / "model_last.th", None, "digits", "", "cpu")
    assert images.triggered is None


def test_only_the_test_images_know_the_trigger(small_run):
    suspect, images, defender = load_suspect(small_run / "model_last.th", None, "digits", "", "cpu")
    assert images.triggered.num_images == 324 and images.clean.num_images == 360
    assert len(defender) == 143 and not defender.poisoned.any()
    assert suspect.model.spec["width"] == 4


def test_a_safetensors_file_is_read(small_run, tmp_path):
    weights = torch.load(small_run / "model_last.th", weights_only=True)["state_dict"]
    safetensors.torch.save_file(weights, tmp_path / "stranger.safetensors")
    suspect, _, _ = load_suspect(tmp_path / "stranger.safetensors", None, "digits", "", "cpu")
    assert torch.equal(suspect.model.linear.bias, weights["linear.bias"])
    (tmp_path / "stranger.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_suspect(tmp_path / "stranger.safetensors", None, "digits", "", "cpu")


def test_masks_in_a_strangers_file_are_not_taken(small_run, tmp_path):
    from models.noisy_batchnorm import NoisyBatchNorm2d
    weights = torch.load(small_run / "model_last.th", weights_only=True)["state_dict"]
    weights["bn1.neuron_mask"] = torch.full((4,), 0.3)
    torch.save(weights, tmp_path / "m.th")
    for options in ({}, {"norm_layer": NoisyBatchNorm2d}):
        model = load_suspect(tmp_path / "m.th", None, "digits", "", "cpu", **options)[0].model
        assert not options or torch.equal(model.bn1.neuron_mask, torch.ones(4))


@pytest.mark.parametrize("spoil", [lambda value: -value - 1, lambda value: value.to_sparse()])
def test_weights_that_cannot_be_are_refused(small_run, tmp_path, spoil):
    weights = torch.load(small_run / "model_last.th", weights_only=True)["state_dict"]
    weights["bn1.running_var"] = spoil(weights["bn1.running_var"])
    torch.save(weights, tmp_path / "m.th")
    with pytest.raises(UserError, match=r"bn1\.running_var|m\.th"):
        load_suspect(tmp_path / "m.th", None, "digits", "", "cpu")


def test_the_defenders_images_are_split_without_overlap(images):
    first, rest = split_defender(images, 0.05)
    assert len(first) == 20 and len(rest) == 20
    assert (first.data == images.data[:20]).all() and (rest.data == images.data[20:]).all()
    defender = load_splits("digits", "")[1]
    assert len(split_defender(defender, 0.01)[0]) == 14
    for val_frac in (0, 0.1, 0.5):
        with pytest.raises(UserError, match="--val-frac"):
            split_defender(ImageSet(images.data, images.targets), val_frac)
