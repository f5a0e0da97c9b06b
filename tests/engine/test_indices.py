"""Files of indices, and trainings that leave images out."""
import json

import numpy as np
import pytest

from common.errors import UserError
from common.untrusted.weights import read_tensors
from data.datasets import load_splits
from data.poison_cifar import poison
from data.triggers import build_trigger
from engine.attacking.indices import against_known, read_indices, without
from train_backdoor import main, parse_args


@pytest.fixture
def written(tmp_path):
    def write(array, allow_pickle=False):
        np.save(tmp_path / "suspected.npy", array, allow_pickle=allow_pickle)
        return tmp_path / "suspected.npy"
    return write


@pytest.mark.parametrize("array, complaint", [
    ([0, 40], "expected indices from 0 to 39 of the attacker's 40 training images, got 40"),
    ([-1, 3], "got -1"), ([3, 5, 3], "expected different indices, got one of 3 twice"),
    ([0.0, 1.0], r"expected indices of training images, int64 \(n,\), got float64 \(2,\)"),
    ([True] * 40, r"got bool \(40,\)"), ([[0, 1]], r"got int64 \(1, 2\)"), (3, r"got int64 \(\)")])
def test_what_are_no_indices_of_these_images_is_one_line(written, array, complaint):
    with pytest.raises(UserError, match=rf"suspected\.npy: .*{complaint}"):
        read_indices(written(np.array(array)), 40)


def test_an_array_of_objects_is_refused(written):
    with pytest.raises(UserError, match="not a NumPy array of plain values"):
        read_indices(written(np.array([{}, {}], dtype=object), allow_pickle=True), 40)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32])
def test_any_order_and_any_whole_numbers_are_read_as_int64(written, kind):
    found = read_indices(written(np.array([7, 2, 39], dtype=kind)), 40)
    assert found.tolist() == [7, 2, 39] and found.dtype == np.int64
    assert read_indices(written(np.empty(0, dtype=kind)), 40).shape == (0,)


def test_a_missing_file_names_the_commands_that_leave_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as told:
        read_indices("output/blend/spectral-signatures/suspected.npy", 40)
    assert str(told.value).endswith(
        "first run: python train_backdoor.py --poison-type blend && python -m defenses.spectral_signatures "
        "--poison-type blend")


def test_of_a_model_elsewhere_it_is_named_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my/blend").mkdir(parents=True)
    (tmp_path / "my/blend/model_last.th").touch()
    with pytest.raises(UserError) as told:
        read_indices("my/blend/activation-clustering/suspected.npy", 40)
    assert str(told.value).endswith(
        "first run: python -m defenses.activation_clustering --poison-type blend --checkpoint "
        "my/blend/model_last.th --output-dir my/blend/activation-clustering")


def test_the_rest_is_exactly_the_other_images(written, images, caplog):
    poisoned, chosen = poison(images, build_trigger("badnets", 1), 0.4)
    left = np.array([39, 0, *chosen[:3]])
    left = left[np.sort(np.unique(left, return_index=True)[1])]
    with caplog.at_level("INFO", "backdoor"):
        rest = without(written(left), poisoned)
    assert set(rest.places) == set(range(40)) - set(left) and len(rest.images) == 40 - len(left)
    assert np.array_equal(rest.images.data, poisoned.data[rest.places])
    number = int(poisoned.poisoned[left].sum())
    assert rest.figures["left_out"] == {"images": len(left), "poisoned": number} and number >= 3
    assert f"left out {len(left)} of 40 training images, {number} of them poisoned (of 12)" in caplog.text
    assert without(None, poisoned).images is poisoned


def test_a_class_that_would_vanish_is_named(written, images):
    with pytest.raises(UserError, match="leaves no training image of the class c"):
        without(written(np.flatnonzero(images.targets == 2)), images)


def test_precision_and_recall_are_counted_against_the_known_indices():
    poisoned = np.isin(np.arange(20), [2, 3, 5, 7])
    found = against_known(np.array([3, 4, 5, 6, 8]), poisoned)
    assert (found["precision"]["value"], found["recall"]["value"]) == (2 / 5, 2 / 4)
    assert (found["precision"]["n"], found["recall"]["n"]) == (5, 4)
    assert against_known(np.array([3]), np.zeros(20, dtype=bool))["recall"] is None
    assert against_known(np.empty(0, np.int64), poisoned)["precision"] is None


@pytest.mark.slow
def test_a_training_leaves_them_out_and_says_so(written, tmp_path):
    train, _, _ = load_splits("digits", "")
    poisoned, chosen = poison(train, build_trigger("badnets", 0), 0.1)
    left = np.union1d(np.sort(chosen)[:100], [0, 1, 2])
    folder = tmp_path / "retrained"
    main(["--dataset", "digits", "--width", "2", "--epochs", "1", "--batch-size", "256", "--poison-rate", "0.1",
          "--leave-out", str(written(left)), "--output-dir", str(folder)])
    method = json.loads((folder / "results.json").read_text())["method"]
    number = int(poisoned.poisoned[left].sum())
    assert method["name"] == "retraining" and method["left_out"] == {"images": len(left), "poisoned": number}
    assert method["poisoned"] == 116 - number and method["training_set"] == 1294 - len(left)
    index = np.asarray(read_tensors(folder / "trigger_info.th")["data_index"])
    assert np.array_equal(index, np.setdiff1d(chosen, left))  # counted as without --leave-out
    written_log = (folder / "output.log").read_text()
    assert f"left out {len(left)} of 1294 training images" in written_log
    assert "ASR" not in written_log.split("left out")[1].replace("ASR of other", "")  # a low one is no failure here


def test_it_does_not_write_where_the_attack_lies():
    assert parse_args(["--leave-out", "x.npy"]).output_dir == "output/badnets-retrained"
    assert parse_args([]).output_dir == "output/badnets"
