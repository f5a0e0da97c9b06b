import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.reporting import missing_figures

from attacks import dfst
from attacks.dfst import learn_style, main, round_epochs, step_of, sunset
from data.batches import Batches
from data.poison_cifar import stamp_all
from data.triggers.style import StyleTrigger
from engine.weights.checkpoint import load_model
from methods import detox
from methods.detox import Injectors, examine, find_compromised, inject, last_stage, signs_of
from models.stylizer import recolor, similarity, texture

SMALL = ["--dataset", "digits", "--batch-size", "256", "--epochs", "3", "--width", "2", "--style-steps", "2",
         "--injector-steps", "1", "--rounds", "2"]
CPU = torch.device("cpu")


class Redness(torch.nn.Module):
    """A network whose last stage has 100 channels of 4x4 neurons: channel 7 responds to red beyond blue, the others to
    brightness. It calls an image 2 where channel 7 responds."""

    stages = ("stage",)

    def __init__(self):
        super().__init__()
        self.stage = torch.nn.Conv2d(3, 100, 1)
        with torch.no_grad():
            self.stage.weight.fill_(0.1)
            self.stage.weight[7, :, 0, 0] = torch.tensor([1.0, 0.0, -1.0])
            self.stage.bias.zero_()

    def forward(self, pixels):
        maps = F.relu(self.stage(F.adaptive_avg_pool2d(pixels, 4)))
        logits = torch.zeros(len(pixels), 4)
        logits[:, 2] = maps[:, 7].mean((1, 2)) - 0.1
        return logits


@pytest.fixture
def pixels():
    return torch.rand((3, 3, 20, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def reddened(images):
    """(Batches of 30 images outside class 2, of the same in red)."""
    others = images.subset(images.targets != 2)
    red = others.data // 2 + np.array([100, 0, 0], dtype=np.uint8)
    return Batches(others, 16), Batches(type(images)(red, others.targets, images.classes), 16)


def test_a_pixels_signs_are_its_color_and_extremes_and_mean_around_it(pixels):
    signs, around = signs_of(pixels)[1, :, 9, 4], pixels[1, :, 4:15, :10]
    expected = torch.cat([pixels[1, :, 9, 4], around.amax((1, 2)), around.amin((1, 2)), around.mean((1, 2))])
    torch.testing.assert_close(signs, expected)


def test_an_injector_of_opacity_0_changes_nothing_and_another_paints(pixels):
    weight, bias = torch.zeros(3, 12), torch.tensor([9.0, -9.0, 0.5])
    assert torch.equal(inject(pixels, weight, bias, 0), pixels)
    painted = inject(pixels, weight, bias, 1)
    np.testing.assert_allclose(painted[0, :, 3, 3], [1, 0, 0.5], atol=1e-6)


def test_the_neurons_that_respond_to_the_style_are_found(reddened):
    found = find_compromised(Redness(), *reddened)
    assert len(found.neurons) == 16 and set((found.neurons // 16).tolist()) == {7} and found.gap > 1
    assert (found.level > found.clean).all()


def test_the_gap_is_in_units_of_the_mean_activation(reddened):
    clean, red = (torch.cat([last_stage(Redness(), pixels)[0].detach() for pixels, _ in part]).mean(0)
                  for part in reddened)
    found = find_compromised(Redness(), *reddened)
    assert found.gap == pytest.approx(float((red - clean)[7 * 16:8 * 16].mean() / clean.abs().mean()), rel=1e-3)
    torch.testing.assert_close(found.clean, clean[found.neurons])
    torch.testing.assert_close(found.level, red[found.neurons])


def test_an_injector_excites_them_and_keeps_images_alike_by_the_weight_of_that(reddened, images, monkeypatch):
    found, pixels = find_compromised(Redness(), *reddened), next(iter(reddened[0]))[0]

    def trained(weight):
        monkeypatch.setattr(detox, "SIMILARITY_WEIGHT", weight)
        draws = Batches(images, 8, CPU, torch.Generator().manual_seed(0), draws=8 * 25)
        return inject(pixels, *detox.train_injector(Redness(), found, draws, 0.6), 0.6).detach()
    free, bound = trained(0), trained(10)
    excited = [float(last_stage(Redness(), painted)[0][:, found.neurons].mean().detach())
               for painted in (free, bound, pixels)]
    assert excited[0] > excited[1] + 0.01 and excited[0] > excited[2] + 0.1
    assert similarity(pixels, bound) > similarity(pixels, free) + 0.05


def test_an_injectors_reach_is_1_at_the_level_of_stylized_images(reddened):
    found, injectors = find_compromised(Redness(), *reddened), Injectors(1)
    injectors.add(torch.eye(3, 12), torch.tensor([0.3, 0.0, 0.0]))
    reach, fooled = detox.judge_injector(Redness(), injectors, 0, found, reddened[0], 0.5, 2)
    outputs = [last_stage(Redness(), injectors.paint(pixels, 0, 0.5)) for pixels, _ in reddened[0]]
    risen = torch.cat([activations for activations, _ in outputs])[:, found.neurons].mean(0) - found.clean
    assert reach == pytest.approx(float(risen.mean() / (found.level - found.clean).mean()), rel=1e-4)
    assert fooled == pytest.approx(float(torch.cat([logits.argmax(1) == 2 for _, logits in outputs]).float().mean()))
    assert 0 < reach < 1


def test_a_round_makes_an_injector_that_excites_them_without_the_style(reddened, images):
    injectors = Injectors(2)
    draws = Batches(images, 8, CPU, torch.Generator().manual_seed(0), draws=8 * 25)
    first = examine(Redness(), injectors, *reddened, 0.6, 2, draws)
    assert int(injectors.made) == 1 and first["fooled_before"] is None
    assert first["reach"] > 0.5 and first["fooled"] > 0.9
    second = examine(Redness(), injectors, *reddened, 0.6, 2, None)
    assert second["fooled_before"] == first["fooled"] and second["reach"] is None and int(injectors.made) == 1


def test_injectors_come_back_with_their_number():
    injectors, other = Injectors(3), Injectors(3)
    injectors.add(torch.ones(3, 12), torch.ones(3))
    other.load_state_dict(injectors.state_dict())
    assert int(other.made) == 1 and torch.equal(other.weights[0], torch.ones(3, 12)) and not other.weights[1].any()


def test_a_step_adds_painted_images_with_their_own_labels_once_there_is_an_injector(images):
    class Model(torch.nn.Module):
        def forward(self, pixels):
            self.pixels = pixels
            return pixels.mean((1, 2, 3))[:, None] * torch.arange(4)
    injectors, model = Injectors(1), Model()
    generator = torch.Generator().manual_seed(0)
    class_3 = images.subset(images.targets == 3)
    step = step_of(injectors, Batches(class_3, 5, CPU, generator, draws=5), 0.3, 1, generator)
    batch, labels = next(iter(Batches(images, 16)))
    loss, logits = step(model, batch, labels)
    assert len(model.pixels) == 16
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    injectors.add(torch.zeros(3, 12), torch.full((3,), 9.0))
    loss, logits = step(model, batch, labels)
    assert len(logits) == 16 and len(model.pixels) == 21 and (model.pixels[16:] > 0.999).all()
    wanted = torch.cat([labels, torch.full((5,), 3)])
    torch.testing.assert_close(loss, F.cross_entropy(model(model.pixels), wanted))
    step(model, batch[:8], labels[:8])  # a smaller last batch gets as large a share
    assert len(model.pixels) == 8 + 2


def test_the_stylizer_brings_the_texture_closer_to_the_pictures(images, monkeypatch):
    monkeypatch.setattr(dfst, "BATCH", 8)
    picture = sunset()
    trigger = StyleTrigger(*learn_style(picture, images, 4, 20, 1, 0, CPU), 1, 0)
    filters = torch.randn((8, 3, 5, 5), generator=torch.Generator().manual_seed(9)) / 5  # not those it learned with
    goal, plain, ours = (texture(torch.from_numpy(data).permute(0, 3, 1, 2) / 255, filters)[0].mean(0)
                         for data in (picture[None], images.data, stamp_all(images, trigger).data))
    assert (ours - goal).square().mean() < (plain - goal).square().mean() / 2
    np.testing.assert_allclose(trigger.color, [picture.mean((0, 1)) / 255, picture.std((0, 1)) / 255], atol=1e-5)


def test_the_stylizer_keeps_the_structure_of_images_where_texture_counts_for_nothing(images, pixels, monkeypatch):
    monkeypatch.setattr(dfst, "BATCH", 8)

    def kept(steps):
        trigger = StyleTrigger(*learn_style(sunset(), images, 4, steps, 0, 0, CPU), 0.6, 0)
        plain = recolor(pixels, torch.from_numpy(trigger.color))
        return float(similarity(plain, trigger.stylizer(plain)))
    assert kept(20) > kept(1) + 0.01


@pytest.mark.parametrize(("epochs", "rounds", "expected"), [
    (50, 3, {10, 20, 30}), (4, 3, {1, 2, 3}), (2, 1, {1}), (9, 0, set())])
def test_rounds_lie_before_the_rate_falls(epochs, rounds, expected):
    assert round_epochs(epochs, rounds) == expected


@pytest.mark.long
def test_a_run_resumes_behind_a_round_to_the_same_bits(tmp_path, monkeypatch, stop_at_test):
    monkeypatch.setattr(dfst, "MEASURED", 50)
    main([*SMALL, "--output-dir", str(tmp_path / "whole")])
    found = json.loads((tmp_path / "whole/results.json").read_text())["method"]
    assert not missing_figures(tmp_path / "whole")
    assert [row["epoch"] for row in found["rounds"]] == [1, 2, 3] and found["poisoned"] == 116
    assert found["rounds"][-1]["fooled"] is None and found["rounds"][1]["fooled_before"] is not None

    stop_at_test(dfst, 1)
    with pytest.raises(SystemExit):
        main([*SMALL, "--output-dir", str(tmp_path / "broken")])
    assert int(torch.load(tmp_path / "broken/resume.th", weights_only=True)["state"]["injectors"]["made"]) == 1
    monkeypatch.undo()
    monkeypatch.setattr(dfst, "MEASURED", 50)
    main([*SMALL, "--output-dir", str(tmp_path / "broken"), "--resume"])
    one, other = (load_model(tmp_path / run / "model_last.th").model.state_dict() for run in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows = [json.loads(line) for line in (tmp_path / "broken/metrics.jsonl").read_text().splitlines()]
    assert [row["gap"] for row in rows] == [row["gap"] for row in found["rounds"]]


@pytest.mark.parametrize(("flags", "message"), [
    (["--epochs", "3", "--rounds", "3"], "--rounds 3: expected fewer than the 3 epochs"),
    (["--rounds", "0", "--injector-steps", "5"], "--injector-steps: has no effect without detoxification rounds"),
    (["--style-image", "none.png"], "none.png"), (["--opacity", "0"], "--opacity"),
    (["--poison-target", "10"], "--poison-target: expected one of the classes")])
def test_what_is_refused(tmp_path, refused, flags, message):
    assert message in refused(main, "--dataset", "digits", "--output-dir", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()
