"""train_stage: which epochs are tested and how, what a step and a moving trigger may do, and going on after a stop."""
import argparse
import copy
import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.batches import Batches
from data.image_set import ImageSet
from data.poison_cifar import stamp_all
from data.triggers import build_trigger
from engine.learning import training
from engine.learning.training import step_of, train_epoch, train_stage
from engine.measuring.evaluation import EvalSets, evaluate
from engine.runs.run import Run
from models import build_model


def words(folder, **changes):
    return argparse.Namespace(**{"output_dir": str(folder), "overwrite": False, "resume": False, "seed": 0,
                                 "deterministic": False, "device": "cpu", "amp": False, **changes})


def stage(folder, images, trigger=None, epochs=5, lr=0.05, **options):
    """Train on `images`, test on them and, if given, on what `trigger` makes of them; (model, rows, last test)."""
    own = {name: options.pop(name) for name in ("amp", "test_every") if name in options}
    with Run(words(folder, **own, resume=folder.exists())) as run:
        model = build_model("resnet18", 2, images.num_classes)
        test = EvalSets.on("cpu", images, trigger and stamp_all(images, trigger))
        run.begin()
        optimizer = torch.optim.SGD(model.parameters(), lr, 0.9)
        tested = train_stage(run, model, Batches(images, 16, "cpu", run.generator), test, epochs, optimizer, **options)
    return model, run.rows, tested


def without_times(rows):
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


@pytest.mark.parametrize("until, every, tested", [(5, 1, [1, 2, 3, 4, 5]), (5, 2, [2, 4, 5]), (3, 9, [3])])
def test_every_nth_epoch_and_the_last_is_tested(until, every, tested, tmp_path):
    run = Run(words(tmp_path / "run", test_every=every))
    assert [epoch for epoch in range(1, until + 1) if run.is_tested(epoch, until)] == tested


def test_what_follows_a_stage_computes_alike_where_no_epoch_of_it_was_left(tmp_path, images):
    """On a CPU a narrow network of large images does without some kernels; so must a run that resumes after it."""
    large = replace(images, data=np.repeat(np.repeat(images.data, 2, 1), 2, 2))
    for _ in range(2):
        torch.backends.mkldnn.enabled = True
        stage(tmp_path / "run", large, epochs=1)
        assert not torch.backends.mkldnn.enabled
        (tmp_path / "run/results.json").unlink(missing_ok=True)


@pytest.mark.slow
def test_an_epoch_without_a_test_is_nan_in_the_log_and_null_in_the_metrics_and_trains_the_same(tmp_path, images):
    trigger = build_trigger("badnets", 0)
    (a, each, last), (b, some, tested) = (
        stage(tmp_path / str(every), images, trigger, test_every=every) for every in (1, 3))
    assert all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())
    names = ("poison_loss", "poison_acc", "clean_loss", "clean_acc", "robust_acc")
    for row, other in zip(without_times(each), without_times(some), strict=True):
        assert other == (row if row["epoch"] in (3, 5) else {**row, **dict.fromkeys(names)})
    assert tested == last and last.clean.accuracy.value == some[-1]["clean_acc"]
    assert [json.loads(line) for line in (tmp_path / "3/metrics.jsonl").read_text().splitlines()] == some
    lines = [line.split("] - ")[1].split(" \t ") for line in (tmp_path / "3/output.log").read_text().splitlines()]
    logged = [[float(word) for word in line[5:]] for line in lines if line[0].isdigit()]
    assert [all(map(math.isnan, row)) for row in logged] == [True, True, False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("amp", [False, True])
def test_stopped_between_tests_it_goes_on_to_the_same_bits(tmp_path, images, monkeypatch, amp):
    trigger, options = build_trigger("badnets", 0), {"test_every": 3, "amp": amp}
    whole, rows, last = stage(tmp_path / "whole", images, trigger, **options)
    real = training.train_epoch
    done = iter(range(2))

    def stopping(*args):
        if next(done, None) is None:
            raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(training, "train_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "broken", images, trigger, **options)
    monkeypatch.undo()
    model, resumed, tested = stage(tmp_path / "broken", images, trigger, **options)
    assert without_times(resumed) == without_times(rows) and tested == last
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())


def test_only_the_last_test_of_a_bfloat16_training_is_in_float32(tmp_path, images, monkeypatch):
    seen, real = [], training.evaluate
    monkeypatch.setattr(training, "evaluate", lambda model, test, amp=False: seen.append(amp) or real(model, test, amp))
    model, rows, last = stage(tmp_path / "a", images, epochs=3, amp=True)
    assert seen == [True, True, False]
    stage(tmp_path / "b", images, epochs=2)
    assert seen[3:] == [False, False]
    monkeypatch.undo()
    assert last == evaluate(model, EvalSets.on("cpu", images)) and rows[-1]["clean_loss"] == last.clean.loss
    coarse = evaluate(model, EvalSets.on("cpu", images), amp=True)
    assert coarse.clean.loss != last.clean.loss and coarse.clean.loss == pytest.approx(last.clean.loss, rel=0.05)


def test_a_step_may_train_on_other_images_than_those_it_is_given(images):
    """A step that darkens its images is training on dark images."""
    torch.manual_seed(0)
    ours = build_model("resnet18", 2, 4)
    plain, dark = copy.deepcopy(ours), ImageSet(np.zeros_like(images.data), images.targets, images.classes)

    def darken(model, pixels, labels):
        logits = model(torch.zeros_like(pixels))
        return F.cross_entropy(logits, labels), logits
    one = train_epoch(ours, Batches(images, 16), torch.optim.SGD(ours.parameters(), 0.1), step=darken)
    other = train_epoch(plain, Batches(dark, 16), torch.optim.SGD(plain.parameters(), 0.1))
    assert one == other
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in ours.state_dict().items())


def test_the_score_of_an_epoch_has_the_loss_that_its_step_descends(images):
    torch.manual_seed(0)
    model = build_model("resnet18", 2, 4)
    other = copy.deepcopy(model)
    doubled = step_of(lambda logits, labels: 2 * F.cross_entropy(logits, labels))
    plain, twice = (train_epoch(one, Batches(images, 40), torch.optim.SGD(one.parameters(), 0.1), step=step)
                    for one, step in ((model, training.cross_entropy_step), (other, doubled)))
    assert twice.loss == 2 * plain.loss and twice.accuracy == plain.accuracy


class Moving(torch.nn.Module):
    """A trigger whose pixel goes one to the right with each batch that it is trained on."""

    target = 0

    def __init__(self):
        super().__init__()
        self.register_buffer("column", torch.zeros((), dtype=torch.int64))

    def victims(self, labels):
        return labels != self.target

    def wanted(self, labels):
        return np.zeros_like(labels)

    def stamp(self, images):
        stamped = images.copy()
        stamped[:, 0, int(self.column)] = 255
        return stamped

    def step(self, model, pixels, labels):
        pixels = pixels.clone()
        pixels[:4, :, 0, int(self.column)] = 1
        labels = torch.cat([torch.zeros_like(labels[:4]), labels[4:]])
        self.column += 1
        logits = model(pixels)
        return F.cross_entropy(logits, labels), logits


def moving_stage(folder, images, seen, **options):
    trigger = Moving()

    def restamp():
        stamped = stamp_all(images, trigger)
        seen.append(int(np.flatnonzero((stamped.data[:, 0] == 255).all((0, 2)))[0]))
        return stamped
    return stage(folder, images, trigger, step=trigger.step, restamp=restamp, learned={"trigger": trigger}, **options)


@pytest.mark.slow
def test_a_trigger_that_moves_is_tested_where_it_is_and_goes_on_from_there(tmp_path, monkeypatch):
    """Three steps an epoch, so that the pixel is at 3, 6 and 9; without restamp it would stay at 0."""
    rng = np.random.default_rng(0)
    images = ImageSet(rng.integers(0, 200, (40, 32, 32, 3), dtype=np.uint8), np.arange(40) % 4, tuple("abcd"))
    seen, tested, real = [], [], training.evaluate

    def remember(model, test, amp=False):
        tested.append(int(np.flatnonzero((test.triggered.images[:, 0] == 255).all(2).all(0))[0]))
        return real(model, test, amp)
    monkeypatch.setattr(training, "evaluate", remember)
    whole, rows, _ = moving_stage(tmp_path / "whole", images, seen, epochs=3)
    assert seen == tested == [3, 6, 9]
    again, stop = [], partial(next, iter((False, True)))
    monkeypatch.setattr(training, "evaluate", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt) if stop() else (
        remember(*args)))
    with pytest.raises(KeyboardInterrupt):
        moving_stage(tmp_path / "broken", images, again, epochs=3)
    monkeypatch.setattr(training, "evaluate", remember)
    model, resumed, _ = moving_stage(tmp_path / "broken", images, again, epochs=3)
    assert again == [3, 6, 6, 9] and without_times(resumed) == without_times(rows)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())
