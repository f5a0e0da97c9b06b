"""MM-BD: what is climbed, what is fitted, and that no image is read."""
import csv
import json
import math
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.errors import UserError
from data import datasets
from defenses import max_margin
from defenses.max_margin import fit_null, judge, largest_of, main, p_value
from engine.weights.checkpoint import load_model, save_model
from methods import margins
from methods.margins import Climb, climb, largest_margins, margins_of
from models import ARCHITECTURES, build_model

SETTINGS = Namespace(starts=3, steps=200, step=0.05, tolerance=1e-4)


class Linear(nn.Module):
    """Logits that are linear in the pixels: the largest margin over [0, 1] can be worked out."""

    def __init__(self, weights):
        super().__init__()
        self.layer = nn.Linear(weights.shape[1], len(weights), bias=False)
        self.layer.weight.data = weights

    def forward(self, pixels):
        return self.layer(pixels.flatten(1))


def blocks(large=None, classes=6, size=12):
    """A Linear on 12 x 12 pixels in which every class has pixels of its own; those of `large` weigh five times as much.
    """
    rng = torch.Generator().manual_seed(0)
    own = 3 * size * size // classes
    weights = torch.zeros(classes, 3 * size * size)
    for label in range(classes):
        weights[label, label * own:(label + 1) * own] = torch.rand(own, generator=rng) * (5 if label == large else 1)
    return Linear(weights)


def climbed(model, classes=6, size=12, **changes):
    args = Namespace(**{**vars(SETTINGS), **changes})
    return largest_margins(model, classes, size, args, torch.device("cpu"), torch.Generator().manual_seed(0))


def test_a_margin_is_the_lead_over_the_largest_other_logit():
    logits = torch.tensor([[3.0, 1, 2], [3, 1, 2], [0, 9, 4]])
    assert margins_of(logits, torch.tensor([0, 2, 1])).tolist() == [1, -1, 5]


def test_the_climb_reaches_the_largest_margin_that_pixels_allow():
    """Own pixels at 1 and all others at 0: the sum of the class's own weights."""
    model = blocks()
    for found in climbed(model):
        largest = model.layer.weight[found.label].sum().item()
        assert 0.95 * largest < found.margins.max() <= largest


def test_a_class_whose_weights_are_much_larger_is_found_and_an_even_network_is_clean():
    verdict = judge(climbed(blocks(large=4)), 0.05)
    assert (verdict["infected"], verdict["targets"]) == (True, [4]) and verdict["p_value"] < 1e-3
    verdict = judge(climbed(blocks()), 0.05)
    assert (verdict["infected"], verdict["targets"]) == (False, []) and verdict["p_value"] > 0.05


@pytest.mark.parametrize("every", [7, 1000])
def test_a_class_that_leaves_later_has_reached_what_it_had_when_it_was_done(every, monkeypatch):
    model = blocks(large=2)
    images = torch.rand(6, 3, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    at_once = climb(model, range(6), images, 60, 0.05, 1e-3)
    assert len({one.steps for one in at_once}) > 1
    monkeypatch.setattr(margins, "LOOK_EVERY", {"cpu": every})
    for one, other in zip(at_once, climb(model, range(6), images, 60, 0.05, 1e-3), strict=True):
        assert (one.label, one.steps) == (other.label, other.steps)
        assert one.margins == pytest.approx(other.margins, rel=1e-5)


def test_how_many_classes_climb_at_a_time_changes_nothing(monkeypatch):
    together = climbed(blocks())
    monkeypatch.setattr(margins, "AT_ONCE", 1)
    for one, other in zip(together, climbed(blocks()), strict=True):
        assert (one.label, one.steps) == (other.label, other.steps)
        assert one.margins == pytest.approx(other.margins, rel=1e-5)


def test_a_class_is_done_once_its_margins_change_no_more():
    model = blocks(classes=2)
    first, second = climbed(model, 2)
    for found in (first, second):
        best = (model.layer.weight[found.label] - model.layer.weight[1 - found.label]).clamp(min=0).sum().item()
        assert 2 < found.steps < 200 and found.margins == pytest.approx(best, rel=0.02)


def test_the_steps_end_the_climb_of_a_class_that_is_not_done():
    assert [found.steps for found in climbed(blocks(), steps=5, tolerance=0)] == [5] * 6


def test_the_largest_of_ten_draws_by_hand():
    """Of the exponential distribution, gamma's with shape 1, ln 10 is the 0.9 quantile: 1 - 0.9^10."""
    assert largest_of(10, math.log(10), (1, 0, 1)) == pytest.approx(1 - 0.9**10)
    assert largest_of(10, 5 + 2 * math.log(10), (1, 5, 2)) == pytest.approx(1 - 0.9**10)
    assert largest_of(10, 100, (1, 0, 1)) == pytest.approx(10 * math.exp(-100), rel=1e-6)  # no 0 by rounding
    assert largest_of(10, -1, (1, 0, 1)) == 1


def test_the_null_distribution_is_fitted_to_the_others_alone():
    draws = np.random.default_rng(0).gamma(4, 2, 4000) + 3
    shape, location, scale = fit_null(draws)
    assert shape * scale + location == pytest.approx(11, rel=0.02) and shape * scale**2 == pytest.approx(16, rel=0.1)
    others = [9.0, 10, 10.5, 11, 11.5, 12, 13, 14, 16]
    assert p_value([*others, 40]) == pytest.approx(largest_of(10, 40, fit_null(others)))
    assert p_value([40, *others]) == p_value([*others, 40]) < 1e-4
    assert p_value([*others, 17]) > p_value([*others, 22]) > p_value([*others, 40])


@pytest.mark.slow
def test_the_p_value_of_even_margins_is_often_too_small_and_that_of_an_outlier_is_far_smaller():
    """docs/defenses.md warns of it: the distribution is fitted without the largest value."""
    rng = np.random.default_rng(0)
    even = np.array([p_value(rng.normal(10, 1.5, 10)) for _ in range(80)])
    assert 0.08 < (even < 0.05).mean() < 0.3 and (even < 1e-6).mean() < 0.05
    assert max(p_value([*rng.normal(10, 1.5, 9), 40]) for _ in range(20)) < 1e-3


def test_margins_without_spread_and_few_classes_are_no_alarm():
    assert p_value([5.0] * 10) == p_value([5.0] * 9 + [5.001]) == 1
    assert p_value([5.0] * 9 + [6]) == 0
    assert p_value([1.0, 2, 50]) is None
    assert p_value([1.0, 2, 3, 50]) is not None
    found = judge([Climb(label, np.array([float(label)]), 1) for label in range(3)], 0.05)
    assert found == {"p_value": None, "infected": None, "targets": []}


def test_a_network_that_returns_nan_is_refused():
    model = blocks()
    model.layer.weight.data[0, 0] = math.nan
    with pytest.raises(UserError, match="returned NaN"):
        climb(model, [0, 1], torch.rand(2, 1, 3, 12, 12), 2, 0.1, 0)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_it_climbs_on_every_network_and_leaves_it_as_it_was(arch):
    torch.manual_seed(0)
    model = build_model(arch, 2 if ARCHITECTURES[arch].has_width else None, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = climbed(model, 4, 32, starts=1, steps=4, step=0.1, tolerance=0)
    assert [one.label for one in found] == [0, 1, 2, 3] and all(np.isfinite(one.margins).all() for one in found)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.fixture
def stranger(tmp_path):
    """The file of a model of 5 classes of 24 pixels, whose class 3 has far larger weights in the last layer."""
    torch.manual_seed(0)
    model = build_model("resnet18", 2, 5, image_size=24)
    model.linear.weight.data[3] *= 40
    save_model(tmp_path / "stranger.th", model, {}, {}, tuple("abcde"))
    return tmp_path / "stranger.th"


def test_a_run_reads_no_image_and_takes_size_and_classes_from_the_file(stranger, tmp_path, monkeypatch):
    for name in ("load_clean", "load_splits"):
        monkeypatch.setattr(datasets, name, lambda *args: pytest.fail("images were read"))
    monkeypatch.setattr("engine.defending.suspect.load_clean", lambda *args: pytest.fail("images were read"))
    seen = []
    monkeypatch.setattr(margins, "climb", lambda model, labels, images, *rest:
                        seen.append(images.shape) or climb(model, labels, images, *rest))
    monkeypatch.chdir(tmp_path)
    main(["--checkpoint", "stranger.th", "--starts", "3", "--steps", "40", "--step", "0.1"])
    assert seen == [(5, 3, 3, 24, 24)]
    folder = tmp_path / "output/stranger/max-margin"
    results = json.loads((folder / "results.json").read_text())
    method = results["method"]
    assert (results["acc"], results["asr"], "dataset" in results) == (None, None, False)
    assert (method["infected"], method["targets"]) == (True, [3]) and method["p_value"] < 0.05
    rows = list(csv.DictReader((folder / "margins.csv").open()))
    assert [row["class"] for row in rows] == list("abcde")
    assert [float(row["margin"]) for row in rows] == [row["margin"] for row in method["margins"]]
    assert "verdict: infected, target 3 (d), p-value" in (folder / "output.log").read_text()
    picture = np.asarray(Image.open(folder / "margins.png").convert("RGB")).astype(int)
    assert (picture[..., 0] - picture[..., 2] > 100).any()  # the target's bar is red


def test_a_trigger_without_images_is_refused_and_either_flag_names_images(stranger, refused):
    assert "--trigger-info: has no effect without" in refused(main, "--checkpoint", stranger, "--trigger-info", "t.th")
    for words, found in ((["--dataset", "digits"], ("digits", "data")), (["--data-dir", "x"], ("cifar10", "x")),
                         ([], (None, None))):
        args = max_margin.parse_args(words)
        assert (args.dataset, args.data_dir) == found


@pytest.mark.slow
def test_with_images_acc_and_asr_are_measured_too(small_run, tmp_path):
    words = ["--checkpoint", str(small_run / "model_last.th"), "--starts", "2", "--steps", "3"]
    main([*words, "--dataset", "digits", "--output-dir", str(tmp_path / "with")])
    main([*words, "--output-dir", str(tmp_path / "without")])
    with_images, without = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("with", "without"))
    trained = json.loads((small_run / "results.json").read_text())
    assert (with_images["acc"], with_images["asr"]) == (trained["acc"], trained["asr"])
    assert with_images["method"]["margins"] == without["method"]["margins"]


def test_bare_weights_have_numbers_for_classes_and_the_size_that_the_flag_says(stranger, tmp_path):
    torch.save(load_model(stranger).model.state_dict(), tmp_path / "bare.pt")
    main(["--checkpoint", str(tmp_path / "bare.pt"), "--image-size", "16", "--starts", "2", "--steps", "2",
          "--output-dir", str(tmp_path / "out")])
    method = json.loads((tmp_path / "out/results.json").read_text())["method"]
    assert [row["class"] for row in method["margins"]] == list("01234")
    assert method["farthest_channel"]["deviation"] > 0
