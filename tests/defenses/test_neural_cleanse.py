import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from data.datasets import ImageSet, load_splits
from data.poison_cifar import stamp_share
from data.triggers import PatternTrigger, build_trigger
from defenses import neural_cleanse
from defenses.neural_cleanse import anomaly_indices, check_clean_images, flagging_bound, judge, main, overlap
from engine.checkpoint import load_model, load_trigger
from methods.trigger_search import Search

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
    with pytest.raises(UserError, match="fewer than 3 labels, got 2"):
        anomaly_indices([1, 2])
    with pytest.raises(UserError, match="nan"):
        anomaly_indices([1, 2, 3, np.nan])


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


def searches_with(norms, seed):
    """Searches as reverse_triggers returns them; the masks of label 0 lie in the corner that BadNets stamps."""
    found = []
    for label, norm in enumerate(norms):
        mask = torch.zeros(1, 32, 32)
        if label == 0:
            mask[0, 29:, 29:] = norm / 9
        else:
            mask += norm / 1024
        found.append(Search(label, None, None, norm=norm + seed, mask=mask, pattern=torch.full((3, 32, 32), 0.37),
                            success=0.99, steps=7) if norm < np.inf else Search(label, None, None, steps=7))
    return found


NORMS = [4.0, 60, 64, 66, 70, 72, 75, 77, 80, np.inf]


@pytest.fixture
def detected(small_run, tmp_path, monkeypatch):
    """A run of detect over three seeds whose searches found NORMS, but for the first, which found nothing odd."""
    seeds = iter([[61.0, *NORMS[1:]], NORMS, NORMS])
    monkeypatch.setattr(neural_cleanse, "reverse_triggers", lambda *args: searches_with(next(seeds), 0))
    main(["detect", "--checkpoint", str(small_run / "model_last.th"), *DIGITS, "--output-dir", str(tmp_path / "nc")])
    return tmp_path / "nc"


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
    assert "verdict: infected, target 0 (0)" in logged
    assert "label 0 (0): flagged in 2 of 3 seeds, norm 4.00-61.00" in logged
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


def test_triggers_for_fewer_than_three_labels_are_no_verdict(small_run, tmp_path):
    main(["detect", "--checkpoint", str(small_run / "model_last.th"), *DIGITS, *QUICK, "--success", "1", "--seeds", "2",
          "--output-dir", str(tmp_path / "out")])
    method = json.loads((tmp_path / "out/results.json").read_text())["method"]
    assert method["infected"] is None and method["targets"] == [] and len(method["norms"]) == 20
    assert "no verdict" in (tmp_path / "out/output.log").read_text()


def test_the_search_starts_anew_for_every_seed_and_repeats_itself(learned_run, tmp_path):
    flags = ["--checkpoint", str(learned_run / "model_last.th"), *DIGITS, *QUICK, "--success", "0.01", "--seeds", "2"]
    for name in ("a", "b"):
        main(["detect", *flags, "--output-dir", str(tmp_path / name)])
    a, b = ((tmp_path / name / "norms.csv").read_bytes() for name in ("a", "b"))
    assert a == b
    rows = list(csv.DictReader((tmp_path / "a/norms.csv").open()))
    found = [(x["norm"], y["norm"]) for x, y in zip(rows[:10], rows[10:], strict=True) if x["norm"] and y["norm"]]
    assert found and all(x != y for x, y in found)


def test_without_a_trigger_only_the_reversed_one_is_measured(small_run, tmp_path, monkeypatch):
    (tmp_path / "model_last.th").write_bytes((small_run / "model_last.th").read_bytes())
    monkeypatch.setattr(neural_cleanse, "reverse_triggers", lambda *args: searches_with(NORMS, 0))
    main(["detect", "--checkpoint", str(tmp_path / "model_last.th"), *DIGITS, "--output-dir", str(tmp_path / "out")])
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["asr"] is None and results["method"]["reversed"][0]["overlap"] is None
    assert results["method"]["reversed"][0]["asr_of_reversed_trigger"]["n"] > 300


def test_unlearning_the_trigger_lowers_asr_more_than_clean_images_alone(learned_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["unlearn", "--checkpoint", str(learned_run / "model_last.th"), *DIGITS, "--batch-size", "16", "--epochs",
              "4", "--crop-padding", "0", "--no-flip"]
    main([*common, "--patch-with", "clean"])
    main([*common, "--patch-with", "original", "--output-dir", "original"])
    clean = json.loads(next((tmp_path / "output").rglob("unlearn-clean/results.json")).read_text())
    original = json.loads((tmp_path / "original/results.json").read_text())
    assert original["asr"]["value"] < 0.5 < clean["asr"]["value"] and original["acc"]["value"] > 0.7
    assert original["method"]["control"]["asr"] == clean["asr"]
    own = original["method"]["asr_of_stamped_triggers"]
    assert own["before"][0]["value"] > 0.8 and own["after"][0] == original["asr"]


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
    assert "--stamp-share: means nothing for --patch-with clean" in refused(main, "unlearn", *model, "--patch-with",
                                                                           "clean", "--stamp-share", "0.1")
    assert "--success: expected a share in [0.01, 1]" in refused(main, "detect", *model, "--success", "0")
    assert "means nothing for --patch-with clean" in refused(main, "unlearn", *model, "--patch-with", "clean",
                                                            "--reversed-trigger", "x.th")
    assert "no such file" in refused(main, "unlearn", *model, "--reversed-trigger", tmp_path / "x.th")
    assert "no finished run of detect" in refused(main, "unlearn", *model)
    (tmp_path / "model_last.th").write_bytes((small_run / "model_last.th").read_bytes())
    assert "no trigger is known" in refused(main, "unlearn", "--checkpoint", tmp_path / "model_last.th", *DIGITS,
                                            "--patch-with", "original", "--output-dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unlearning_takes_what_detect_flagged_in_this_model(small_run, learned_run, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "output/mine"
    folder.mkdir(parents=True)
    model = folder / "model_last.th"
    model.write_bytes((small_run / "model_last.th").read_bytes())
    common = ["--checkpoint", "output/mine/model_last.th", *DIGITS]
    monkeypatch.setattr(neural_cleanse, "reverse_triggers", lambda *args: searches_with([60.0, *NORMS[1:]], 0))
    main(["detect", *common])
    main(["unlearn", *common])  # nothing is flagged: the model stays as it is
    results = json.loads((folder / "unlearn-reversed/results.json").read_text())
    assert results["method"]["triggers"] == [] and results["epochs"] == results["method"]["stamped"] == 0
    weights = [torch.load(file, weights_only=True)["state_dict"] for file in (
        model, folder / "unlearn-reversed/model_last.th")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert "nothing to unlearn" in (folder / "unlearn-reversed/output.log").read_text()
    monkeypatch.setattr(neural_cleanse, "reverse_triggers", lambda *args: searches_with(NORMS, 0))
    main(["detect", *common, "--overwrite"])
    main(["unlearn", *common, "--overwrite"])
    results = json.loads((folder / "unlearn-reversed/results.json").read_text())
    assert results["method"]["triggers"] == ["output/mine/neural-cleanse/reversed_trigger_0.th"]
    other = ["--output-dir", folder / "neural-cleanse", "--overwrite"]
    assert "holds a run of" in refused(main, "unlearn", *common, *other)
    model.write_bytes((learned_run / "model_last.th").read_bytes())
    assert "looked at other weights" in refused(main, "unlearn", *common, "--overwrite")
    for text in ('{"method": {"targets": 5}}', '{"method": {"targets": ["x"]}}', "{}", "["):
        (folder / "neural-cleanse/results.json").write_text(text)
        assert "no finished run of detect" in refused(main, "unlearn", *common, "--overwrite")
