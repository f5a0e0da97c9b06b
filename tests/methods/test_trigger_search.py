import numpy as np
import pytest
import torch
from helpers.gpu import host_waits
from torch import nn

from common.errors import UserError
from data.batches import Batches
from data.image_set import ImageSet
from methods import trigger_search
from methods.trigger_search import NormWeight, Search, as_trigger, loss_and_hits, reverse_triggers


class Corner(nn.Module):
    """Linear: calls an image class 1 once two pixels of the corner are bright, class 2 if half the image is, else 0."""

    def forward(self, pixels):
        corner = pixels[:, :, 30:, 30].sum((1, 2))
        bright = pixels.mean((1, 2, 3))
        return torch.stack([torch.full_like(bright, 1.0), 0.5 * corner - 1.0, 40 * bright - 19.0], 1)


@pytest.fixture
def dark():
    """60 dark images of 3 classes."""
    rng = np.random.default_rng(2)
    return ImageSet(rng.integers(0, 60, (60, 32, 32, 3), dtype=np.uint8), np.arange(60) % 3, tuple("abc"))


def search(model, image_set, labels, budget, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    batches = Batches(image_set, 16, generator=generator)
    return reverse_triggers(model, batches, 2, labels, budget, generator=generator, **options)


def test_the_weight_follows_the_published_rule():
    weight, values = NormWeight(initial=1e-3, factor=2, patience=3), []
    for success in [1, 1, 0, 1, 1, 1] + [1] * 3 + [1] * 2 + [0] * 3 + [0] * 2 + [1] * 3:
        weight.update(bool(success))
        values.append(weight.value)
    assert values[:6] == [0, 0, 0, 0, 0, 1e-3]  # three in a row, a failure starts the count anew
    assert values[6:9] == [1e-3, 1e-3, 2e-3] and weight.was_raised
    assert values[9:14] == pytest.approx([2e-3] * 4 + [2e-3 / 2**1.5]) and weight.was_lowered
    assert values[14:] == pytest.approx([2e-3 / 2**1.5] * 4 + [4e-3 / 2**1.5])


def test_the_first_rise_from_nothing_is_no_raise():
    weight = NormWeight(patience=1)
    weight.update(False)
    assert weight.value == 0 and not weight.was_lowered
    weight.update(True)
    assert weight.value == 1e-3 and not weight.was_raised
    weight.update(True)
    assert weight.was_raised


def test_the_planted_pixels_are_found_and_the_mask_is_small(dark):
    found = search(Corner(), dark, [1, 2], 150)
    corner, bright = as_trigger(found[0]), as_trigger(found[1])
    assert corner.mask[30:, 30].sum() > 0.8 * corner.mask.sum()
    assert found[0].norm == pytest.approx(corner.mask.sum(), rel=1e-4) and found[0].norm < 5 < 50 < found[1].norm
    assert corner.target == 1 and found[0].success >= 0.99
    logits = Corner()(torch.from_numpy(corner.stamp(dark.data)).permute(0, 3, 1, 2).float() / 255)
    assert (logits.argmax(1) == 1).float().mean() > 0.9
    assert bright.pattern[bright.mask[..., 0] > 0.5].mean() > 200


def test_labels_together_have_each_its_own_loss_hits_and_gradients():
    images = torch.rand(4, 3, 32, 32)
    searches = [Search.start(label, (32, 32), torch.Generator().manual_seed(label), "cpu") for label in (0, 1, 2)]
    searches[1].weight.value = 0.01
    whole, hits = loss_and_hits(Corner(), images, searches)
    alone = [loss_and_hits(Corner(), images, [each]) for each in searches]
    assert whole.item() == pytest.approx(sum(loss.item() for loss, _ in alone), rel=1e-5)
    assert hits.tolist() == [int(own) for _, own in alone]
    gradients = torch.autograd.grad(whole, searches[1].theta_mask)[0]
    torch.testing.assert_close(gradients, torch.autograd.grad(alone[1][0], searches[1].theta_mask)[0])


def test_a_done_label_stops_and_the_others_go_on(dark):
    found = search(Corner(), dark, [1, 2], 150, patience=2)
    steps = [each.steps for each in found]
    assert min(steps) < 150 and steps[0] != steps[1]
    for each in found:
        assert each.steps == 150 or (each.weight.was_raised and each.weight.was_lowered and each.stale >= 2)


def test_a_label_that_is_never_reached_says_so(dark):
    class Never(Corner):
        def forward(self, pixels):
            return super().forward(pixels) - 1000 * torch.tensor([0.0, 1.0, 0.0])
    found = search(Never(), dark, [1], 3)[0]
    assert found.norm == np.inf and found.mask is None and found.steps == 3


def test_the_model_keeps_its_weights_and_gets_no_gradients(dark):
    from models import build_model
    torch.manual_seed(0)
    model = build_model("resnet18", 2, 3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    search(model, dark, [0, 1, 2], 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_outputs_that_are_no_numbers_are_an_error_whichever_label_has_them(dark, monkeypatch):
    class Broken(Corner):
        def forward(self, pixels):
            return super().forward(pixels) * (float("nan") if len(self.seen) == 0 else 1)
    model = Broken()
    model.seen = []
    monkeypatch.setattr(trigger_search, "evaluation_batch", lambda device: 16)  # a label at a time
    forward = trigger_search.loss_and_hits

    def count(quick, images, searches):
        quick.seen = searches[0].label * [0]
        return forward(quick, images, searches)
    monkeypatch.setattr(trigger_search, "loss_and_hits", count)
    with pytest.raises(UserError, match="the model returned NaN"):
        search(model, dark, [0, 1, 2], 2)


def test_what_is_kept_of_a_step_is_the_larger_of_its_masks():
    found = Search.start(0, (32, 32), torch.Generator().manual_seed(0), "cpu")
    mask, pattern = (part.detach().clone() for part in found.trigger())
    whole = float(mask.sum())

    def note(success, scale):
        found.note(success, 0.99, [(scale * mask, pattern), (mask, pattern)], [scale * whole, whole])
    note(1.0, 0.5)
    assert found.norm == pytest.approx(float(mask.sum()))
    note(1.0, 1.1)
    assert found.norm == pytest.approx(float(mask.sum()))  # larger than what is kept already
    note(0.98, 0.1)
    assert found.norm == pytest.approx(float(mask.sum()))


def test_a_step_reads_no_number_by_itself_so_that_a_gpu_waits_once(dark, monkeypatch):
    with host_waits(monkeypatch) as waits:
        found = search(Corner(), dark, [0, 1, 2], 6)
    assert [each.steps for each in found] == [6, 6, 6]
    assert waits.count == 0  # but for the one table of all labels' numbers, which is no operator
