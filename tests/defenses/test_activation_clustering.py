import json
from dataclasses import replace

import numpy as np
import pytest

from data.image_set import ImageSet
from defenses import activation_clustering
from defenses.activation_clustering import cluster, inspect, is_suspicious, main, part, reduce_features

REDUCING, BOUNDS = ("ica", 5), (0.35, 0.1)


@pytest.fixture
def planted():
    """(ImageSet of three classes of 100, features (300, 8), indices): 20 of class 1 are poisoned and lie far away."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    features = rng.normal(size=(300, 8)) + 10 * labels[:, None]
    chosen = np.flatnonzero(labels == 1)[::5]
    features[chosen] += 30 * np.eye(8)[2]
    poisoned = np.isin(np.arange(300), chosen)
    return ImageSet(np.zeros((300, 8, 8, 3), np.uint8), labels, tuple("abc"), poisoned=poisoned), features, chosen


@pytest.mark.parametrize("reduce, silhouette", [("ica", 0.2), ("pca", 0.5)])
def test_a_cluster_far_away_is_found_exactly_and_no_other_class_is_flagged(planted, reduce, silhouette):
    images, features, chosen = planted
    rows, suspected = inspect(images, features, (reduce, 5), (0.35, silhouette))
    assert np.array_equal(suspected, chosen)
    assert [row["suspected"] for row in rows] == [0, 20, 0] and [row["hits"] for row in rows] == [0, 20, 0]
    assert rows[1]["smaller_share"] == 0.2 and rows[1]["silhouette"] > 1.5 * max(
        rows[0]["silhouette"], rows[2]["silhouette"])


def test_which_images_are_poisoned_changes_nothing_but_the_figures(planted):
    images, features, _ = planted
    rows, suspected = inspect(replace(images, poisoned=~images.poisoned), features, REDUCING, BOUNDS)
    again, same = inspect(images, features, REDUCING, BOUNDS)
    assert np.array_equal(suspected, same) and sum(row["hits"] for row in rows) == len(suspected) - 20
    assert [row["silhouette"] for row in rows] == [row["silhouette"] for row in again]


@pytest.mark.parametrize("share, silhouette, suspicious", [
    (0.2, 0.3, True), (0.35, 0.1, True), (0.36, 0.3, False), (0.2, 0.09, False), (0.0, 0.3, False)])
def test_the_smaller_cluster_is_suspected_by_its_size_and_by_how_far_it_is(share, silhouette, suspicious):
    assert is_suspicious(share, silhouette, *BOUNDS) is suspicious


def test_the_silhouette_is_that_of_its_definition():
    points = np.array([[0.0], [1.0], [10.0], [11.0], [12.0]])
    smaller, silhouette = part(points)
    assert smaller.tolist() == [True, True, False, False, False]
    own, other = [1, 1, 1.5, 1, 1.5], [11, 10, 9.5, 10.5, 11.5]
    assert silhouette == pytest.approx(np.mean([1 - a / b for a, b in zip(own, other, strict=True)]))


def test_a_cluster_that_the_silhouettes_sample_misses_is_scored_too(monkeypatch):
    monkeypatch.setattr(activation_clustering, "SCORED", 8)
    points = np.concatenate([np.random.default_rng(0).normal(size=(60, 2)), [[90.0, 90.0]]])
    smaller, silhouette = part(points)
    assert np.flatnonzero(smaller).tolist() == [60] and 0.8 < silhouette < 1


def test_independent_components_have_one_variance_and_principal_ones_their_own():
    features = np.random.default_rng(0).uniform(size=(400, 3)) * [1, 5, 25]
    independent, converged = reduce_features(features, "ica", 3)
    principal, _ = reduce_features(features, "pca", 3)
    np.testing.assert_allclose(independent.std(0), 1, rtol=1e-3)
    assert converged and principal.std(0)[0] > 10 * principal.std(0)[2]


def test_no_more_components_than_the_features_have():
    features = np.random.default_rng(0).normal(size=(50, 2)) @ np.random.default_rng(1).normal(size=(2, 9))
    assert reduce_features(features, "ica", 5)[0].shape == (50, 2)


@pytest.mark.parametrize("features", [np.ones((30, 4)), np.eye(3), np.zeros((1, 4))])
def test_a_class_without_two_clusters_is_left_alone(features):
    smaller, silhouette, _ = cluster(features, *REDUCING)
    assert not smaller.any() and silhouette == 0


@pytest.mark.slow
def test_a_benign_model_has_no_recall_and_its_files_agree(small_run, tmp_path):
    main(["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--poison-type", "benign",
          "--components", "3", "--min-silhouette", "0.3", "--max-share", "0.5",
          "--output-dir", str(tmp_path / "out")])
    method = json.loads((tmp_path / "out/results.json").read_text())["method"]
    suspected = np.load(tmp_path / "out/suspected.npy")
    assert method["poisoned"] == 0 and method["recall"] is None and len(suspected) == method["suspected"] > 0
    assert method["precision"]["value"] == 0
    assert method["flagged"] == [row["label"] for row in method["classes"] if row["suspected"]]
    for row in method["classes"]:
        assert (row["suspected"] > 0) == (row["silhouette"] >= 0.3 and row["smaller_share"] <= 0.5)
