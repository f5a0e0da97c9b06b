import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.paths import HALF

from common.errors import UserError
from data.batches import Batches
from defenses import abl
from defenses.abl import (
    flooding,
    isolate,
    isolation_figures,
    isolation_objective,
    local_gradient_ascent,
    main,
    unlearning_loss,
)
from engine.learning.training import step_of, train_epoch
from engine.measuring.scores import UNKNOWN, Proportion, Score
from engine.weights.checkpoint import load_model, save_model
from models import build_model

SMALL = ["--dataset", "digits", *HALF, "--batch-size", "256", "--width", "4", "--isolation-epochs", "1", "--epochs",
         "1", "--unlearn-epochs", "2", "--poison-rate", "0.1", "--isolation-rate", "0.05"]


def logits_with_losses(*losses):
    """Logits of two classes (N, 2), requiring gradients, whose cross-entropy to class 0 is `losses`."""
    first = torch.tensor([-np.log(np.expm1(loss)) for loss in losses], dtype=torch.float32)
    return torch.stack([first, torch.zeros(len(losses))], 1).requires_grad_()


def gradient(objective, losses, *options):
    logits, labels = logits_with_losses(*losses), torch.zeros(len(losses), dtype=torch.int64)
    return torch.autograd.grad(objective(logits, labels, *options), logits)[0][:, 0]


def test_the_gradient_flips_its_sign_at_gamma_for_each_image_on_its_own():
    found = gradient(local_gradient_ascent, [0.4, 0.6, 2.0], 0.5, "sample")
    plain = gradient(F.cross_entropy, [0.4, 0.6, 2.0])
    torch.testing.assert_close(found, plain * torch.tensor([-1.0, 1, 1]))


@pytest.mark.parametrize("losses", [[0.1, 0.2], [0.4, 0.9], [1.0, 2.0]])
def test_on_the_batch_mean_lga_and_flooding_are_one_update(losses):
    found = gradient(local_gradient_ascent, losses, 0.5, "batch")
    torch.testing.assert_close(found, gradient(flooding, losses, 0.5))
    assert float(found[0]) * (np.mean(losses) - 0.5) < 0  # down above the level, up below it


def test_per_sample_it_is_another_update():
    assert not torch.allclose(gradient(local_gradient_ascent, [0.2, 1.5], 0.5, "sample"),
                              gradient(local_gradient_ascent, [0.2, 1.5], 0.5, "batch"))


def test_exactly_the_share_is_isolated_and_the_planted_ones_are_among_it():
    losses = np.random.default_rng(0).uniform(1, 2, 250)
    losses[[7, 30, 100]] = [0.2, 0.1, 0.3]
    found = isolate(losses, 0.02)
    assert len(found) == 5 and found[:3].tolist() == [30, 7, 100]
    poisoned = np.zeros(250, dtype=bool)
    poisoned[[7, 30, 100, 101]] = True
    figures = isolation_figures(found, poisoned)
    assert figures["recall"]["value"] == 3 / 4
    assert figures["precision"]["value"] == poisoned[found].mean()
    assert len(isolate(losses, 0)) == 0 and isolation_figures(isolate(losses, 0), poisoned)["precision"] is None


def test_climbing_raises_the_loss(images):
    torch.manual_seed(0)
    model, batches = build_model("resnet18", 2, 4), Batches(images, 40)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = [-train_epoch(model, batches, optimizer, step=step_of(unlearning_loss)).loss for _ in range(4)]
    assert losses == sorted(losses) and losses[-1] > losses[0] + 0.05


def epochs_tested(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["epoch"] for row in rows if row["clean_acc"] is not None]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("abl") / "run"
    main([*SMALL, "--output-dir", str(folder)])
    return folder


@pytest.mark.parametrize(("tests_done", "epochs_done"), [
    pytest.param(1, 1, marks=pytest.mark.long), pytest.param(3, 2, marks=pytest.mark.long), (4, 3)])
def test_stopped_in_any_stage_and_resumed_it_ends_with_the_same_bits(unbroken, tmp_path, monkeypatch, stop_at_test,
                                                                    tests_done, epochs_done):
    """An epoch and its test in stages 1 and 2, a test of the filtered model, two epochs of unlearning."""
    stop_at_test(abl, tests_done)
    folder = tmp_path / "run"
    with pytest.raises(SystemExit):
        main([*SMALL, "--output-dir", str(folder)])
    assert torch.load(folder / "resume.th", weights_only=True)["epoch"] == epochs_done
    monkeypatch.undo()
    main([*SMALL, "--output-dir", str(folder), "--resume"])
    for name in ("model_filtered.th", "model_last.th"):
        a, b = (load_model(run / name).model.state_dict() for run in (unbroken, folder))
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert (unbroken / "isolated.npy").read_bytes() == (folder / "isolated.npy").read_bytes()


@pytest.fixture
def stopped_in_unlearning(tmp_path, monkeypatch, stop_at_test):
    """The folder of a run that was stopped in its third stage."""
    folder = tmp_path / "run"
    stop_at_test(abl, 4)
    with pytest.raises(SystemExit):
        main([*SMALL, "--output-dir", str(folder)])
    monkeypatch.undo()
    return folder


def test_going_on_with_anothers_weights_is_refused(stopped_in_unlearning, refused):
    save_model(stopped_in_unlearning / "model_filtered.th", build_model("resnet18", 2, 10), {}, {})
    assert "of another network" in refused(main, *SMALL, "--output-dir", stopped_in_unlearning, "--resume")


@pytest.mark.parametrize("lost", ["isolated.npy", pytest.param("model_filtered.th", marks=pytest.mark.long)])
def test_going_on_without_what_an_earlier_stage_left_is_refused(stopped_in_unlearning, refused, lost):
    (stopped_in_unlearning / lost).unlink()
    assert f"{lost}: missing" in refused(main, *SMALL, "--output-dir", stopped_in_unlearning, "--resume")


@pytest.mark.parametrize("isolated", [
    [0, 1, 1], [0, 1], [0, 1, 2, 3], [[0, 1, 2]], [0, 1, 30], [-1, 0, 1], [0.5, 1, 2]])
def test_only_as_many_different_indices_are_what_was_isolated(tmp_path, isolated):
    path = tmp_path / "isolated.npy"
    np.save(path, np.array([4, 0, 29]))
    assert abl.read_isolated(path, 30, 0.1).tolist() == [4, 0, 29]
    np.save(path, np.array(isolated))
    with pytest.raises(UserError, match="expected 3 different indices below 30"):
        abl.read_isolated(path, 30, 0.1)


@pytest.mark.slow
def test_unlearning_that_costs_too_much_stops_with_the_epoch_before(tmp_path, monkeypatch):
    """Held-out accuracy is 0.9 before, 0.88 after one epoch, 0.8 after two; the epoch that stops it is tested."""
    held_out = iter((0.9, 0.88, 0.8))
    monkeypatch.setattr(abl, "score", lambda model, batches: Score(0, Proportion(round(1000 * next(held_out)), 1000),
                                                                   UNKNOWN.accuracy))
    weights, real = [], abl.train_epoch

    def remember(model, *args):
        trained = real(model, *args)
        weights.append(abl.copy_weights(model))
        return trained
    monkeypatch.setattr(abl, "train_epoch", remember)
    main([*SMALL, "--max-drop", "0.05", "--unlearn-epochs", "5", "--test-every", "9", "--output-dir",
          str(tmp_path / "run")])
    results = json.loads((tmp_path / "run/results.json").read_text())
    last = load_model(tmp_path / "run/model_last.th").model.state_dict()
    assert results["method"]["unlearning_epochs"] == 1 and len(weights) == 2
    assert all(torch.equal(last[name], value) for name, value in weights[0].items())
    assert "the epoch before is kept" in (tmp_path / "run/output.log").read_text()
    assert epochs_tested(tmp_path / "run") == [1, 2, 4]


@pytest.mark.parametrize(("lga", "is_flooding", "by_hand"), [
    ("batch", False, lambda *args: local_gradient_ascent(*args, "batch")),
    ("sample", False, lambda *args: local_gradient_ascent(*args, "sample")), (None, True, flooding)])
def test_stage_1_descends_what_the_flags_say(lga, is_flooding, by_hand):
    logits, labels = logits_with_losses(0.3, 1.1, 2.0), torch.zeros(3, dtype=torch.int64)
    for gamma in (0.2, 1.3):
        assert isolation_objective(gamma, lga, is_flooding)(logits, labels) == by_hand(logits, labels, gamma)
    assert isolation_objective(0.2, lga, is_flooding)(logits, labels) != isolation_objective(
        1.3, lga, is_flooding)(logits, labels)


@pytest.mark.slow
def test_nothing_isolated_is_training_on_everything(tmp_path):
    main([*SMALL, "--isolation-rate", "0", "--output-dir", str(tmp_path / "run")])
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["method"]["isolated"] == 0 and results["acc"] == results["method"]["filtered"]["acc"]


@pytest.mark.slow
def test_the_isolated_images_are_found_and_unlearned_as_they_are(tmp_path, monkeypatch):
    """Stages 1 and 3 do not crop or mirror, which would cut the trigger off; stage 2 does."""
    made = []

    class Watched(Batches):
        def __init__(self, image_set, *args, **options):
            made.append((image_set, options))
            super().__init__(image_set, *args, **options)
    monkeypatch.setattr(abl, "Batches", Watched)
    losses = []
    real = abl.sample_losses
    monkeypatch.setattr(abl, "sample_losses", lambda *args: losses.append(real(*args)) or losses[-1])
    main([*SMALL, "--output-dir", str(tmp_path / "run")])
    assert [options for _, options in made] == [{}, {"crop_padding": 4, "flip": True}, {}]
    everything, rest, isolated = (image_set for image_set, _ in made)
    indices = np.load(tmp_path / "run/isolated.npy")
    assert len(indices) == round(0.05 * len(everything)) and (isolated.data == everything.data[indices]).all()
    assert set(indices) == set(np.argsort(losses[0])[:len(indices)])  # those of the lowest losses after stage 1
    method = json.loads((tmp_path / "run/results.json").read_text())["method"]
    assert method["of_training_set"] == everything.poisoned.mean() and method["training_set"] == len(everything)
    assert (rest.data == np.delete(everything.data, indices, axis=0)).all()


def test_what_is_refused(tmp_path, refused):
    flags = ["--dataset", "digits", "--output-dir", tmp_path / "out"]
    assert "--lga: has no effect with --flooding" in refused(main, *flags, "--flooding", "--lga", "sample")
    assert "--max-drop: has no effect with --unlearn-epochs 0" in refused(main, *flags, "--unlearn-epochs", "0",
                                                                         "--max-drop", "0.1")
    for wrong in (["--even-steps", "--unlearn-lr", "0.1"], ["--unlearn-length", "0.1"],
                  ["--even-steps", "--unlearn-epochs", "0"]):
        assert "has no effect with" in refused(main, *flags, *wrong)
    assert "since training continues with the rest" in refused(main, *flags, "--isolation-rate", "1")


def test_the_third_stage_takes_five_epochs_and_thirty_in_even_steps():
    assert [abl.parse_args(words).unlearn_epochs for words in ([], ["--even-steps"])] == [5, 30]


EVEN = [*SMALL, "--even-steps", "--unlearn-epochs", "2", "--max-drop", "1"]


def again(of, folder, *words):
    """results.json of another stage 3 on the stages of a finished run."""
    main([*EVEN, *words, "--stages-of", str(of), "--output-dir", str(folder)])
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_another_third_stage_begins_with_what_the_first_two_of_a_run_left(unbroken, tmp_path, monkeypatch,
                                                                         stop_at_test):
    of, results = json.loads((unbroken / "results.json").read_text()), again(unbroken, tmp_path / "run")
    for name in ("filtered", "isolated", "precision", "recall", "poisoned"):
        assert results["method"][name] == of["method"][name]
    assert len(epochs_tested(tmp_path / "run")) == 2  # no epoch of stages 1 and 2
    for name in ("isolated.npy", "model_filtered.th"):
        assert (tmp_path / "run" / name).exists()
    before, after = (load_model(tmp_path / "run" / name).model.state_dict() for name in (
        "model_filtered.th", "model_last.th"))
    assert all(torch.equal(before[name], after[name]) for name in before if "running" in name)
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])
    stop_at_test(abl, 2)  # the filtered model's, and the first epoch's
    with pytest.raises(SystemExit):
        again(unbroken, tmp_path / "stopped")
    monkeypatch.undo()
    again(unbroken, tmp_path / "stopped", "--resume")
    resumed = load_model(tmp_path / "stopped/model_last.th").model.state_dict()
    assert all(torch.equal(after[name], resumed[name]) for name in after)


@pytest.mark.slow
def test_stages_of_another_run_are_refused(unbroken, tmp_path, refused):
    words = [*SMALL, "--stages-of", unbroken, "--output-dir", tmp_path / "run"]
    said = refused(main, *words, "--gamma", "0.3", "--poison-rate", "0.2")
    assert f"--stages-of {unbroken}: made with --poison-rate 0.1, not 0.2, --gamma 0.5, not 0.3" in said
    assert "no run of defenses.abl" in refused(main, *words, "--stages-of", tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_every_stage_has_its_own_rate_and_its_last_epoch_is_tested(unbroken, tmp_path):
    main([*SMALL, "--isolation-epochs", "2", "--epochs", "2", "--max-drop", "1", "--test-every", "5", "--output-dir",
          str(tmp_path / "run"), "--milestones", "1", "--lr", "0.05", "--unlearn-lr", "0.003"])
    assert epochs_tested(tmp_path / "run") == [2, 4, 5, 6] and epochs_tested(unbroken) == [1, 2, 3, 4]
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert [row["lr"] for row in rows] == pytest.approx([0.05, 0.05, 0.05, 0.005, 0.003, 0.003])
    last = rows[-1]
    assert json.loads((tmp_path / "run/results.json").read_text())["acc"]["value"] == last["clean_acc"]


@pytest.mark.parametrize("flags, least", [
    (["--isolation-rate", "0.0003"], "0.0008"), (["--isolation-rate", "1e-9"], "0.0008")])
def test_a_rate_that_isolates_nothing_is_refused_before_anything_is_written(tmp_path, refused, flags, least):
    """The kind: a share that comes to none of the images runs on and reports a defense that did nothing."""
    said = refused(main, *SMALL, *flags, "--output-dir", tmp_path / "run")
    assert "none of the 1294 training images would be isolated" in said
    assert said.rstrip().endswith(f"one image is a share of {least}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("count", [1, 3, 50, 1294, 45_000])
def test_the_least_share_that_is_named_isolates_an_image(count):
    with pytest.raises(UserError) as refused:
        abl.check_isolation(0.4 / count, count)
    least = float(str(refused.value).rpartition(" ")[2])
    abl.check_isolation(least, count)
    abl.check_isolation(0, count)  # none is meant
