import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.paths import ROOT, SIDE
from PIL import Image
from scipy.stats import norm
from torch import nn

from common.errors import UserError
from data.batches import to_pixels
from data.datasets import load_splits
from defenses.strip import main
from engine.defending.suspect import find_trigger
from engine.weights.checkpoint import load_model
from methods import strip as strip_core
from methods.screening import screen
from methods.strip import (
    Strip,
    accepted,
    auroc,
    draw_overlays,
    entropy_bits,
    find_boundaries,
    rejected,
    split_calibration,
    strip_entropy,
    superimpose,
    sweep_frr,
)

SMALL = ["--dataset", "digits", "--overlays", "8", "--inspect", "40"]


class Planted(nn.Module):
    """Sure of class 0 where the last pixel is white; elsewhere its answer depends on brightness and is never sure."""

    def forward(self, pixels):
        brightness = pixels.mean((1, 2, 3))
        logits = torch.stack([brightness, 1 - brightness, brightness * 0, brightness * 0], 1)
        logits[pixels[:, :, 31, 31].amin(1) >= 1, 0] = 50
        return logits


class Alternating(nn.Module):
    """Sure of class 0 for dark images and of class 1 for bright ones."""

    def forward(self, pixels):
        bright = pixels.mean((1, 2, 3)) > 0.5
        return 100 * nn.functional.one_hot(bright.long(), 2).float()


@pytest.fixture
def noise():
    return np.random.default_rng(3).integers(0, 200, (60, 32, 32, 3), dtype=np.uint8)


def strip(model, pool, overlays=20, how="sum-clip"):
    return Strip(model, pool, overlays, how, 0, torch.device("cpu"))


def test_entropy_is_in_bits_from_0_to_log2_of_the_classes():
    logits = torch.stack([torch.zeros(10), 1000 * torch.eye(10)[3], torch.tensor([50.0, 50.0, *[-1000.0] * 8])])
    assert entropy_bits(logits).tolist() == pytest.approx([math.log2(10), 0, 1], abs=1e-6)


def test_superimposing_is_a_sum_cut_off_at_white_or_an_average():
    a, b = torch.tensor([0.25, 0.5, 1.0]), torch.tensor([0.5, 0.75, 0.0])
    assert superimpose(a, b, "sum-clip").tolist() == [0.75, 1, 1]
    assert superimpose(a, b, "average").tolist() == [0.375, 0.625, 0.5]
    assert a.tolist() == [0.25, 0.5, 1]


def test_identical_overlays_give_the_entropy_of_one(noise):
    images, pool = torch.from_numpy(noise[:3]), torch.from_numpy(noise[3:4])
    found = strip_entropy(Planted(), images, pool, np.zeros((3, 7), dtype=np.int64), "average")
    one = entropy_bits(Planted()(superimpose(to_pixels(images), to_pixels(pool), "average")))
    assert found == pytest.approx(one.numpy(), rel=1e-5) and found.std() > 0


def test_it_is_the_mean_of_entropies_not_the_entropy_of_the_mean(noise):
    pool = torch.stack([torch.zeros(32, 32, 3), torch.full((32, 32, 3), 255)]).to(torch.uint8)
    black = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    found = strip_entropy(Alternating(), black, pool, np.array([[0, 1]]), "sum-clip")
    assert found[0] == pytest.approx(0, abs=1e-6)  # the mean prediction (0.5, 0.5) would have 1 bit


def test_every_image_meets_its_own_overlays_whatever_the_batches(noise, monkeypatch):
    images, pool = torch.from_numpy(noise[:5]), torch.from_numpy(noise[5:])
    draws = np.random.default_rng(0).integers(0, 55, (5, 9))
    mixed = [superimpose(to_pixels(image[None]), to_pixels(pool[row]), "average")
             for image, row in zip(images, draws, strict=True)]
    by_hand = [entropy_bits(Planted()(pixels)).mean().item() for pixels in mixed]
    for size in (4, 128):
        monkeypatch.setattr(strip_core, "evaluation_batch", lambda device, size=size: size)
        assert strip_entropy(Planted(), images, pool, draws, "average") == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [4, 4, 4, 3]), ("filled", [4, 4, 4, 4])])
def test_a_gpu_gets_whole_batches_and_the_entropies_are_those_of_the_pairs(noise, monkeypatch, device, sizes):
    """A verdict would otherwise depend on how many images are inspected with one."""
    seen = []

    class Counting(Planted):
        def forward(self, pixels):
            seen.append(len(pixels))
            return super().forward(pixels)
    images, pool = torch.from_numpy(noise[:3]), torch.from_numpy(noise[5:])
    draws = np.random.default_rng(0).integers(0, 55, (3, 5))
    by_hand = strip_entropy(Planted(), images, pool, draws, "average")
    monkeypatch.setattr(strip_core, "evaluation_batch", lambda device: 4)
    if device != "cpu":
        monkeypatch.setattr(strip_core, "WHOLE_BATCHES", ("cpu",))
    assert strip_entropy(Counting(), images, pool, draws, "average") == pytest.approx(by_hand, rel=1e-5)
    assert seen == sizes


def test_overlays_follow_from_the_image_and_the_seed_and_are_never_the_image(noise):
    draws = draw_overlays(noise[:5], noise, 59, 0)
    assert all(set(row) == set(range(60)) - {i} for i, row in enumerate(draws))
    few = draw_overlays(noise[:5], noise[10:], 8, 0)
    assert np.array_equal(few[3], draw_overlays(noise[3:4], noise[10:], 8, 0)[0])
    assert not np.array_equal(few, draw_overlays(noise[:5], noise[10:], 8, 1))
    assert all(len(set(row)) == 8 for row in few)


def test_the_boundaries_on_given_numbers():
    entropies = np.random.default_rng(0).normal(1.1, 0.3, 2000)
    found = find_boundaries(entropies, 0.01)
    assert found["normal"] == pytest.approx(entropies.mean() - 2.32635 * entropies.std(), abs=1e-4)
    assert found["empirical"] == np.sort(entropies)[19]
    assert rejected(entropies, found["empirical"]).value == pytest.approx(0.01)
    assert find_boundaries([0.1, 0.2, 3.0, 3.1], 0.01)["normal"] < 0


@pytest.mark.slow
def test_synthetic_gaussians_give_the_analytic_rates():
    rng = np.random.default_rng(1)
    calibration, clean, triggered = rng.normal(1, 0.2, 10**6), rng.normal(1, 0.2, 10**6), rng.normal(0.5, 0.1, 10**6)
    for name, boundary in find_boundaries(calibration, 0.01).items():
        assert rejected(clean, boundary).value == pytest.approx(0.01, abs=5e-4), name
        assert accepted(triggered, boundary).value == pytest.approx(norm.sf(1 - 2.32635 * 0.2, 0.5, 0.1), abs=5e-3)
    assert auroc(clean, triggered) == pytest.approx(norm.cdf(0.5 / math.hypot(0.2, 0.1)), abs=1e-3)
    rates = [row["frr"] for row in sweep_frr(calibration, clean, triggered, triggered) if row["boundary"] == "normal"]
    assert rates == pytest.approx([0.001, 0.005, 0.01, 0.02, 0.05, 0.1], abs=1e-3)


def test_a_planted_trigger_is_caught_with_far_0(noise):
    triggered = noise[:20].copy()
    triggered[:, 31, 31] = 255
    measure = strip(Planted(), noise[40:], 15).entropies
    boundary = find_boundaries(measure(noise[20:40]), 0.05)["empirical"]
    assert accepted(measure(triggered), boundary).value == 0
    assert rejected(measure(noise[:20]), boundary).value <= 0.2
    assert auroc(measure(noise[:20]), measure(triggered)) == 1


def test_too_few_clean_images_are_an_error(noise):
    with pytest.raises(UserError, match="expected at least two different clean images"):
        strip(None, noise[:1], 0)
    with pytest.raises(UserError, match="--overlays 20: expected fewer than the 20 different clean images"):
        strip(Planted(), noise[:20])


@pytest.fixture(scope="module")
def calibrated(small_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("strip") / "strip"
    main(["--checkpoint", str(small_run / "model_last.th"), *SMALL, "--output-dir", str(folder)])
    return folder


def test_two_runs_with_one_seed_agree_to_the_bit(calibrated, small_run, tmp_path):
    main(["--checkpoint", str(small_run / "model_last.th"), *SMALL, "--output-dir", str(tmp_path / "again")])
    for name in ("strip.json", "verdicts.csv", "frr_sweep.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (calibrated / name).read_bytes()


def test_what_a_run_leaves(calibrated):
    results = json.loads((calibrated / "results.json").read_text())
    method = results["method"]
    rows = list(csv.DictReader((calibrated / "verdicts.csv").open()))
    clean = [row for row in rows if row["images"] == "clean"]
    triggered = [row for row in rows if row["images"] == "triggered"]
    assert len(clean) == len(triggered) == 40
    boundary = method["boundaries"]["empirical"]
    assert method["frr"]["value"] == np.mean([float(row["entropy"]) <= boundary for row in clean])
    assert method["far"]["value"] == np.mean([row["rejected"] == "0" for row in triggered])
    assert method["far_successful"] is None or method["far_successful"]["n"] <= 40
    assert len(method["frr_sweep"]) == 12 and 0 <= method["auroc"] <= 1
    assert results["acc"]["n"] > 300
    for name in ("entropy.png", "frr_sweep.png"):
        assert Image.open(calibrated / name).size[0] > 500


def test_without_a_trigger_far_is_left_out(small_run, tmp_path):
    (tmp_path / "model_last.th").write_bytes((small_run / "model_last.th").read_bytes())
    main(["--checkpoint", str(tmp_path / "model_last.th"), *SMALL, "--output-dir", str(tmp_path / "out")])
    method = json.loads((tmp_path / "out/results.json").read_text())["method"]
    assert method["far"] is method["auroc"] is method["mean_entropy"]["triggered"] is None
    assert method["frr"]["n"] == 40 and "FAR nan" in (tmp_path / "out/output.log").read_text()


@pytest.fixture
def pictures(tmp_path):
    """A folder of three digits' worth of noise, one of them no image."""
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(5)
    for name in ("a.png", "deep/b.jpg", "c.png", "deep/d.bmp", ".hidden.png"):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / name)
    (folder / "deep/d.bmp").rename(folder / "deep/d")  # a picture whatever it is called
    (folder / "c.png").write_bytes(b"no picture")
    return folder


def screened(capsys, *flags):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, flags)))
    return stopped.value.code, list(csv.DictReader(capsys.readouterr().out.splitlines()))


def test_screening_gives_a_row_and_a_verdict_for_every_image(calibrated, small_run, pictures, capsys):
    known = ["--checkpoint", small_run / "model_last.th", "--calibration-file", calibrated / "strip.json"]
    stored = json.loads((calibrated / "strip.json").read_text())["entropies"]
    status, rows = screened(capsys, *known, "--images", pictures)
    assert [row["path"].rpartition("/")[2] for row in rows] == ["a.png", "c.png", "b.jpg", "d"]
    assert rows[1]["verdict"] == "error" and rows[1]["entropy"] == "" and "not a readable image" in rows[1]["error"]
    read = [row for row in rows if row["entropy"]]
    assert status == (1 if any(row["verdict"] == "rejected" for row in read) else 2)
    for row in read:
        assert row["verdict"] == ("rejected" if float(row["entropy"]) <= min(stored) else "accepted")
        alone = screened(capsys, *known, "--images", row["path"])
        assert alone == (1 if row["verdict"] == "rejected" else 0, [row])


def test_frr_and_boundary_can_be_asked_for_anew(calibrated, small_run, pictures, capsys):
    known = ["--checkpoint", small_run / "model_last.th", "--calibration-file", calibrated / "moved.json", "--images",
             pictures / "a.png"]
    stored = json.loads((calibrated / "strip.json").read_text())
    write = (calibrated / "moved.json").write_text
    write(json.dumps(stored))
    entropy = float(screened(capsys, *known)[1][0]["entropy"])
    write(json.dumps({**stored, "entropies": [entropy - 0.2, entropy - 0.1, *[entropy + 0.1] * 6]}))
    assert [screened(capsys, *known, "--frr", frr)[0] for frr in ("0.01", "0.2", "0.4")] == [0, 0, 1]
    write(json.dumps({**stored, "frr": 0.4, "entropies": [entropy - 1] + [entropy + 1] * 9}))
    assert screened(capsys, *known)[0] == 1 and screened(capsys, *known, "--frr", "0.01")[0] == 0
    write(json.dumps({**stored, "frr": 0.3, "entropies": [entropy - 1, *[entropy + 0.1] * 9]}))
    assert screened(capsys, *known)[0] == 1
    assert screened(capsys, *known, "--boundary", "normal")[0] == 0  # mean entropy - 0.01, sd 0.33


def test_screening_an_image_gives_what_inspecting_it_gave(small_run, tmp_path, capsys):
    folder = tmp_path / "average"
    main(["--checkpoint", str(small_run / "model_last.th"), *SMALL, "--superimpose", "average", "--output-dir",
          str(folder)])
    _, _, test = load_splits("digits", "", image_size=SIDE)
    stamped = find_trigger(small_run / "model_last.th").stamp(test.data)
    rows = list(csv.DictReader((folder / "verdicts.csv").open()))
    for name, images in (("clean", test.data), ("triggered", stamped)):
        row = next(row for row in rows if row["images"] == name)
        assert name == "clean" or test.targets[int(row["index"])] != 0
        Image.fromarray(images[int(row["index"])]).save(tmp_path / "one.png")
        _, (found,) = screened(capsys, "--checkpoint", small_run / "model_last.th", "--calibration-file",
                               folder / "strip.json", "--images", tmp_path / "one.png")
        assert float(found["entropy"]) == pytest.approx(float(row["entropy"]), abs=2e-6)
        assert (found["verdict"] == "rejected") == (row["rejected"] == "1")


@pytest.mark.slow
def test_weights_that_do_not_say_their_input_are_screened_as_they_were_calibrated(small_run, pictures, tmp_path, capsys,
                                                                                  refused):
    bare, none = tmp_path / "bare.th", ["--mean", "none", "--std", "none"]
    torch.save(load_model(small_run / "model_last.th").model.state_dict(), bare)
    known = ["--checkpoint", bare, "--calibration-file", tmp_path / "strip/strip.json", "--images", pictures / "a.png"]
    main(["--checkpoint", str(bare), *SMALL, *none, "--image-size", str(SIDE), "--output-dir", str(tmp_path / "strip")])
    as_calibrated = screened(capsys, *known)
    assert screened(capsys, *known, *none) == as_calibrated
    assert "--mean: another than the calibration was made with" in refused(main, *known, "--mean", "homework", "--std",
                                                                           "homework")
    path = tmp_path / "strip/strip.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in stored.items() if name != "input"}))  # an older one
    assert screened(capsys, *known, *none) == as_calibrated != screened(capsys, *known)
    path.write_text(json.dumps({**stored, "input": {"mean": [1e9, 0, 0]}}))
    assert "damaged (input)" in refused(main, *known)


def test_an_entropy_at_the_boundary_itself_is_rejected(pictures, capsys):
    paths = [pictures / name for name in ("a.png", "deep/b.jpg", "deep/d")]
    assert screen(paths, lambda images: np.array([0.4, 0.5, 0.6]), 0.5, 32) == 1
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["verdict"] for row in rows] == ["rejected", "rejected", "accepted"]


def test_no_calibration_image_is_laid_over_others(images):
    for count, expected in ((None, 20), (13, 13)):
        held_out, pool = split_calibration(images, count)
        assert np.array_equal(held_out, images.data[:expected]) and np.array_equal(pool, images.data[expected:])


def test_images_that_stand_twice_are_laid_over_once(images):
    twice = replace(images, data=np.concatenate([images.data[:20], images.data[:10], images.data[:10]]))
    held_out, pool = split_calibration(twice, 10)
    assert np.array_equal(held_out, images.data[:10])
    assert len(pool) == 20 and len(np.unique(pool.reshape(20, -1), axis=0)) == 20


def test_what_is_refused(calibrated, small_run, pictures, tmp_path, refused):
    model = ["--checkpoint", small_run / "model_last.th"]
    for flag in (["--overlays", "5"], ["--seed", "9"], ["--output-dir", "x"], ["--overwrite"]):
        assert f"{flag[0]}: has no effect with --images" in refused(main, *model, "--images", pictures, *flag)
    assert "got an empty one" in refused(main, *model, "--calibration-file", calibrated / "strip.json", "--images", "")
    assert "has no effect without --images" in refused(main, *model, "--calibration-file", "strip.json")
    assert "expected a calib" in refused(main, *model, "--images", pictures, "--calibration-file", tmp_path / "none")
    other = ["--checkpoint", ROOT / "zoo/benign/model_last.th", "--calibration-file", calibrated / "strip.json"]
    assert "another model" in refused(main, *other, "--images", pictures)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "found none" in refused(main, *model, "--calibration-file", calibrated / "strip.json", "--images", empty)
    many = ["--dataset", "digits", "--output-dir", tmp_path / "out"]
    assert "--overlays 100000: expected fewer than" in refused(main, *model, *many, "--overlays", "100000")
    assert "--calibration 100000: expected fewer than" in refused(main, *model, *many, "--calibration", "100000")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"entropies": []}'])
def test_a_damaged_calibration_is_one_line(calibrated, small_run, pictures, tmp_path, refused, damage):
    (tmp_path / "strip.json").write_text(damage)
    assert "expected a calibration" in refused(main, "--checkpoint", small_run / "model_last.th", "--calibration-file",
                                       tmp_path / "strip.json", "--images", pictures)


@pytest.mark.parametrize(("name", "value"), [
    ("frr", 5), ("frr", None), ("frr", "0.01"), ("boundary", "foo"), ("overlays", 2.5), ("overlays", 0), ("seed", -1),
    ("superimpose", "foo"), ("entropies", []), ("entropies", ["a"]), ("checkpoint", None)])
def test_a_calibration_with_a_value_that_cannot_be_is_one_line(calibrated, small_run, pictures, tmp_path, refused, name,
                                                               value):
    stored = json.loads((calibrated / "strip.json").read_text())
    (tmp_path / "strip.json").write_text(json.dumps({**stored, name: value}))
    (tmp_path / "overlays.npy").write_bytes((calibrated / "overlays.npy").read_bytes())
    assert f"damaged ({name})" in refused(main, "--checkpoint", small_run / "model_last.th", "--calibration-file",
                                          tmp_path / "strip.json", "--images", pictures)
