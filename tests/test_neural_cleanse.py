import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from data.datasets import ImageSet, load_splits
from data.files import UserError
from data.poison_cifar import stamp_share
from data.triggers import PatternTrigger, build_trigger
from engine.checkpoint import load_model, load_trigger, save_trigger
from neural_cleanse import anomaly_indices, check_clean_images, judge, lowest_unflagged, main, overlap

DIGITS = ["--dataset", "digits"]
QUICK = [*DIGITS, "--seeds", "2", "--budget", "2", "--batches", "1", "--batch-size", "8", "--success", "0"]


def test_one_low_outlier_is_flagged_with_the_index_of_the_formula():
    norms = [60, 64, 66, 70, 72, 75, 77, 80, 84, 16]
    indices, flagged = anomaly_indices(norms)
    median = (70 + 72) / 2  # an even number of labels: the mean of the middle two
    mad = 1.4826 * np.median(np.abs(np.array(norms) - median))
    assert indices[9] == pytest.approx((median - 16) / mad, rel=1e-4) and indices[9] > 2
    assert flagged.tolist() == [False] * 9 + [True]
    assert lowest_unflagged(norms) == pytest.approx(median - 2 * mad, rel=1e-4)


def test_a_high_outlier_is_not_flagged():
    indices, flagged = anomaly_indices([60, 64, 66, 70, 72, 75, 77, 80, 84, 300])
    assert indices[9] > 2 and not flagged.any()


def test_equal_norms_give_no_flag_and_no_division_by_zero():
    indices, flagged = anomaly_indices([5.0] * 10)
    assert indices.tolist() == [0] * 10 and not flagged.any()


def test_a_label_without_a_trigger_takes_no_part():
    with_it, _ = anomaly_indices([60, 64, 66, 70, 16, np.inf])
    without, _ = anomaly_indices([60, 64, 66, 70, 16])
    assert np.isnan(with_it[5]) and with_it[:5] == pytest.approx(without)


@pytest.mark.parametrize("norms", [[1, 2], [1, 2, np.inf], [1, 2, 3, np.nan]])
def test_too_few_norms_or_nan_have_no_meaning(norms):
    with pytest.raises(UserError, match="at least 3 labels"):
        anomaly_indices(norms)


def test_most_seeds_decide():
    assert judge(np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=bool)) == [0, 1]
    assert judge(np.array([[1, 0], [0, 0]], dtype=bool)) == []


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


def test_stamped_images_keep_their_labels_and_share_the_triggers(images):
    a, b = build_trigger("badnets", 0), build_trigger("clean-label", 1)
    patched = stamp_share(images, [a, b], 0.5, seed=3)
    assert patched.poisoned.sum() == 20 and np.array_equal(patched.targets, images.targets)
    before, after = images.data[patched.poisoned], patched.data[patched.poisoned]
    stamped = [int((after == trigger.stamp(before)).all((1, 2, 3)).sum()) for trigger in (a, b)]
    assert stamped == [10, 10]
    assert np.array_equal(patched.data[~patched.poisoned], images.data[~patched.poisoned])
    assert stamp_share(images, [], 0.5) is images


@pytest.fixture(scope="module")
def detected(small_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cleanse") / "neural-cleanse"
    main(["detect", "--checkpoint", str(small_run / "model_last.th"), *QUICK, "--output-dir", str(folder)])
    return folder


def test_what_detect_leaves(detected):
    method = json.loads((detected / "results.json").read_text())["method"]
    rows = list(csv.DictReader((detected / "norms.csv").open()))
    assert [(row["seed"], row["label"]) for row in rows] == [(seed, str(label)) for seed in "01" for label in range(10)]
    assert rows[0]["norm"] != rows[10]["norm"]  # another seed starts from other noise
    assert method["infected"] == bool(method["targets"])
    for row in rows:
        assert float(row["norm"]) > 0 and (float(row["index"]) > 2 or row["flagged"] == "0")
    found = method["reversed"][0]
    assert found["asr_of_reversed_trigger"]["n"] > 300 and 0 <= found["overlap"]["inside"] <= 1
    for name in ("norms.png", "reversed_triggers.png"):
        assert Image.open(detected / name).size[0] > 600


def test_reversed_triggers_are_triggers_with_their_float_mask(detected):
    rows = list(csv.DictReader((detected / "norms.csv").open()))
    for label in range(10):
        trigger = load_trigger(detected / f"reversed_trigger_{label}.th")
        smallest = min(float(row["norm"]) for row in rows if row["label"] == str(label))
        assert trigger.target == label and trigger.mask.sum() == pytest.approx(smallest, rel=1e-5)
        assert not np.array_equal(trigger.mask, np.rint(trigger.mask * 255) / 255)


def test_without_a_trigger_only_the_reversed_one_is_measured(small_run, tmp_path):
    (tmp_path / "model_last.th").write_bytes((small_run / "model_last.th").read_bytes())
    main(["detect", "--checkpoint", str(tmp_path / "model_last.th"), *QUICK, "--seeds", "1", "--output-dir",
          str(tmp_path / "out")])
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["asr"] is None and results["method"]["reversed"][0]["overlap"] is None
    assert results["method"]["reversed"][0]["asr_of_reversed_trigger"]["n"] > 300


@pytest.mark.parametrize("patch", ["original", "clean", "reversed"])
def test_unlearning_leaves_an_ordinary_checkpoint(small_run, detected, tmp_path, patch):
    files = ["--reversed-trigger", str(detected / "reversed_trigger_0.th")] if patch == "reversed" else []
    main(["unlearn", "--checkpoint", str(small_run / "model_last.th"), *DIGITS, "--patch-with", patch, *files,
          "--output-dir", str(tmp_path / "out")])
    method = json.loads((tmp_path / "out/results.json").read_text())["method"]
    _, defender, _ = load_splits("digits", "data")
    assert method["images"] == len(defender)
    assert method["stamped"] == (0 if patch == "clean" else round(0.2 * len(defender)))
    load_model(tmp_path / "out/model_last.th")


def test_an_empty_stamped_share_is_plain_fine_tuning(small_run, tmp_path):
    common = ["unlearn", "--checkpoint", str(small_run / "model_last.th"), *DIGITS]
    main([*common, "--patch-with", "clean", "--output-dir", str(tmp_path / "clean")])
    main([*common, "--patch-with", "original", "--stamp-share", "0", "--output-dir", str(tmp_path / "none")])
    main([*common, "--patch-with", "original", "--output-dir", str(tmp_path / "some")])
    a, b, c = (load_model(tmp_path / name / "model_last.th").model.state_dict() for name in ("clean", "none", "some"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["conv1.weight"], c["conv1.weight"])


def test_what_is_refused(small_run, detected, tmp_path, refused):
    model = ["--checkpoint", small_run / "model_last.th", *DIGITS, "--output-dir", tmp_path / "out"]
    assert "invalid choice" in refused(main, "cleanse", *model)
    assert "means nothing for --patch-with clean" in refused(main, "unlearn", *model, "--patch-with", "clean",
                                                            "--reversed-trigger", "x.th")
    assert "no such file" in refused(main, "unlearn", *model, "--reversed-trigger", tmp_path / "x.th")
    assert "no finished run of detect" in refused(main, "unlearn", *model)
    (tmp_path / "model_last.th").write_bytes((small_run / "model_last.th").read_bytes())
    assert "no trigger is known" in refused(main, "unlearn", "--checkpoint", tmp_path / "model_last.th", *DIGITS,
                                            "--patch-with", "original", "--output-dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_flagged_is_nothing_to_unlearn(small_run, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "output/benign"
    (folder / "neural-cleanse").mkdir(parents=True)
    (folder / "model_last.th").write_bytes((small_run / "model_last.th").read_bytes())
    (folder / "neural-cleanse/results.json").write_text('{"method": {"targets": []}}')
    unlearn = ["unlearn", "--checkpoint", "output/benign/model_last.th", *DIGITS]
    assert "flagged no label, so there is nothing to unlearn" in refused(main, *unlearn)
    save_trigger(folder / "neural-cleanse/reversed_trigger_3.th", build_trigger("badnets", 3))
    (folder / "neural-cleanse/results.json").write_text('{"method": {"targets": [3]}}')
    main(unlearn)
    assert (folder / "unlearn-reversed/model_last.th").exists()
