import json
from itertools import permutations

import numpy as np
import pytest
import torch
from helpers.paths import SIDE, SMALL
from helpers.reporting import missing_figures
from PIL import Image

from attacks.feature_collision import (
    collide,
    craft,
    find_target_image,
    main,
    pair,
    to_device,
    usual_beta,
    with_watermark,
)
from data.clean_label import CIFAR10CLB, load_clean_label
from data.datasets import load_splits
from data.poison_cifar import stamp_all
from data.triggers import build_trigger
from engine.measuring.evaluation import frozen
from models import build_model
from models.penultimate import penultimate
from studies.specificity import main as specificity
from train_backdoor import main as train

LEVELS = 16


def some(count, seed, size=4):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_with_features_that_are_the_pixels_it_reaches_the_closed_form(beta):
    """The minimum of |p - t|^2 + beta |p - b|^2 is (t + beta b) / (1 + beta)."""
    bases, goals = some(5, 0), some(5, 1)
    found = collide(lambda images: images.flatten(1), bases, goals.flatten(1), 1.0, beta, 150)
    torch.testing.assert_close(found, (goals + beta * bases) / (1 + beta), atol=1e-3, rtol=0)


def test_a_large_weight_of_likeness_returns_the_original():
    bases, goals = some(5, 0), some(5, 1)
    found = collide(lambda images: images.flatten(1), bases, goals.flatten(1), 1.0, 1e6, 30)
    torch.testing.assert_close(found, bases, atol=1e-4, rtol=0)


def test_within_epsilon_it_reaches_the_nearest_point_of_the_box():
    bases, goals = some(5, 0), some(5, 1)
    found = collide(lambda images: images.flatten(1), bases, goals.flatten(1), 0.1, 0.0, 150)
    torch.testing.assert_close(found, goals.clamp(bases - 0.1, bases + 0.1), atol=1e-3, rtol=0)


def test_the_scale_of_the_features_does_not_matter_and_images_do_not_know_one_another():
    bases, goals = some(5, 0), some(5, 1)
    found = [collide(lambda images, scale=scale: scale * images.flatten(1), bases, scale * goals.flatten(1), 0.2, 0.0,
                     90) for scale in (1e-3, 1.0, 1e3)]
    alone = collide(lambda images: images.flatten(1), bases[2:3], goals[2:3].flatten(1), 0.2, 0.0, 90)
    torch.testing.assert_close(found[0], found[1], atol=2e-3, rtol=0)
    torch.testing.assert_close(found[2], found[1], atol=2e-3, rtol=0)
    torch.testing.assert_close(alone, found[1][2:3])


def test_the_papers_weight_for_cifar10():
    assert usual_beta(some(1, 0, size=32)) == pytest.approx(1 / 9)


def test_originals_are_paired_with_the_goals_that_are_nearest_in_all():
    others = torch.tensor([[5.0], [0.0], [2.0]])
    assert pair(torch.tensor([[0.1], [4.0], [1.0]]), others).tolist() == [1, 0, 2]


def test_images_come_nearer_to_their_goals_within_epsilon_and_are_uint8():
    torch.manual_seed(0)
    model, rng = build_model("resnet18", 2, 4).eval(), np.random.default_rng(0)
    bases, goals = (rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8) for _ in range(2))
    before = bases.copy()
    with frozen(model):
        crafted, figures = craft(model, bases, goals, 5, (LEVELS + 0.4) / 255, 0.0, 8)
    assert crafted.dtype == np.uint8 and crafted.shape == bases.shape
    assert 0 < np.abs(crafted.astype(int) - bases).max() <= LEVELS
    assert figures["distance_after"] < 0.9 * figures["distance_before"]
    np.testing.assert_array_equal(bases, before)


def test_every_image_is_moved_to_the_goal_that_is_its_own_within_its_batch():
    torch.manual_seed(0)
    model, rng = build_model("resnet18", 2, 4).eval(), np.random.default_rng(0)
    bases, goals = (rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8) for _ in range(2))
    with frozen(model):
        own, wanted = (penultimate(model, to_device(images, model))[0] for images in (bases, goals))
        _, figures = craft(model, bases, goals, 3, 0.1, 0.0, 1)
    parts = (torch.cdist(own[batch], wanted[batch]) for batch in (slice(3), slice(3, 6)))
    least = [min(float(apart[range(3), order].sum()) for order in permutations(range(3))) for apart in parts]
    assert figures["distance_before"] == pytest.approx(sum(least) / 6, rel=1e-4)


def test_a_watermark_is_the_goal_at_that_opacity():
    bases, goals = (np.full((1, 2, 2, 3), level, dtype=np.uint8) for level in (100, 200))
    assert (with_watermark(bases, goals, 0.3) == 130).all() and (with_watermark(bases, goals, 0) == 100).all()


@pytest.fixture(scope="module")
def crafted(small_run, tmp_path_factory):
    """Folders crafted from a small digits model: against all images, and against the test image 5."""
    root = tmp_path_factory.mktemp("collision")
    common = ["--dataset", "digits", "--checkpoint", str(small_run / "model_last.th"), "--iterations", "3"]
    main([*common, "--poison-rate", "0.3", "--output-dir", str(root / "all")])
    main([*common, "--poison-rate", "0.1", "--target-image", "5", "--watermark", "0.2", "--output-dir",
          str(root / "one")])
    return root


def test_the_trigger_is_in_no_training_image_and_no_label_changes(crafted):
    clean, _, _ = load_splits("digits", "", image_size=SIDE)
    found, trigger = load_clean_label(crafted / "all", clean, 0, "feature-collision")
    own = build_trigger("feature-collision", 0, size=(SIDE, SIDE))
    np.testing.assert_array_equal(trigger.pattern, own.pattern)
    np.testing.assert_array_equal(found.targets, clean.targets)
    assert found.poisoned.sum() == int(0.3 * (clean.targets == 0).sum()) and (found.targets[found.poisoned] == 0).all()
    np.testing.assert_array_equal(found.data[~found.poisoned], clean.data[~found.poisoned])
    assert np.abs(found.data.astype(int) - clean.data).max() <= LEVELS
    stamped, inside = trigger.stamp(found.data), own.mask[..., 0] == 1
    assert inside.sum() == 16
    apart = np.abs(found.data[:, inside].astype(int) - stamped[:, inside]).max(axis=(1, 2))
    assert apart.min() > 100  # of every image some pixel of the trigger's place is far from the trigger


def test_training_takes_the_folder_for_this_attack_alone(crafted, tmp_path, refused):
    assert not missing_figures(crafted / "all")
    words = [*SMALL, "--poison-type", "feature-collision", "--fc-dir", str(crafted / "all")]
    train([*words, "--output-dir", str(tmp_path / "run")])
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["method"]["poisoned"] == 38 and results["asr"]["n"] > 300
    other = [*SMALL, "--poison-type", "clean-label", "--clb-dir", crafted / "all", "--output-dir", tmp_path / "other"]
    assert "made for --poison-type feature-collision, not for clean-label" in refused(train, *other)
    words[-1] = tmp_path / "nowhere"
    assert "attacks.feature_collision makes one" in refused(train, *words, "--output-dir", tmp_path / "other")
    words[-1] = crafted / "all"
    error = refused(train, *words, "--poison-target", "3", "--output-dir", tmp_path / "other")
    assert "--poison-target is 3" in error


def test_the_attack_on_one_image_is_measured_on_that_image(crafted):
    clean, _, test = load_splits("digits", "", image_size=SIDE)
    found, trigger = load_clean_label(crafted / "one", clean, 0, "feature-collision")
    np.testing.assert_array_equal(trigger.stamp(clean.data[:1])[0], test.data[5])
    assert trigger.label == test.targets[5] and len(CIFAR10CLB(crafted / "one").backdoor_list) == 12
    base = with_watermark(clean.data[found.poisoned], test.data[5], 0.2)
    assert np.abs(found.data[found.poisoned].astype(int) - base).max() <= LEVELS
    counted = stamp_all(test, trigger)
    np.testing.assert_array_equal(counted.data, test.data[5:6])
    assert counted.targets.tolist() == [0] and counted.original[0] == test.targets[5]


def test_on_one_image_the_scripts_that_swap_triggers_work_and_another_trigger_is_refused(crafted, tmp_path, refused):
    words = [*SMALL, "--poison-type", "feature-collision", "--fc-dir", str(crafted / "one")]
    train([*words, "--output-dir", str(tmp_path / "run")])
    specificity(["--dataset", "digits", "--checkpoint", str(tmp_path / "run/model_last.th"), "--output-dir",
                 str(tmp_path / "run/specificity")])
    asr = json.loads((tmp_path / "run/specificity/results.json").read_text())["method"]["asr_with_residual"]
    assert {share["n"] for share in asr.values()} == {1}
    for flag in ("--trigger-alpha", "--trigger-image"):
        error = refused(train, *words, flag, "0.5", "--output-dir", tmp_path / "other")
        assert f"{flag}: has no effect here, the set was made for one target image" in error


def test_a_set_whose_images_are_the_originals_is_warned_of(small_run, tmp_path):
    main(["--dataset", "digits", "--checkpoint", str(small_run / "model_last.th"), "--iterations", "0",
          "--poison-rate", "0.1", "--output-dir", str(tmp_path / "none")])
    assert "no pixel of any crafted image differs from its original" in (tmp_path / "none/output.log").read_text()


def test_the_change_of_a_pixel_counts_the_watermark(crafted):
    """Which moves pixels by up to a fifth, and the collision by at most LEVELS more."""
    change = json.loads((crafted / "one/results.json").read_text())["method"]["largest_change"]
    clean, _, _ = load_splits("digits", "", image_size=SIDE)
    found, _ = load_clean_label(crafted / "one", clean, 0, "feature-collision")
    assert change == np.abs(found.data.astype(int) - clean.data).max() > LEVELS


def test_a_target_image_is_a_number_or_a_file(tmp_path, refused, small_run):
    _, _, test = load_splits("digits", "", image_size=SIDE)
    model = build_model("resnet18", 2, 10)
    Image.fromarray(test.data[7]).save(tmp_path / "seven.png")
    picture, label = find_target_image(str(tmp_path / "seven.png"), test, model)
    np.testing.assert_array_equal(picture, test.data[7])
    assert 0 <= label < 10 and find_target_image("7", test, model)[1] == test.targets[7]
    own = int(np.flatnonzero(test.targets == 0)[0])
    for flags, named in ((["--target-image", "99999"], "expected a test image of 0 to"),
                         (["--target-image", "\u00b2"], "\u00b2: expected the number of a test image"),
                         (["--target-image", "5", "--watermark", "1"], "expected an opacity from 0 to 0.99"),
                         (["--target-image", "nowhere.png"], "nowhere.png: expected the number of a test image"),
                         (["--target-image", own], "is of the target class 0 already"),
                         (["--watermark", "0.3"], "--watermark: has no effect without --target-image"),
                         (["--target-image", "3", "--trigger-alpha", "1"], "--trigger-alpha: has no effect with")):
        error = refused(main, "--dataset", "digits", "--checkpoint", small_run / "model_last.th", "--output-dir",
                        tmp_path / "fc", "--poison-rate", "0.1", *flags)
        assert named in error and not (tmp_path / "fc").exists()
