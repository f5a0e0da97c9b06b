import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.gpu import host_waits
from helpers.paths import HALF, SIDE, SMALL
from PIL import Image
from torch import nn

from data.clean_label import CIFAR10CLB
from data.datasets import load_splits, load_train_and_test
from data.triggers import build_trigger
from engine.drawing.grids import enlarge
from generate_clb_attack import ascend_all, attack_pgd, main, measure, perturb
from models import build_model
from train_backdoor import main as train

EPSILON, STEP = 0.1, 0.03


@pytest.fixture
def linear():
    """A linear model of two classes on 3x8x8 pixels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).train()


@pytest.fixture
def batch():
    """16 samples in [0.3, 0.7], so that nothing is clipped at the ends of the pixel range."""
    return torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3


def attack(model, X, y, seed=0, **options):
    options = {"epsilon": EPSILON, "alpha": STEP, "max_attack_iters": 20, "restarts": 0, "freeze_fooled": False,
               **options}
    return attack_pgd(model, X, y, generator=torch.Generator().manual_seed(seed), **options)


def losses(model, X, y):
    return nn.functional.cross_entropy(model(X), y, reduction="none").detach()


def test_on_a_linear_model_it_reaches_the_closed_form(linear, batch):
    y = torch.arange(16) % 2
    delta = attack(linear, batch, y)
    weight = linear[1].weight.detach()
    away = torch.stack([(weight[1 - label] - weight[label]).sign().view(3, 8, 8) for label in y])
    torch.testing.assert_close(delta, EPSILON * away)


def test_it_stays_within_epsilon_and_the_pixel_range(linear):
    X = torch.rand(16, 3, 8, 8)
    delta = attack(linear, X, torch.arange(16) % 2, restarts=1)
    assert delta.abs().max() <= EPSILON + 1e-6
    assert (X + delta).min() >= 0 and (X + delta).max() <= 1


def test_no_sample_loses_by_more_restarts(batch):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, 3))
    y = torch.arange(16) % 3
    by_restarts = [losses(model, batch + attack(model, batch, y, restarts=n, max_attack_iters=2), y) for n in range(4)]
    for fewer, more in pairwise(by_restarts):
        assert (more >= fewer - 1e-6).all()
    assert (by_restarts[3] > by_restarts[0] + 1e-4).any()


def test_a_fooled_sample_is_left_as_it_is(linear, batch):
    y = linear(batch).argmax(1)
    y[:8] = 1 - y[:8]  # these are misclassified before anything is done
    still = attack(linear, batch, y, epsilon=1e-3, alpha=1e-3, freeze_fooled=True)
    start = attack(linear, batch, y, epsilon=1e-3, alpha=1e-3, max_attack_iters=0)
    pushed = attack(linear, batch, y, epsilon=1e-3, alpha=1e-3, freeze_fooled=False)
    torch.testing.assert_close(still[:8], start[:8])
    assert not torch.allclose(still[8:], start[8:])
    assert (losses(linear, batch + pushed, y)[:8] > losses(linear, batch + still, y)[:8]).all()


def test_a_frozen_sample_is_one_that_is_just_fooled(linear, batch):
    y = linear(batch).argmax(1)
    delta = attack(linear, batch, y, freeze_fooled=True)
    wrong = linear(batch + delta).argmax(1) != y
    full = attack(linear, batch, y, freeze_fooled=False)
    assert wrong.any() and (losses(linear, batch + delta, y)[wrong] < losses(linear, batch + full, y)[wrong]).all()


@pytest.mark.parametrize("freeze_fooled", [True, False])
def test_a_gpu_s_way_through_the_iterations_crafts_the_same_images(monkeypatch, freeze_fooled):
    torch.manual_seed(0)
    model, train = build_model("resnet18", 2, 10).eval(), load_train_and_test("digits", "", image_size=SIDE)[0]
    with torch.no_grad():
        labels = model(torch.from_numpy(train.data[:30]).permute(0, 3, 1, 2) / 255).argmax(1).numpy()  # all right

    def craft():
        return perturb(model, train.data[:30], labels, 20, epsilon=0.1, alpha=0.01, max_attack_iters=12, restarts=1,
                       freeze_fooled=freeze_fooled, generator=torch.Generator().manual_seed(0))
    ours, calls = craft(), []

    def on_a_gpu(*arguments):
        calls.append(len(arguments[1]))
        ascend_all(*arguments)
    monkeypatch.setattr("generate_clb_attack.ascend", on_a_gpu)
    assert (craft() == ours).all() and calls == [20, 20, 10, 10]
    assert (ours != train.data[:30]).any((1, 2, 3)).all()


def test_a_gpu_is_waited_for_once_in_ten_iterations(linear, batch, monkeypatch):
    y = linear(batch).argmax(1)
    with host_waits(monkeypatch) as waits:
        ascend_all(linear, batch, y, torch.zeros_like(batch), EPSILON, 1e-6, 40, True)
        assert waits.count == 4
        ascend_all(linear, batch, 1 - y, torch.zeros_like(batch), EPSILON, STEP, 40, True)
        assert waits.count == 5  # all are fooled from the start: it ends where it first looks
        ascend_all(linear, batch, y, torch.zeros_like(batch), EPSILON, STEP, 40, False)
        assert waits.count == 5


def test_a_zero_loss_does_not_keep_a_zero_delta(batch):
    class Sure(nn.Module):
        def forward(self, x):
            return torch.tensor([[200.0, -200.0]]).repeat(len(x), 1) + 0 * x.sum()
    assert attack(Sure(), batch, torch.zeros(16, dtype=torch.long)).abs().max() > 0


def test_the_model_is_given_back_as_it_was(linear, batch):
    attack(linear, batch, torch.zeros(16, dtype=torch.long))
    assert linear.training and all(p.requires_grad and p.grad is None for p in linear.parameters())


def test_enlarged_perturbation_is_grey_where_nothing_changed():
    change = np.zeros((1, 2, 2, 3), dtype=int)
    change[0, 0, 0], change[0, 1, 1] = 16, -16
    picture = enlarge(change)
    assert picture[0, 0, 0, 0] == 255 and picture[0, 1, 1, 0] == 1 and picture[0, 0, 1, 0] == 128


@pytest.fixture(scope="module")
def crafted(small_run, tmp_path_factory):
    """Clean-label folders crafted from a small digits model, perturbed and not."""
    root = tmp_path_factory.mktemp("clb")
    common = ["--dataset", "digits", "--checkpoint", str(small_run / "model_last.th"), "--poison-rate", "0.3"]
    main([*common, "--iterations", "4", "--output-dir", str(root / "pgd")])
    main([*common, "--no-pgd", "--output-dir", str(root / "no-pgd")])
    return root


def test_only_chosen_images_of_the_target_class_change_and_no_label(crafted):
    train_set, _, _ = load_splits("digits", "", image_size=SIDE)
    found = CIFAR10CLB(crafted / "pgd")
    chosen, own = found.backdoor_list, np.flatnonzero(train_set.targets == 0)
    np.testing.assert_array_equal(found.targets, train_set.targets)
    assert set(chosen) <= set(own) and len(set(chosen)) == len(chosen) == int(0.3 * len(own))
    rest = np.setdiff1d(np.arange(len(train_set)), chosen)
    np.testing.assert_array_equal(found.data[rest], train_set.data[rest])

    trigger = build_trigger("clean-label", 0, size=(SIDE, SIDE))
    inside = trigger.mask[..., 0] == 1
    change = np.abs(found.data[chosen].astype(int) - train_set.data[chosen])
    assert 8 < change[:, ~inside].max() <= 16
    np.testing.assert_array_equal(found.data[chosen][:, inside], trigger.stamp(found.data[chosen])[:, inside])


def test_the_control_is_stamped_and_not_perturbed(crafted):
    train_set, _, _ = load_splits("digits", "", image_size=SIDE)
    found = CIFAR10CLB(crafted / "no-pgd")
    stamped = build_trigger("clean-label", 0, size=(SIDE, SIDE)).stamp(train_set.data[found.backdoor_list])
    np.testing.assert_array_equal(found.data[found.backdoor_list], stamped)
    np.testing.assert_array_equal(found.backdoor_list, CIFAR10CLB(crafted / "pgd").backdoor_list)


def test_the_log_gives_both_denominators_and_the_largest_change(crafted):
    log = (crafted / "pgd/output.log").read_text()
    assert "38 images: 0.2969 of the 128 of the target class, 0.0294 of the 1294 training images" in log
    assert "at most 16 gray levels" in log
    figures = json.loads((crafted / "pgd/results.json").read_text())["method"]
    assert figures["largest_change"] == 16 and figures["surrogate_right_clean"] <= figures["poisoned"] == 38
    assert Image.open(crafted / "pgd/clean_label_examples.png").size[0] > 500


class Lightness(nn.Module):
    """Calls an image 1 where its first pixel is light, and otherwise 0."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pixels):
        light = self.scale * (pixels[:, 0, 0, 0] - 0.5)
        return torch.stack([-light, light], dim=1)


def test_what_the_surrogate_still_gets_right_is_counted_at_each_step_and_the_change_is_that_before_stamping():
    clean = np.zeros((4, 2, 2, 3), np.uint8)
    perturbed, stamped = clean.copy(), np.full_like(clean, 255)
    perturbed[0, 0, 0], stamped[3] = 240, 0
    assert measure(Lightness(), clean, perturbed, stamped, np.zeros(4, np.int64), 3) == {
        "surrogate_right_clean": 4, "surrogate_right_perturbed": 3, "surrogate_right_stamped": 1,
        "largest_change": 240, "mean_change": 240 / 16}


def test_training_takes_the_folder_and_measures_with_its_trigger(crafted, tmp_path):
    train([*SMALL, "--poison-type", "clean-label", "--clb-dir", str(crafted / "pgd"),
           "--output-dir", str(tmp_path / "run")])
    method = json.loads((tmp_path / "run/results.json").read_text())["method"]
    assert method["poisoned"] == 38 and method["of_candidates"] == 38 / 128


def test_a_folder_for_another_target_or_data_set_is_refused(crafted, refused, image_folder, tmp_path):
    clean_label = ["--poison-type", "clean-label", "--clb-dir", crafted / "pgd", "--output-dir", tmp_path / "run"]
    assert "--poison-target is 3" in refused(train, *SMALL, *clean_label, "--poison-target", "3")
    assert "made from other images (digits)" in refused(train, "--data-dir", image_folder(), *HALF,
                                                              *clean_label)


@pytest.mark.parametrize("flags, named", [
    (["--poison-rate", "0.001"], "--poison-rate 0.001: no image of the 128"), (["--epsilon", "16"], "--epsilon"),
    (["--no-pgd", "--iterations", "5"], "--iterations: has no effect with --no-pgd"),
    (["--poison-target", "12"], "--poison-target"), (["--checkpoint", "nowhere.th"], "nowhere.th: no such file"),
    (["--checkpoint", "README.md"], "README.md: ")])
def test_bad_input_is_one_line_and_writes_nothing(refused, small_run, tmp_path, flags, named):
    error = refused(main, "--dataset", "digits", "--checkpoint", small_run / "model_last.th",
                    "--output-dir", tmp_path / "clb", *flags)
    assert named in error and not (tmp_path / "clb").exists()


def test_a_surrogate_of_other_classes_is_refused(refused, small_run, image_folder, tmp_path):
    error = refused(main, "--data-dir", image_folder(), "--checkpoint", small_run / "model_last.th",
                    "--output-dir", tmp_path / "clb", "--poison-rate", "0.5")
    assert "has 10 classes, but the data set has 2" in error


def test_a_model_of_other_classes_of_the_same_number_is_refused(refused, small_run, image_folder, tmp_path):
    folder = image_folder(tuple("abcdefghij"), count=8)
    error = refused(main, "--data-dir", folder, "--checkpoint", small_run / "model_last.th", "--output-dir",
                    tmp_path / "clb", "--poison-rate", "0.5")
    assert "made for the classes 0, 1, 2, ..., but the data set has a, b, c" in error
