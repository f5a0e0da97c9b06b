import csv
import json

import numpy as np
import pytest
from helpers.searches import NORMS, searches_with
from PIL import Image

from common.errors import UserError
from data.image_set import ImageSet
from data.triggers import PatternTrigger, build_trigger
from defenses import neural_cleanse
from defenses.neural_cleanse import main, overlap, verdict
from engine.weights.checkpoint import load_trigger
from methods.outliers import anomaly_indices, flagging_bound, majority_labels
from methods.trigger_search import check_clean_images

DIGITS = ["--dataset", "digits"]
QUICK = ["--budget", "2", "--batches", "1", "--batch-size", "8"]


def test_one_low_outlier_is_flagged_with_the_index_of_the_formula():
    norms = [60, 64, 66, 70, 72, 75, 77, 80, 84, 16]
    indices, flagged = anomaly_indices(norms)
    median = (70 + 72) / 2  # an even number of labels: the mean of the middle two
    mad = 1.4826 * np.median(np.abs(np.array(norms) - median))
    assert indices[9] == pytest.approx((median - 16) / mad, rel=1e-4) and indices[9] > 2
    assert flagged.tolist() == [False] * 9 + [True]
    assert flagging_bound(norms) == pytest.approx(median - 2 * mad, rel=1e-4)


def test_a_high_outlier_is_not_flagged():
    indices, flagged = anomaly_indices([60, 64, 66, 70, 72, 75, 77, 80, 84, 300])
    assert indices[9] > 2 and not flagged.any()


def test_equal_norms_give_no_flag_and_no_division_by_zero():
    indices, flagged = anomaly_indices([5.0] * 10)
    assert indices.tolist() == [0] * 10 and not flagged.any()


def test_apart_from_norms_that_are_all_the_same_is_infinitely_far():
    indices, flagged = anomaly_indices([5.0] * 9 + [1.0])
    assert indices[9] == np.inf and flagged.tolist() == [False] * 9 + [True]


def test_a_label_without_a_trigger_takes_no_part():
    with_it, _ = anomaly_indices([60, 64, 66, 70, 16, np.inf])
    without, flagged = anomaly_indices([60, 64, 66, 70, 16])
    assert np.isnan(with_it[5]) and with_it[:5] == pytest.approx(without) and flagged[4]
    indices, flagged = anomaly_indices([9, 60, np.inf, np.inf])
    assert np.isnan(indices).all() and not flagged.any() and np.isnan(flagging_bound([9, 60, np.inf]))


def test_too_few_labels_or_nan_have_no_meaning():
    with pytest.raises(UserError, match="at least 3 labels, got 2"):
        anomaly_indices([1, 2])
    with pytest.raises(UserError, match="got NaN"):
        anomaly_indices([1, 2, 3, np.nan])


def test_most_seeds_decide():
    assert majority_labels(np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=bool)) == [0, 1]
    assert majority_labels(np.array([[1, 0], [0, 0]], dtype=bool)) == []


def test_overlap_on_known_masks():
    true = build_trigger("badnets", 0)
    shifted = np.zeros((32, 32, 1), dtype=np.float32)
    shifted[28:31, 29:] = 0.8
    found = PatternTrigger(np.zeros((32, 32, 3), dtype=np.float32), shifted, 1.0, 0)
    assert overlap(found, true) == {"iou": pytest.approx(6 / 12), "inside": pytest.approx(2 / 3)}
    assert overlap(true, true) == {"iou": 1, "inside": 1}


def test_a_class_without_clean_images_and_two_classes_are_refused(images):
    check_clean_images(images)
    with pytest.raises(UserError, match="no clean image of the class c"):
        check_clean_images(images.subset(images.targets != 2))
    two = ImageSet(images.data[:4], np.array([0, 1, 0, 1]), ("a", "b"))
    with pytest.raises(UserError, match="2 classes: the outlier test has no meaning"):
        check_clean_images(two)


def test_the_verdict_its_target_and_its_spread(detected):
    method = json.loads((detected / "results.json").read_text())["method"]
    assert method["infected"] is True and method["targets"] == [0]
    assert method["flagged_by_seed"] == [[], [0], [0]] and method["seeds_with_a_flag"] == 2
    label = method["labels"][0]
    assert (label["flagged_in"], label["seeds"], label["norm"]) == (2, 3, [4, 61])
    assert label["index"][0] < 2 < label["index"][1]
    assert method["labels"][9] == {"label": 9, "class": "9", "seeds": 3, "flagged_in": 0, "norm": None, "index": None}
    found, = method["reversed"]
    assert found["norm"] == pytest.approx(4, rel=1e-5) and found["overlap"] == {"iou": 1, "inside": pytest.approx(1)}
    logged = (detected / "output.log").read_text()
    assert "verdict: infected, target 0" in logged
    assert "label 0: flagged in 2 of 3 seeds, norm 4.00-61.00" in logged
    rows = list(csv.DictReader((detected / "norms.csv").open()))
    assert [(row["seed"], row["label"]) for row in rows] == [(seed, str(n)) for seed in "012" for n in range(10)]
    assert rows[9]["norm"] == rows[9]["index"] == "" and rows[10]["flagged"] == "1"
    for name in ("norms.png", "reversed_triggers.png"):
        assert Image.open(detected / name).size[0] > 600


def test_reversed_triggers_are_triggers_with_their_float_mask(detected):
    trigger = load_trigger(detected / "reversed_trigger_0.th")
    assert trigger.target == 0 and trigger.mask.sum() == pytest.approx(4, rel=1e-5)
    assert trigger.mask.max() == pytest.approx(4 / 9) and trigger.pattern == pytest.approx(0.37 * 255)
    assert not (detected / "reversed_trigger_9.th").exists()


def test_a_model_is_clean_only_where_more_than_half_of_the_searches_could_flag_something():
    nan = float("nan")
    assert verdict([], [1.0, -1.0]) is None and verdict([], [nan, 2.0, -1.0]) is None
    assert verdict([], [1.0, -1.0, 2.0]) is False and verdict([3], [-1.0, -1.0]) is True


def test_triggers_for_fewer_than_three_labels_are_no_verdict(small_run, tmp_path):
    main(["--checkpoint", str(small_run / "model_last.th"), *DIGITS, *QUICK, "--success", "1", "--seeds", "2",
          "--output-dir", str(tmp_path / "out")])
    method = json.loads((tmp_path / "out/results.json").read_text())["method"]
    assert method["infected"] is None and method["targets"] == [] and len(method["norms"]) == 20
    assert "no verdict" in (tmp_path / "out/output.log").read_text()


def test_the_search_starts_anew_for_every_seed_and_repeats_itself(learned_run, tmp_path):
    flags = ["--checkpoint", str(learned_run / "model_last.th"), *DIGITS, *QUICK, "--success", "0.01", "--seeds", "2"]
    for name in ("a", "b"):
        main([*flags, "--output-dir", str(tmp_path / name)])
    a, b = ((tmp_path / name / "norms.csv").read_bytes() for name in ("a", "b"))
    assert a == b
    rows = list(csv.DictReader((tmp_path / "a/norms.csv").open()))
    found = [(x["norm"], y["norm"]) for x, y in zip(rows[:10], rows[10:], strict=True) if x["norm"] and y["norm"]]
    assert found and all(x != y for x, y in found)


def test_without_a_trigger_only_the_reversed_one_is_measured(small_run, tmp_path, monkeypatch):
    (tmp_path / "model_last.th").write_bytes((small_run / "model_last.th").read_bytes())
    monkeypatch.setattr(neural_cleanse, "reverse_triggers", lambda *args: searches_with(NORMS, 0))
    main(["--checkpoint", str(tmp_path / "model_last.th"), *DIGITS, "--output-dir", str(tmp_path / "out")])
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["asr"] is None and results["method"]["reversed"][0]["overlap"] is None
    assert results["method"]["reversed"][0]["asr_of_reversed_trigger"]["n"] > 300


def test_a_share_of_0_is_refused(small_run, tmp_path, refused):
    assert "--success: expected a share in [0.01, 1]" in refused(
        main, "--checkpoint", small_run / "model_last.th", *DIGITS, "--output-dir", tmp_path / "out", "--success", "0")
    assert not (tmp_path / "out").exists()
