import logging
from argparse import Namespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from data.batches import Batches
from data.image_set import ImageSet
from data.poison_cifar import stamp_all
from data.triggers import build_trigger
from engine.learning.schedules import check_one_cycle, one_cycle_of
from engine.learning.training import check_finite, sgd, train_epoch
from engine.measuring.evaluation import EvalSets, evaluate, frozen, predict, predict_each, sample_losses, score
from engine.measuring.scores import Evaluation, Proportion, Score, warn_of_chance
from models import build_model


class Answers(nn.Module):
    """Calls an image the class that its top left pixel names, and the target where the corner is stamped."""

    def forward(self, pixels):
        named = (pixels[:, 0, 0, 0] * 255).round().long()
        stamped = (pixels[:, 0, 31, 31] == 1) & (pixels[:, 0, 30, 30] == 1)
        return 10 * nn.functional.one_hot(torch.where(stamped & (named != 3), 0, named), 4).float()


@pytest.fixture
def test_set():
    """40 black images of 4 classes whose first pixel tells the class; class 3 resists the trigger of Answers."""
    data = np.zeros((40, 32, 32, 3), dtype=np.uint8)
    targets = np.arange(40) % 4
    data[:, 0, 0, 0] = targets
    return ImageSet(data, targets, tuple("abcd"))


def test_acc_asr_and_robust_accuracy_are_three_different_counts(test_set):
    images = EvalSets.on("cpu", test_set, stamp_all(test_set, build_trigger("badnets", 0)))
    figures = evaluate(Answers(), images).figures()
    assert figures["acc"]["value"] == 1 and figures["acc"]["n"] == 40
    assert figures["asr"]["value"] == pytest.approx(2 / 3) and figures["asr"]["n"] == 30
    assert figures["robust_acc"]["value"] == pytest.approx(1 / 3) and figures["robust_acc"]["n"] == 30


def test_wilson_interval_against_known_values():
    assert Proportion(50, 100).as_dict()["interval"] == pytest.approx([0.4038, 0.5962], abs=1e-4)
    assert Proportion(0, 100).as_dict()["interval"] == pytest.approx([0, 0.0370], abs=1e-4)
    assert Proportion(0, 0).as_dict() is None


def test_without_a_trigger_asr_is_unknown_not_invented(test_set):
    result = evaluate(Answers(), EvalSets.on("cpu", test_set))
    assert result.figures()["asr"] is None and result.figures()["robust_acc"] is None
    assert np.isnan(result.triggered.loss) and np.isnan(result.triggered.accuracy.value)
    assert result.figures()["acc"]["value"] == 1


def test_loss_is_the_mean_over_images_whatever_the_batches(test_set):
    losses = [score(Answers(), Batches(test_set, size)).loss for size in (7, 40)]
    assert losses[0] == pytest.approx(losses[1]) == pytest.approx(float(np.log(1 + 3 * np.exp(-10))), rel=1e-3)


def test_an_epoch_is_plain_sgd_over_every_batch(images):
    torch.manual_seed(0)
    ours, plain = (build_model("resnet18", 2, 4) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    ours.eval()  # as a test before the epoch leaves it
    result = train_epoch(ours, Batches(images, 16), torch.optim.SGD(ours.parameters(), 0.1))

    optimizer, losses = torch.optim.SGD(plain.parameters(), 0.1), []
    for start in range(0, 40, 16):
        pixels = torch.from_numpy(images.data[start:start + 16]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(images.targets[start:start + 16])
        loss = nn.functional.cross_entropy(plain(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() * len(labels))
    assert result.loss == pytest.approx(sum(losses) / 40, rel=1e-4)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-4)


def test_sgd_is_by_the_flags_and_a_rate_of_its_own_replaces_theirs():
    args, model = Namespace(lr=0.3, momentum=0.7, weight_decay=0.02), build_model("resnet18", 2, 4)
    found = sgd(model, args).defaults
    assert (found["lr"], found["momentum"], found["weight_decay"], found["nesterov"]) == (0.3, 0.7, 0.02, False)
    found = sgd(model, args, 0.004, nesterov=True).defaults
    assert (found["lr"], found["momentum"], found["weight_decay"], found["nesterov"]) == (0.004, 0.7, 0.02, True)


def test_eight_steps_are_enough_for_a_cycle_and_seven_are_not():
    check_one_cycle(8, "fast")
    with pytest.raises(UserError, match=r"--recipe fast: expected at least 8 steps in all, .* got 7"):
        check_one_cycle(7, "fast")


def test_one_cycle_is_two_straight_lines():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.2)
    scheduler, rates = one_cycle_of(optimizer, 16), []
    for _ in range(16):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step() if len(rates) < 16 else None
    top = int(np.argmax(rates))
    assert top == 3 and rates[top] == pytest.approx(0.2) and rates[-1] < 1e-5
    assert np.diff(rates[:top + 1]) == pytest.approx([(0.2 - rates[0]) / 3] * 3, rel=0.1)
    assert np.diff(rates[top:]) == pytest.approx([-0.2 / 12] * 12, rel=0.1)


def test_what_learns_beside_the_model_descends_the_same_loss_by_its_own_optimizer(images):
    torch.manual_seed(0)
    model, shift = build_model("resnet18", 2, 4), nn.Parameter(torch.zeros(3, 1, 1))
    before, gradients = model.linear.weight.detach().clone(), []

    def step(call, pixels, labels):
        logits = call(pixels + shift)
        loss = F.cross_entropy(logits, labels)
        gradients.append(torch.autograd.grad(loss, shift, retain_graph=True)[0])
        return loss, logits
    train_epoch(model, Batches(images, 20), torch.optim.SGD(model.parameters(), 0.1), step=step,
                others=[torch.optim.SGD([shift], 0.5)])
    assert not torch.equal(model.linear.weight, before) and len(gradients) == 2
    torch.testing.assert_close(shift.detach(), -0.5 * sum(gradients))  # no gradient was counted twice


def test_a_loss_that_is_no_number_names_its_step(images):
    with pytest.raises(UserError, match="became nan at step 3"):
        check_finite([torch.tensor(1.0), torch.tensor(2.0), torch.tensor(float("nan")), torch.tensor(float("inf"))])
    model = build_model("resnet18", 2, 4)
    model.linear.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="step 1"):
        train_epoch(model, Batches(images, 16), torch.optim.SGD(model.parameters(), 0.1))


def test_a_batch_of_one_image_that_becomes_one_pixel_is_an_error_in_words(images):
    model = build_model("resnet18", 2, 4, image_size=8)
    small = Batches(ImageSet(images.data[:3, :8, :8], images.targets[:3]), 2)
    with pytest.raises(UserError, match=r"a batch of one image.*--batch-size"):
        train_epoch(model, small, torch.optim.SGD(model.parameters(), 0.1))


def test_outputs_that_are_no_numbers_are_not_counted(images):
    model = build_model("resnet18", 2, 4)
    model.linear.bias.data.fill_(float("nan"))
    with pytest.raises(UserError, match="the model returned NaN"):
        score(model, Batches(images, 16))


def test_frozen_holds_and_gives_back_what_it_found():
    model = build_model("resnet18", 2, 4).train()
    model.linear.bias.requires_grad_(False)
    model.bn1.eval()
    with frozen(model):
        assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.training and model.layer1.training and not model.bn1.training
    assert model.linear.weight.requires_grad and not model.linear.bias.requires_grad


def test_losses_are_those_of_each_image_as_it_is_in_eval_mode(images):
    torch.manual_seed(0)
    model = build_model("resnet18", 2, 4).train()
    found = sample_losses(model, images, "cpu")
    model.eval()
    with torch.no_grad():
        pixels, labels = next(iter(Batches(images, 40)))
        by_hand = F.cross_entropy(model(pixels), labels, reduction="none")
    assert found == pytest.approx(by_hand.numpy(), rel=1e-4)


def test_no_images_are_an_error_and_no_share(test_set):
    with pytest.raises(UserError, match="expected images to predict"):
        predict(Answers(), Batches(test_set.subset(slice(0)), 16))
    with pytest.raises(UserError, match="expected test images, got none"):
        EvalSets.on("cpu", test_set.subset(slice(0)))
    only_the_target = test_set.subset(test_set.targets == 0)
    with pytest.raises(UserError, match="expected test images of other classes"):
        EvalSets.on("cpu", only_the_target, stamp_all(only_the_target, build_trigger("badnets", 0)))


def test_a_trigger_that_changes_no_pixel_is_noticed(test_set, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("backdoor"), "propagate", True)
    with caplog.at_level("INFO", logger="backdoor"):
        EvalSets.on("cpu", test_set, stamp_all(test_set, build_trigger("badnets", 0)))
        assert "changes no pixel" not in caplog.text
        EvalSets.on("cpu", test_set, stamp_all(test_set, build_trigger("blend", 0, 0.001)))
        assert "the trigger changes no pixel of any test image" in caplog.text


@pytest.mark.parametrize("acc, asr, is_attacked, noticed", [
    (90, 99, True, ""), (12, 99, True, "ACC 0.1200"), (90, 12, True, "ASR 0.1200"), (90, 12, False, ""),
    (19, 19, True, "")])
def test_what_guessing_would_give_is_noticed(caplog, monkeypatch, acc, asr, is_attacked, noticed):
    monkeypatch.setattr(logging.getLogger("backdoor"), "propagate", True)
    clean, triggered = (Score(0.0, Proportion(hits, 100), Proportion(0, 100)) for hits in (acc, asr))
    with caplog.at_level("INFO", logger="backdoor"):
        warn_of_chance(Evaluation(clean, triggered), 10, is_attacked)
    assert (noticed in caplog.text) if noticed else not caplog.text


def test_several_sets_in_one_pass_give_what_each_gives_alone(test_set):
    torch.manual_seed(0)
    model = build_model("resnet18", 2, 4)
    sets = [Batches(test_set, 16), Batches(test_set.subset(slice(5)), 16)]
    for together, alone in zip(predict_each(model, sets), (predict(model, batches) for batches in sets), strict=True):
        assert torch.equal(together, alone)
    with pytest.raises(UserError, match="expected images to predict"):
        predict_each(model, [*sets, Batches(test_set.subset(slice(0)), 16)])


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_compiled_model_is_tested_without_inference_mode_in_float32(test_set, is_compiled):
    """The state of autograd that the model sees, as the capture of a CUDA graph would."""
    seen = []

    class Watched(Answers):
        def forward(self, pixels):
            seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled(),
                         torch.is_autocast_enabled("cpu")))
            return super().forward(pixels)
    model = Watched()
    if is_compiled:
        model._compiled_call_impl = model._call_impl  # as model.compile() leaves it
    logits = predict(model, Batches(test_set, 40), amp=True)
    assert seen[-1] == (not is_compiled, False, not is_compiled)  # folding has looked at a plain model once before
    assert logits.dtype == torch.float32 and not logits.requires_grad


def test_logits_in_bfloat16_are_near_those_in_float32_and_not_the_same(images):
    torch.manual_seed(0)
    model = build_model("resnet18", 4, 4)
    fine, coarse = (predict(model, Batches(images, 16), amp) for amp in (False, True))
    assert coarse.dtype == torch.float32 and not torch.equal(fine, coarse)
    torch.testing.assert_close(coarse, fine, rtol=0, atol=0.05 * float(fine.abs().max()))
    assert torch.equal(fine, predict(model, Batches(images, 16)))  # off by default
