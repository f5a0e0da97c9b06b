import csv
import json

import numpy as np
import pytest
import torch

from data.image_set import ImageSet
from defenses.spectral_signatures import inspect, largest, main, spectral_scores
from engine.defending.inspection import warn_of_other_images


def planted(count=200, poisoned=20, size=12, distance=6.0, seed=0):
    """(features (n, D) of noise, the last `poisoned` of which are moved along one direction, that direction)."""
    rng = np.random.default_rng(seed)
    features, direction = rng.normal(size=(count, size)), rng.normal(size=size)
    direction /= np.linalg.norm(direction)
    features[-poisoned:] += distance * direction
    return features, direction


def test_the_scores_of_a_planted_direction_are_the_largest():
    features, direction = planted()
    scores, along = spectral_scores(features)
    assert set(np.argsort(-scores)[:20]) == set(range(180, 200)) and 0.15 < along < 0.6
    centered = features - features.mean(0)
    found = np.linalg.eigh(centered.T @ centered)[1][:, -1]  # the top right singular vector, computed another way
    np.testing.assert_allclose(scores, (centered @ found) ** 2)
    assert abs(found @ direction) > 0.95


def test_where_half_is_poisoned_only_what_is_not_centered_tells_it():
    features, _ = planted(poisoned=100)
    features += 5 * planted(poisoned=100)[1]  # so that all lie on one side of zero
    truth = np.arange(200) >= 100
    shares = [truth[np.argsort(-spectral_scores(features, center)[0])[:60]].mean() for center in (True, False)]
    assert shares[0] < 0.8 and shares[1] == 1


def test_one_and_a_half_times_the_expected_share_of_every_class_is_suspected():
    scores = np.arange(50.0)
    assert largest(scores, 0.1).tolist() == [49, 48, 47, 46, 45, 44, 43, 42] and len(largest(scores, 0.001)) == 0
    features, labels = np.random.default_rng(0).normal(size=(60, 5)), np.repeat([0, 1, 2], [30, 20, 10])
    images = ImageSet(np.zeros((60, 8, 8, 3), np.uint8), labels, tuple("abc"))
    rows, suspected = inspect(images, features, 0.2)
    assert [row["suspected"] for row in rows] == [9, 6, 3] and len(set(suspected)) == 18
    assert np.bincount(labels[suspected]).tolist() == [9, 6, 3]


def test_features_that_do_not_vary_have_no_score():
    scores, along = spectral_scores(np.ones((7, 3)))
    assert not scores.any() and along == 0


def test_a_planted_direction_is_found_among_classes(images):
    features = np.random.default_rng(0).normal(size=(40, 6))
    rows = np.flatnonzero(images.targets == 2)
    features[rows[[3, 7]], 4] += 20
    poisoned = np.zeros(40, dtype=bool)
    poisoned[rows[[3, 7]]] = True
    known = ImageSet(images.data, images.targets, images.classes, poisoned=poisoned)
    table, suspected = inspect(known, features, 0.134)
    assert [row["hits"] for row in table] == [0, 0, 2, 0] and set(rows[[3, 7]]) <= set(suspected)


@pytest.mark.slow
def test_the_files_agree_and_the_indices_are_those_of_the_training_images(small_run, tmp_path):
    words = ["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--poison-rate", "0.1",
             "--expected-share", "0.2", "--output-dir", str(tmp_path / "out")]
    main(words)
    results = json.loads((tmp_path / "out/results.json").read_text())
    method, suspected = results["method"], np.load(tmp_path / "out/suspected.npy")
    rows = list(csv.DictReader((tmp_path / "out/classes.csv").open()))
    assert suspected.dtype == np.int64 and (np.diff(suspected) > 0).all() and suspected.max() < 1294
    assert len(suspected) == method["suspected"] == sum(int(row["suspected"]) for row in rows)
    assert method["precision"]["n"] == len(suspected) and method["recall"]["n"] == method["poisoned"] == 116
    hits = sum(int(row["hits"]) for row in rows)
    assert method["recall"]["value"] == hits / 116 and method["precision"]["value"] == hits / len(suspected)
    assert sum(int(row["poisoned"]) for row in rows) == 116 and sum(int(row["images"]) for row in rows) == 1294
    assert (f"precision {hits / len(suspected):.4f}, recall {hits / 116:.4f} of 116 poisoned"
            in (tmp_path / "out/output.log").read_text())
    assert results["asr"]["n"] == 324 and results["parent"] == str(small_run / "model_last.th")
    assert "was not trained on these" not in (tmp_path / "out/output.log").read_text()


@pytest.mark.slow
def test_another_seed_than_the_trainings_is_warned_of(small_run, tmp_path):
    main(["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--poison-rate", "0.1", "--seed",
          "1", "--output-dir", str(tmp_path / "out")])
    assert "names 116 other poisoned images than the flags make (116)" in (tmp_path / "out/output.log").read_text()


@pytest.mark.parametrize("listed", [[[1], [1, 2]], [{}, {}], "abc", None, [0.5]])
def test_a_list_of_poisoned_images_that_is_none_is_not_compared(tmp_path, images, listed, caplog):
    torch.save({"data_index": listed}, tmp_path / "trigger_info.th")
    warn_of_other_images(str(tmp_path / "model_last.th"), images)
    assert not caplog.records
    torch.save({"data_index": [1, 2]}, tmp_path / "trigger_info.th")
    warn_of_other_images(str(tmp_path / "model_last.th"), images)
    assert "names 2 other poisoned images" in caplog.text
