import json

import numpy as np
import pytest
from PIL import Image

from data.triggers import build_trigger
from methods.residuals import paste, shared_energy, swapped
from studies.specificity import main, variants


def test_one_fixed_change_shares_all_its_energy_and_unrelated_ones_next_to_none():
    rng = np.random.default_rng(0)
    fixed = np.repeat(rng.integers(-9, 9, (1, 32, 32, 3)), 50, axis=0)
    assert shared_energy(fixed) == pytest.approx(1)
    assert shared_energy(rng.standard_normal((50, 32, 32, 3))) == pytest.approx(1 / 50, rel=0.1)
    assert shared_energy(np.zeros((5, 32, 32, 3))) == 0


def test_nobody_keeps_his_own():
    partner = swapped(50, 0)
    assert sorted(partner) == list(range(50)) and (partner != np.arange(50)).all()


def test_a_residual_is_added_and_cut_off():
    images = np.array([0, 100, 250], dtype=np.uint8).reshape(1, 1, 1, 3)
    assert paste(images, np.array([-5, 3.6, 20]).reshape(1, 1, 1, 3)).tolist() == [[[[0, 104, 255]]]]


def test_a_fixed_patch_on_one_grey_is_the_same_whoevers_residual_it_is():
    gray = np.full((6, 32, 32, 3), 90, dtype=np.uint8)
    trigger = build_trigger("badnets", 0)
    images, residuals = variants(gray, trigger.stamp(gray), trigger, 0)
    assert images.keys() == {"own", "another image's", "the mean"} and shared_energy(residuals) == pytest.approx(1)
    assert (images["own"] == images["another image's"]).all() and (images["own"] == images["the mean"]).all()


def test_a_run_counts_each_variant(learned_run, tmp_path):
    main(["--checkpoint", str(learned_run / "model_last.th"), "--dataset", "digits", "--output-dir",
          str(tmp_path / "run")])
    results = json.loads((tmp_path / "run/results.json").read_text())
    found = results["method"]["asr_with_residual"]
    assert results["dataset"] == "digits"  # without it a summary takes the run for unfinished
    assert found["own"] == results["asr"] and found["own"]["n"] == 324
    assert 0 < results["method"]["shared_energy"] < 1
    assert np.asarray(Image.open(tmp_path / "run/specificity.png").convert("L")).std() > 5


def test_without_a_trigger_there_is_nothing_to_swap(small_run, tmp_path, refused):
    model = tmp_path / "model.th"
    model.write_bytes((small_run / "model_last.th").read_bytes())
    assert "no trigger lies beside it" in refused(main, "--checkpoint", model, "--dataset", "digits", "--output-dir",
                                                  tmp_path / "run")


def test_one_image_has_no_other_ones_residual():
    clean = np.full((1, 32, 32, 3), 90, np.uint8)
    trigger = build_trigger("badnets", 0)
    made, _ = variants(clean, trigger.stamp(clean), trigger, 0)
    assert list(made) == ["own", "the mean"]
