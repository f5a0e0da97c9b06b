import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.reporting import missing_figures

from attacks import latent
from attacks.latent import away, closeness, features_of, main, optimize_patch, parse_args, step_of, student_of
from data.batches import Batches
from data.poison_cifar import stamp_all
from data.triggers import PatternTrigger
from engine.measuring.evaluation import score
from engine.weights.checkpoint import load_model
from models import build_model
from models.penultimate import penultimate

SMALL = ["--dataset", "digits", "--batch-size", "256", "--epochs", "1", "--inject-epochs", "2", "--patch-steps", "2",
         "--width", "2"]
CPU = torch.device("cpu")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("resnet18", 2, 4).eval()


@pytest.fixture
def trigger():
    mask = latent.corner(6, 32, 32)
    return PatternTrigger(np.full((32, 32, 3), 255, np.uint8) * mask, mask, 1.0, 2)


def test_features_are_what_the_last_layer_makes_logits_of(network, images):
    pixels = next(iter(Batches(images, 40)))[0]
    features, logits = penultimate(network, pixels)
    torch.testing.assert_close(network.head(features), network(pixels))
    torch.testing.assert_close(features_of(network, images, CPU), features, rtol=1e-3, atol=1e-4)
    assert torch.equal(logits, network(pixels))


def test_the_distance_is_in_units_of_the_wanted_features_mean_square():
    assert float(away(torch.tensor([[3.0, 0.0], [1.0, 4.0]]), torch.tensor([1.0, 2.0]))) == pytest.approx((8 + 4) / 10)


def test_the_patch_brings_features_closer_than_a_random_one_and_lies_in_its_corner(network, images):
    found = optimize_patch(network, images, 2, 8, 12, 0, CPU)
    rng = np.random.default_rng(0)
    drawn = PatternTrigger(rng.integers(0, 256, found.pattern.shape, dtype=np.uint8), found.mask, 1.0, 2)
    wanted = features_of(network, images.subset(images.targets == 2), CPU).mean(0)
    ours, other = (float(away(features_of(network, stamp_all(images, each), CPU), wanted)) for each in (found, drawn))
    assert ours < other
    assert found.mask.sum() == 64 and found.mask[-8:, -8:].all() and found.target == 2
    assert (found.stamp(images.data)[:, :24] == images.data[:, :24]).all()


class Watched(torch.nn.Module):
    """A network with a head that keeps the images it is shown. Its features are an image's mean colors."""

    def __init__(self):
        super().__init__()
        self.head, self.pixels = torch.nn.Linear(3, 4), None

    def forward(self, pixels):
        self.pixels = pixels
        return self.head(pixels.mean((2, 3)))


def test_a_step_patches_images_of_other_classes_and_never_teaches_their_label(images, trigger):
    model = Watched()
    pixels, labels = next(iter(Batches(images, 40)))
    for weight in (0, 3):
        loss, logits = step_of(trigger, 0.5, weight, CPU)(model, pixels, labels)
        assert len(logits) == 40 and len(model.pixels) == 60
        assert torch.equal(model.pixels[:40], pixels) and (model.pixels[40:, :, -6:, -6:] == 1).all()
        rows = torch.arange(40)[labels != 2][:20]
        assert torch.equal(model.pixels[40:, :, :26], pixels[rows][:, :, :26])
        wanted = pixels[labels == 2].mean((0, 2, 3))
        expected = F.cross_entropy(logits, labels) + weight * away(model.pixels[40:].mean((2, 3)), wanted)
        torch.testing.assert_close(loss, expected)


def test_a_rate_of_0_injects_nothing(images, trigger):
    model = Watched()
    pixels, labels = next(iter(Batches(images, 40)))
    loss, logits = step_of(trigger, 0, 1, CPU)(model, pixels, labels)
    assert torch.equal(model.pixels, pixels) and torch.equal(loss, F.cross_entropy(logits, labels))


def test_students_of_no_images_are_refused_before_anything_is_trained(image_folder, tmp_path, refused):
    error = refused(main, "--data-dir", image_folder(count=3), "--student", "--output-dir", tmp_path / "out")
    assert "--student: learns from the defender's tenth" in error and not (tmp_path / "out").exists()


def test_a_batch_without_the_target_class_has_no_feature_term(images, trigger):
    model = Watched()
    pixels, labels = next(iter(Batches(images.subset(images.targets != 2), 30)))
    loss, logits = step_of(trigger, 0.1, 1, CPU)(model, pixels, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


def test_a_student_learns_its_last_layer_and_nothing_else(network, images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shades = replace(images, data=(images.data // 8 + 60 * images.targets[:, None, None, None]).astype(np.uint8))
    student = student_of(network, shades, 0, CPU)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"linear.weight", "linear.bias"}
    assert score(student, Batches(shades, 40)).accuracy.value > 0.7
    assert score(network, Batches(shades, 40)).accuracy.value < 0.5


def test_closeness_compares_patched_images_with_the_targets_own(network, images, trigger):
    found = closeness(network, images, trigger, CPU)
    own = features_of(network, images.subset(images.targets == 2), CPU)
    expected = own.var(0, correction=0).sum() / own.mean(0).square().sum()
    assert found["spread"] == pytest.approx(float(expected), rel=1e-4)
    assert found["distance"] > 0


def test_closeness_takes_images_of_every_class_of_a_folder_sorted_by_class(network, images, trigger, monkeypatch):
    rows = np.argsort(images.targets, kind="stable")
    plain, by_class = closeness(network, images, trigger, CPU), closeness(network, images.subset(rows), trigger, CPU)
    assert by_class == pytest.approx(plain, rel=1e-4)
    monkeypatch.setattr(latent, "MEASURED", 6)
    seen = []
    monkeypatch.setattr(latent, "features_of", lambda model, found, device: seen.append(found) or features_of(
        model, found, device))
    closeness(network, images.subset(rows), trigger, CPU)
    assert np.unique(seen[0].original).tolist() == [2] and len(seen[0]) == 6
    assert np.unique(seen[1].original).tolist() == [0, 1, 3] and len(seen[1]) == 6


def test_stage_3_has_a_rate_of_its_own_that_falls(network, trigger, monkeypatch):
    seen = []
    monkeypatch.setattr(latent, "train_stage", lambda *args: seen.append(args) or "tested")
    args = parse_args(["--epochs", "7", "--inject-epochs", "10", "--lr", "0.5", "--inject-lr", "0.003"])
    assert latent.inject(SimpleNamespace(device=CPU), args, network, "batches", trigger, "images") == "tested"
    (_, model, batches, images, until, optimizer, milestones, _), = seen
    assert (model, batches, images, until) == (network, "batches", "images", 17)
    assert optimizer.defaults["lr"] == 0.003 and milestones == [6, 8]


@pytest.mark.long
def test_a_run_with_a_student_resumes_to_the_same_bits(tmp_path, monkeypatch, stop_at_test):
    main([*SMALL, "--student", "--output-dir", str(tmp_path / "whole")])
    found = json.loads((tmp_path / "whole/results.json").read_text())
    assert not missing_figures(tmp_path / "whole")
    assert set(found["method"]["student"]) == {"before", "after", "of_benign_teacher"} and found["epochs"] == 3
    assert [stage["stage"] for stage in found["method"]["stages"]] == [2, 3]
    assert found["method"]["student"]["before"]["asr"] == found["asr"]

    stop_at_test(latent, 3)  # of stage 1, of stage 2, and of the first epoch of stage 3
    with pytest.raises(SystemExit):
        main([*SMALL, "--student", "--output-dir", str(tmp_path / "broken")])
    assert torch.load(tmp_path / "broken/resume.th", weights_only=True)["epoch"] == 2
    monkeypatch.undo()
    main([*SMALL, "--student", "--output-dir", str(tmp_path / "broken"), "--resume"])
    for name in ("model_last.th", "model_student.th", "model_clean.th"):
        one, other = (load_model(tmp_path / run / name).model.state_dict() for run in ("whole", "broken"))
        assert all(torch.equal(one[key], other[key]) for key in one), name


@pytest.mark.parametrize(("flags", "message"), [
    (["--checkpoint", "x.th", "--width", "8"], "stands in for stage 1"),
    (["--poison-rate", "0", "--feature-weight", "2"], "--feature-weight: has no effect with --poison-rate 0"),
    (["--channels", "bgr"], "--channels: has no effect without --checkpoint"),
    (["--checkpoint", "x.th", "--epochs", "8"], "stands in for stage 1"),
    (["--patch-size", "32"], "--patch-size 32: covers images of 32 pixels"),
    (["--poison-target", "10"], "--poison-target: expected one of the classes")])
def test_what_is_refused(tmp_path, refused, flags, message):
    assert message in refused(main, "--dataset", "digits", "--output-dir", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()
