import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

import generate_clb_attack
import train_backdoor
from attacks import issba_encoder, pruning_aware
from common.errors import UserError
from data.datasets import load_clean, load_splits
from data.triggers.warp import WarpTrigger, draw_grid
from defenses import abl, fine_prune
from engine.weights.checkpoint import load_trigger, save_trigger
from studies.export_images import main

ATTACK = ["--poison-type", "badnets", "--poison-target", "2", "--poison-rate", "0.1"]
TRAIN = ["--width", "2", "--epochs", "1", "--batch-size", "64"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of what ATTACK makes of the digits."""
    folder = tmp_path_factory.mktemp("exported") / "badnets"
    main(["--poisoned", "--dataset", "digits", *ATTACK, "--output-dir", str(folder)])
    return folder


def test_what_no_attack_has_seen_is_written_pixel_for_pixel(tmp_path):
    main(["--dataset", "digits", "--output-dir", str(tmp_path / "clean")])
    paths = sorted(tmp_path.glob("clean/*/*.png"), key=lambda path: path.name)
    _, defender, test = load_splits("digits", "data")
    assert [path.parent.name for path in paths] == [
        images.classes[label] for images in (defender, test) for label in images.targets]
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert (pixels == np.concatenate([defender.data, test.data])).all()


def test_a_folder_that_holds_something_is_refused(tmp_path, refused):
    (tmp_path / "mine.png").write_bytes(b"mine")
    assert "is not empty" in refused(main, "--dataset", "digits", "--output-dir", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def read_rows(folder):
    with open(folder / "images.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_training_on_the_exported_folder_equals_the_attack_itself(exported, tmp_path):
    """The kind: poisoned data that leaves the suite and comes back as something else: in another order, split once
    more between attacker and defender, or poisoned twice. Siblings: the trigger, the shares, what a defender has."""
    for name, data in (("own", ["--dataset", "digits"]), ("files", ["--data-dir", str(exported)])):
        train_backdoor.main([*data, *ATTACK, *TRAIN, "--output-dir", str(tmp_path / name)])
    own, files = (SimpleNamespace(
        weights=torch.load(tmp_path / name / "model_last.th", weights_only=True)["state_dict"],
        config=json.loads((tmp_path / name / "config.json").read_text()),
        results=json.loads((tmp_path / name / "results.json").read_text()),
        rows=(tmp_path / name / "metrics.jsonl").read_text().splitlines()) for name in ("own", "files"))
    assert own.config["inputs"] == files.config["inputs"]  # a hash of all images and labels, in order
    assert all(torch.equal(own.weights[name], files.weights[name]) for name in own.weights)
    for name in ("acc", "asr", "robust_acc", "dataset", "method"):
        assert own.results[name] == files.results[name]
    assert (tmp_path / "own/trigger_info.th").read_bytes() == (tmp_path / "files/trigger_info.th").read_bytes()
    trained = {**json.loads(files.rows[0]), "time": 0}
    assert trained == {**json.loads(own.rows[0]), "time": 0}


def test_an_exported_folder_has_the_defenders_and_the_test_images_as_they_are(exported):
    for load in (load_splits, load_clean):
        for own, file in zip(load("digits", ""), load("cifar10", exported), strict=True):
            if not file.poisoned.any():
                assert own.fingerprint() == file.fingerprint()
                assert (own.classes, own.name) == (file.classes, file.name)


def test_the_table_says_of_every_image_what_was_done_to_it(exported):
    rows, (train, _, test) = read_rows(exported), load_splits("digits", "")
    assert len(rows) == len(list(exported.glob("*/*/*.png"))) == 1294 + 143 + 360 + 325
    assert list(rows[0]) == ["file", "index", "original_label", "label", "poisoned"]
    for row in rows:
        split, label, _ = row["file"].split("/")
        pixels = np.asarray(Image.open(exported / row["file"]))
        assert label == row["label"] and (row["poisoned"] == "1" or row["original_label"] == label)
        if split in ("train", "test-triggered"):
            before = (train if split == "train" else test).data[int(row["index"])]
            assert (pixels != before).any() == (row["poisoned"] == "1")
            assert label == "2" or row["poisoned"] == "0"
    assert sum(row["poisoned"] == "1" for row in rows if row["file"].startswith("train/")) == 116
    assert {row["original_label"] for row in rows if row["file"].startswith("test-triggered/")} == set("013456789")


def test_another_program_reads_the_labels_after_poisoning(exported):
    images = ImageFolder(exported / "train")
    assert images.classes == list("0123456789") and len(images) == 1294
    wanted = np.bincount(load_splits("cifar10", exported)[0].targets)
    assert np.bincount(images.targets).tolist() == wanted.tolist()


@pytest.mark.parametrize("flags", [
    [], ["--poison-type", "benign"], [*ATTACK[:4], "--poison-rate", "0.2"], [*ATTACK, "--poison-target", "3"],
    [*ATTACK, "--trigger-alpha", "0.5"], ["--poison-type", "blend", *ATTACK[2:]]])
def test_poisoned_images_are_not_poisoned_again(exported, tmp_path, refused, flags):
    said = refused(train_backdoor.main, "--data-dir", exported, *flags, *TRAIN, "--output-dir", tmp_path / "run")
    assert "poisoned already; give the flags that did it: --poison-type badnets --poison-target 2 --poison" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("script", [generate_clb_attack, issba_encoder, pruning_aware])
def test_scripts_that_start_from_clean_images_refuse_poisoned_ones(exported, tmp_path, refused, small_run, script):
    said = refused(script.main, "--data-dir", exported, "--checkpoint", small_run / "model_last.th", "--output-dir",
                   tmp_path / "run")
    assert "poisoned already, but clean ones are needed" in said


@pytest.fixture
def copied(exported, tmp_path):
    """A folder with the files of `exported`, pictures by hard links, whose other files may be changed."""
    for path in exported.rglob("*"):
        there = tmp_path / "copy" / path.relative_to(exported)
        if path.is_file() and not path.name.startswith("."):
            there.parent.mkdir(parents=True, exist_ok=True)
            there.hardlink_to(path) if path.suffix == ".png" else there.write_bytes(path.read_bytes())
    return tmp_path / "copy"


def lose(folder):
    next((folder / "train/3").glob("*.png")).unlink()


def add(folder):
    Image.new("RGB", (32, 32)).save(folder / "train/3/99999.png")


def relabel(folder):
    (path := next((folder / "train/3").glob("*.png"))).rename(folder / "train/4" / path.name)


def lead_out(folder):
    text = (folder / "images.csv").read_text()
    (folder / "images.csv").write_text(text.replace("train/", "train/../", 1))


@pytest.mark.parametrize("change, said", [
    (lose, "missing, though named in images.csv"), (add, "99999.png: not named in images.csv"),
    (relabel, "images.csv; to have the folder read as any other, remove poisoned.json"), (lead_out, "damaged"),
    (lambda folder: (folder / "images.csv").unlink(), "images.csv: damaged"),
    (lambda folder: (folder / "poisoned.json").write_text("{}"), "expected dataset, classes and flags"),
    (lambda folder: (folder / "poisoned.json").write_text("{"), "poisoned.json: damaged")])
def test_a_changed_folder_is_refused(copied, change, said):
    load_splits("cifar10", copied)
    change(copied)
    with pytest.raises(UserError, match=said):
        load_splits("cifar10", copied)


def test_without_its_manifest_it_is_a_folder_like_any_other(copied):
    (copied / "poisoned.json").unlink()
    train, defender, test = load_splits("cifar10", copied)
    assert (len(train) + len(defender), len(test), train.name) == (1294, 360, "copy")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(trigger of an attack that controls training, for class 3; what export_images made with it, and its flags)."""
    folder = tmp_path_factory.mktemp("stored")
    trigger, path = WarpTrigger(draw_grid(32, 32, 4, 3, 0), 3), folder / "trigger_info.th"
    save_trigger(path, trigger)
    flags = ["--poison-type", "stored", "--trigger-file", str(path), "--poison-target", "3", "--poison-rate", "0.2"]
    main(["--poisoned", "--dataset", "digits", *flags, "--output-dir", str(folder / "images")])
    return trigger, folder / "images", flags


def test_a_stored_trigger_poisons_the_share_that_was_asked_for_of_the_images_it_is_meant_for(stored):
    trigger, folder, _ = stored
    clean, poisoned = load_splits("digits", "")[0], load_splits("cifar10", folder)[0]
    chosen = poisoned.poisoned
    assert int(chosen.sum()) == int(0.2 * (clean.targets != 3).sum())
    assert (poisoned.data[chosen] == trigger.stamp(clean.data[chosen])).all() and (poisoned.targets[chosen] == 3).all()
    assert (poisoned.data[~chosen] == clean.data[~chosen]).all() and not (clean.targets[chosen] == 3).any()
    assert (load_trigger(folder / "trigger_info.th").grid == trigger.grid).all()


def test_another_target_than_the_stored_triggers_is_refused(stored, tmp_path, refused):
    flags = [*stored[2], "--poison-target", "4"]
    said = refused(main, "--poisoned", "--dataset", "digits", *flags, "--output-dir", tmp_path / "x")
    assert "the stored trigger's target is 3; give --poison-target 3" in said


@pytest.mark.long
def test_abl_trains_on_what_a_stored_trigger_has_poisoned_as_on_the_trigger_itself(stored, tmp_path):
    _, folder, flags = stored
    for name, data in (("own", ["--dataset", "digits"]), ("files", ["--data-dir", str(folder)])):
        abl.main([*data, *flags, *TRAIN, "--isolation-epochs", "1", "--unlearn-epochs", "1", "--max-drop", "1",
                  "--output-dir", str(tmp_path / name)])
    own, files = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("own", "files"))
    assert own["acc"] == files["acc"] and own["asr"] == files["asr"] and own["asr"]["n"] == 323


@pytest.mark.parametrize("flags, said", [
    (["--poisoned", "--poison-type", "stored"], "--trigger-file: needed with --poison-type stored"),
    (["--poisoned", "--trigger-file", "x.th"], "--trigger-file: has no effect with --poison-type badnets"),
    (["--poisoned", "--poison-type", "stored", "--trigger-file", "x.th"], "x.th: no such file"),
    (["--poison-rate", "0.1"], "without --poisoned"), (["--seed", "3"], "without --poisoned"),
    (["--poisoned", "--poison-type", "benign"], "invalid choice"),
    (["--poisoned", "--poison-rate", "0.0001"], "would be poisoned"),
    (["--poisoned", "--poison-target", "10"], "expected one of the classes")])
def test_flags_that_would_change_nothing_are_refused(tmp_path, refused, flags, said):
    assert said in refused(main, "--dataset", "digits", *flags, "--output-dir", tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_defense_runs_on_the_exported_folder(exported, small_run, tmp_path):
    fine_prune.main(["--checkpoint", str(small_run / "model_last.th"), "--data-dir", str(exported), "--mode", "prune",
                     "--val-frac", "0.05", "--output-dir", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run/results.json").read_text())["dataset"] == "digits"
