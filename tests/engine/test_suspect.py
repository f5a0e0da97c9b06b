import argparse
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.paths import SIDE

from common.errors import UserError
from data.datasets import load_splits
from data.image_set import ImageSet
from data.poison_cifar import stamp_all
from engine.defending.suspect import (
    asr_of,
    beneath_model,
    default_folder,
    find_trigger,
    load_second,
    load_suspect,
    split_defender,
)
from engine.measuring.evaluation import evaluate
from engine.weights.checkpoint import load_trigger
from models import build_model


def load(checkpoint, classes=None, **options):
    """The Suspect of flags that name a checkpoint of digits, on the CPU."""
    args = argparse.Namespace(checkpoint=checkpoint, trigger_info=None, dataset="digits", data_dir="", image_size=SIDE,
                              classes=classes)
    return load_suspect(args, argparse.Namespace(device="cpu"), **options)


@pytest.mark.parametrize("checkpoint, folder", [
    ("output/badnets/model_last.th", "output/badnets/anp"), ("zoo/blend/model_last.th", "output/zoo/blend/anp"),
    ("stranger.th", "output/stranger/anp"), ("/somewhere/models/stranger.th", "output/models/anp"),
    ("../other/model.th", "output/other/anp")])
def test_a_defense_leaves_its_files_beneath_the_models_run(checkpoint, folder):
    assert default_folder(checkpoint, "anp") == folder
    assert beneath_model("anp")(argparse.Namespace(checkpoint=checkpoint)) == folder


def test_the_trigger_beside_the_checkpoint_is_found_and_none_is_invented(small_run, tmp_path):
    assert find_trigger(small_run / "model_last.th").target == 0
    shutil.copy(small_run / "model_last.th", tmp_path)
    assert find_trigger(tmp_path / "model_last.th") is None
    assert find_trigger(tmp_path / "model_last.th", small_run / "trigger_info.th").target == 0
    suspect = load(tmp_path / "model_last.th")
    assert suspect.trigger is None and suspect.test.triggered is None and suspect.test.triggered_images is None
    assert load(small_run / "model_last.th", find=False).trigger is None


def test_only_the_test_images_know_the_trigger(small_run):
    suspect = load(small_run / "model_last.th")
    assert suspect.test.triggered.num_images == 324 and suspect.test.clean.num_images == 360
    assert len(suspect.defender) == 143 and not suspect.defender.poisoned.any()
    assert suspect.model.spec["width"] == 4 and suspect.classes == tuple("0123456789")


def test_the_test_images_stand_beside_their_batches_and_move_with_them(small_run):
    test, trigger = load(small_run / "model_last.th").test, load_trigger(small_run / "trigger_info.th")
    assert np.array_equal(test.clean_images.data, test.clean.images.numpy())
    assert np.array_equal(test.triggered_images.data, test.triggered.images.numpy())
    other = stamp_all(test.clean_images, replace(trigger, target=3))
    assert test.restamped(other).triggered_images is other and test.restamped(other).triggered.labels.unique() == 3


def test_the_asr_of_a_trigger_is_that_of_its_own_target(small_run):
    suspect = load(small_run / "model_last.th")
    figures = evaluate(suspect.model, suspect.test).figures()
    assert asr_of(suspect.model, suspect.test, suspect.trigger) == figures["asr"]
    with torch.no_grad():
        suspect.model.linear.bias[3] = 1e6
    to_three = replace(suspect.trigger, target=3)
    assert asr_of(suspect.model, suspect.test, to_three)["value"] == 1
    assert asr_of(suspect.model, suspect.test, suspect.trigger)["value"] == 0


def test_a_suspects_fingerprint_tells_weights_and_images_apart(small_run):
    suspect = load(small_run / "model_last.th")
    weights, images = suspect.fingerprint().split()
    assert images == suspect.defender.fingerprint() and images != suspect.test.clean_images.fingerprint()
    assert load(small_run / "model_init.th").fingerprint() != suspect.fingerprint()
    assert load(small_run / "model_init.th").fingerprint().split()[1] == images and len(weights) == 64


def test_a_safetensors_file_is_read(small_run, tmp_path):
    weights = torch.load(small_run / "model_last.th", weights_only=True)["state_dict"]
    safetensors.torch.save_file(weights, tmp_path / "stranger.safetensors")
    suspect = load(tmp_path / "stranger.safetensors")
    assert suspect.classes == ()  # a bare state_dict does not say them
    assert torch.equal(suspect.model.linear.bias, weights["linear.bias"])
    (tmp_path / "stranger.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="not a safetensors file"):
        load(tmp_path / "stranger.safetensors")


def test_masks_in_a_strangers_file_are_not_taken(small_run, tmp_path):
    from models.noisy_batchnorm import NoisyBatchNorm2d
    weights = torch.load(small_run / "model_last.th", weights_only=True)["state_dict"]
    weights["bn1.neuron_mask"] = torch.full((4,), 0.3)
    torch.save(weights, tmp_path / "m.th")
    for options in ({}, {"norm_layer": NoisyBatchNorm2d}):
        model = load(tmp_path / "m.th", **options).model
        assert not options or torch.equal(model.bn1.neuron_mask, torch.ones(4))


@pytest.mark.parametrize("spoil", [lambda value: -value - 1, lambda value: value.to_sparse()])
def test_weights_that_cannot_be_are_refused(small_run, tmp_path, spoil):
    weights = torch.load(small_run / "model_last.th", weights_only=True)["state_dict"]
    weights["bn1.running_var"] = spoil(weights["bn1.running_var"])
    torch.save(weights, tmp_path / "m.th")
    with pytest.raises(UserError, match=r"bn1\.running_var|m\.th"):
        load(tmp_path / "m.th")


def test_the_defenders_images_are_split_without_overlap(images):
    first, rest = split_defender(images, 0.05)
    assert len(first) == 20 and len(rest) == 20
    assert (first.data == images.data[:20]).all() and (rest.data == images.data[20:]).all()
    defender = load_splits("digits", "")[1]
    assert len(split_defender(defender, 0.01)[0]) == 14
    assert len(split_defender(images, 0.029)[0]) == 12  # of 11.6
    for val_frac in (0, 0.1, 0.5):
        with pytest.raises(UserError, match="--val-frac"):
            split_defender(ImageSet(images.data, images.targets), val_frac)


def test_a_second_model_that_says_how_it_is_fed_is_fed_so_and_one_that_does_not_as_the_suspect(images, tmp_path):
    suspect = SimpleNamespace(model=build_model("resnet18", 2, 4, mean=(0.0,) * 3, std=(1.0,) * 3), defender=images)
    bare = build_model("resnet18", 2, 4).state_dict()
    says = {**{f"1.{name}": value for name, value in bare.items()}, "0.mean": torch.full((3,), 0.5),
            "0.std": torch.full((3,), 0.25)}
    torch.save(bare, tmp_path / "bare.th")
    torch.save(says, tmp_path / "says.th")
    for prefix in (None, "benign_"):
        fed = [load_second(tmp_path / name, argparse.Namespace(), suspect, torch.device("cpu"), prefix).spec
               for name in ("bare.th", "says.th")]
        assert [(spec["mean"][0], spec["std"][0]) for spec in fed] == [(0, 1), (0.5, 0.25)]


@pytest.fixture
def reordered(small_run, tmp_path):
    """(bare weights of small_run with its classes in another order, the names in that order)."""
    weights = torch.load(small_run / "model_last.th", weights_only=True)["state_dict"]
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    weights["linear.weight"], weights["linear.bias"] = (weights[f"linear.{part}"][order] for part in ("weight", "bias"))
    torch.save(weights, tmp_path / "bare.th")
    return tmp_path / "bare.th", [str(label) for label in order]


@pytest.mark.parametrize("write", [
    lambda names: "\n".join(names).encode(), lambda names: ("\r\n".join(names) + "\r\n\n").encode(),
    lambda names: ("\ufeff" + " \n".join(names)).encode()])
def test_images_are_matched_to_a_bare_models_label_order_by_the_names_in_a_file(small_run, reordered, tmp_path, write):
    """The kind: labels in sorted order, although the model's may be another, without a word. Siblings: the ends of
    lines and the byte order mark of Windows."""
    path, names = reordered
    (tmp_path / "names.txt").write_bytes(write(names))
    usual, own = load(small_run / "model_last.th"), load(path, str(tmp_path / "names.txt"))
    assert evaluate(own.model, own.test).clean.accuracy == evaluate(usual.model, usual.test).clean.accuracy
    assert own.classes == own.defender.classes == tuple(names)
    assert own.defender.targets[0] == names.index(str(usual.defender.targets[0]))
    assert (evaluate(load(path).model, load(path).test).clean.accuracy
            != evaluate(usual.model, usual.test).clean.accuracy)


DIGITS = list("0123456789")


@pytest.mark.parametrize("names, said", [
    (DIGITS[:9], "has 9 names, but .* has 10 classes"), ([*DIGITS[:9], "ten"], "it alone has ten; the .* have 9"),
    ([*DIGITS[:9], "8"], "line 10: .* got 8, which is there twice"),
    ([*DIGITS[:4], "", *DIGITS[4:]], "line 5: .* empty"),
    ([], "two or more, got 0"), (["0 1 2 3 4 5 6 7 8 9"], "two or more, got 1")])
def test_names_that_do_not_match_are_refused(reordered, tmp_path, names, said):
    (tmp_path / "names.txt").write_text("\n".join(names))
    with pytest.raises(UserError, match=said):
        load(reordered[0], str(tmp_path / "names.txt"))


def test_a_checkpoint_of_ours_keeps_its_own_names(small_run, tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(DIGITS))
    assert load(small_run / "model_last.th", str(path)).classes == tuple(DIGITS)
    path.write_text("\n".join(["1", "0", *DIGITS[2:]]))
    with pytest.raises(UserError, match=r"calls class 0 '1', but .* itself calls it '0'; leave --classes out"):
        load(small_run / "model_last.th", str(path))
    for content, said in ((b"\x89PNG\r\n\xff", "expected a text file in UTF-8"), (None, "No such file")):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            load(small_run / "model_last.th", str(path))
