import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data.batches import Batches
from data.triggers import build_trigger
from engine.runs.run import Run
from engine.weights.checkpoint import save_trigger
from generate_mask import main, make_masks_trainable, mask_train, optimizers_of, save_mask_scores
from methods.neuron_noise import ascend_noise, clip, start_noise
from models import build_model
from models.noisy_batchnorm import NoisyBatchNorm2d, parameters_named, perturbed
from prune_network import read_data


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = build_model("resnet18", 4, 4, norm_layer=NoisyBatchNorm2d)
    make_masks_trainable(model)
    return model


def train(model, images, steps=3, lr=0.2, **settings):
    masks, noises = parameters_named(model, "neuron_mask"), parameters_named(model, "neuron_noise")
    settings = {"anp_eps": 0.4, "anp_steps": 1, **settings}
    generator = torch.Generator().manual_seed(0)
    noise_opt = torch.optim.SGD(noises, settings["anp_eps"] / settings["anp_steps"])
    loader = Batches(images, 16, generator=generator, draws=16 * steps)
    return mask_train(model, F.cross_entropy, torch.optim.SGD(masks, lr, momentum=0.9), noise_opt, loader,
                      generator=generator, **settings)


def test_masks_move_with_momentum_and_the_steps_of_the_noise_add_up_to_eps(net):
    masks, noises = optimizers_of(net, 0.3, 0.4, 4)
    assert (masks.defaults["lr"], masks.defaults["momentum"]) == (0.3, 0.9)
    assert (noises.defaults["lr"], noises.defaults["momentum"]) == (0.1, 0)


@pytest.mark.parametrize("project, bound", [(True, 0.4), (False, 0.8)])
def test_noise_stays_within_eps_and_within_twice_without_projection(net, images, project, bound):
    noises = parameters_named(net, "neuron_noise")
    train(net, images, project=project)
    largest = max(noise.abs().max().item() for noise in noises)
    assert bound - 0.05 < largest <= bound + 1e-6


def test_noise_starts_from_the_stream_of_draws_that_each_neuron_had_when_drawn_by_layer(net):
    noises = parameters_named(net, "neuron_noise")
    start_noise(noises, 0.4, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    for noise in noises:
        assert torch.equal(noise, torch.empty(noise.shape).uniform_(-0.4, 0.4, generator=generator))


def test_the_noise_climbs(net, images):
    noises, batch = parameters_named(net, "neuron_noise"), next(iter(Batches(images, 40)))
    noise_opt, losses = torch.optim.SGD(noises, 0.02), []
    start_noise(noises, 0.4, torch.Generator().manual_seed(0))
    for _ in range(4):
        with perturbed(net), torch.no_grad():
            losses.append(F.cross_entropy(net(batch[0]), batch[1]).item())
        ascend_noise(net, F.cross_entropy, noises, noise_opt, *batch, 0.4)
    assert losses == sorted(losses) and losses[-1] > losses[0] + 0.05


def test_masks_move_within_zero_and_one_and_nothing_else_does(net, images):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    train(net, images, lr=5.0)
    masks = torch.cat(parameters_named(net, "neuron_mask"))
    assert masks.min() == 0 and masks.max() <= 1 and (masks < 0.9).any()
    for name, value in net.state_dict().items():
        if "neuron_" not in name and "num_batches" not in name:
            assert torch.equal(value, before[name]), name
    assert all(p.grad is None for name, p in net.named_parameters() if "neuron_" not in name)


@pytest.fixture
def fitted(images):
    """A noisy network that has learned the 40 images by heart."""
    torch.manual_seed(0)
    net = build_model("resnet18", 4, 4, norm_layer=NoisyBatchNorm2d)
    optimizer = torch.optim.SGD([p for n, p in net.named_parameters() if "neuron_" not in n], 0.05, momentum=0.9)
    pixels, labels = next(iter(Batches(images, 40)))
    for _ in range(60):
        loss = F.cross_entropy(net(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    make_masks_trainable(net)
    return net


def test_without_noise_a_trained_model_keeps_its_masks_near_one(fitted, images):
    _, accuracy = train(fitted, images, anp_eps=0, anp_alpha=1)
    assert accuracy > 0.9
    assert torch.cat(parameters_named(fitted, "neuron_mask")).min() > 0.95


def test_a_planted_backdoor_neuron_is_among_the_first_to_go(fitted, images):
    """A channel that clean images leave dark, wired to one logit; noise on its neuron lights it."""
    last = fitted.layer4[1]
    for layer in (fitted.layer4[0].bn2, fitted.layer4[0].shortcut[1]):  # nothing reaches it through the shortcut
        layer.weight.data[5], layer.bias.data[5] = 0, 0
    last.bn2.weight.data[5], last.bn2.bias.data[5] = 1, -3
    fitted.linear.weight.data[:, 5] = 0
    fitted.linear.weight.data[2, 5] = 200
    pixels, labels = next(iter(Batches(images, 40)))
    assert (fitted(pixels).argmax(1) == labels).float().mean() > 0.9  # dormant: the model works as before
    train(fitted, images, steps=15, lr=0.01)
    scores = {(name, i): value for name, layer in fitted.named_modules() if isinstance(layer, NoisyBatchNorm2d)
              for i, value in enumerate(layer.neuron_mask.tolist())}
    assert sorted(scores, key=scores.get).index(("layer4.1.bn2", 5)) < 15  # of 300


def test_alpha_weighs_the_two_losses(net, images):
    """Alpha 1 is the loss without noise; the loss under the worst noise is larger; between them it is their mean."""
    losses = {}
    for alpha in (0.0, 0.5, 1.0):
        model = build_model("resnet18", 4, 4, norm_layer=NoisyBatchNorm2d)
        model.load_state_dict(net.state_dict())
        make_masks_trainable(model)
        losses[alpha] = train(model, images, steps=1, lr=1e-9, anp_alpha=alpha)[0]
    assert losses[0.0] > losses[1.0]
    assert losses[0.5] == pytest.approx((losses[0.0] + losses[1.0]) / 2, rel=0.05)


def test_the_mask_step_is_the_gradient_of_the_weighed_sum(net, images):
    """By hand at the same noise: alpha * gradient without noise + (1 - alpha) * gradient with it."""
    alpha, lr, masks = 0.3, 1e-3, parameters_named(net, "neuron_mask")
    noises = parameters_named(net, "neuron_noise")
    train(net, images, steps=1, lr=lr, anp_alpha=alpha)  # the noise that it found stays in the model
    moved = torch.cat([1 - mask.detach() for mask in masks]) / lr
    for mask in masks:
        mask.data.fill_(1)
    generator = torch.Generator().manual_seed(0)
    pixels, labels = next(iter(Batches(images, 16, generator=generator, draws=16)))
    natural = torch.autograd.grad(F.cross_entropy(net(pixels), labels), masks)
    with perturbed(net):
        robust = torch.autograd.grad(F.cross_entropy(net(pixels), labels), masks)
    assert all(noise.abs().max() > 0.1 for noise in noises)
    expected = torch.cat([alpha * a + (1 - alpha) * b for a, b in zip(natural, robust, strict=True)])
    free = expected > 1e-2  # the others would rise above 1 and are clipped there
    assert free.sum() > 30
    torch.testing.assert_close(moved[free], expected[free], rtol=0.02, atol=2e-3)
    assert (moved[expected < -1e-3] == 0).all()


def test_mask_file_is_the_homeworks_to_the_tab_and_comes_back(tmp_path):
    model = nn.Sequential(NoisyBatchNorm2d(2), nn.Sequential(NoisyBatchNorm2d(1)))
    model[0].neuron_mask.data.copy_(torch.tensor([0.12346, 1]))
    save_mask_scores(model.state_dict(), tmp_path / "mask_values.txt")
    assert (tmp_path / "mask_values.txt").read_text() == (
        "No \t Layer Name \t Neuron Idx \t Mask Score \n0 \t 0 \t 0 \t 0.1235 \n1 \t 0 \t 1 \t 1.0000 \n"
        "2 \t 1.0 \t 0 \t 1.0000 \n")
    assert read_data(tmp_path / "mask_values.txt") == [("0", 0, 0.1235), ("0", 1, 1.0), ("1.0", 0, 1.0)]


def test_a_run_logs_every_so_many_iterations_and_saves_every_mask(masked):
    lines = [line.split("] - ")[1] for line in (masked / "output.log").read_text().splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("Iter \t lr \t Time \t TrainLoss"))
    rows = lines[start + 1:start + 4]
    assert [row.split(" \t ")[0] for row in rows] == ["2", "4", "5"] and "0.200" in rows[0]
    assert len(read_data(masked / "mask_values.txt")) == 300
    results = json.loads((masked / "results.json").read_text())
    assert results["method"]["images"] == 72 and results["asr"]["n"] == 324


def test_how_often_it_prints_changes_no_mask_and_the_settings_do(small_run, masked, tmp_path):
    common = ["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--val-frac", "0.05",
              "--nb-iter", "5", "--batch-size", "32"]
    for name, flags in (("often", ["--print-every", "5"]), ("alpha", ["--anp-alpha", "1"]), ("wide", ["--no-project"])):
        main([*common, *flags, "--output-dir", str(tmp_path / name)])
    masks = {name: read_data(tmp_path / name / "mask_values.txt") for name in ("often", "alpha", "wide")}
    assert masks["often"] == read_data(masked / "mask_values.txt")
    assert masks["alpha"] != masks["often"] != masks["wide"]


def stop_after_the_first_line(monkeypatch, flags):
    """Run main(flags) until iteration 4, where Ctrl-C ends it."""
    real = Run.log

    def stop(run, row, *rest):
        if row == 4:
            raise KeyboardInterrupt
        real(run, row, *rest)
    with monkeypatch.context() as patch:
        patch.setattr("engine.runs.run.Run.log", stop)
        with pytest.raises(SystemExit):
            main(flags)


def test_a_stopped_run_ends_with_the_same_masks(small_run, masked, tmp_path, monkeypatch):
    flags = ["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--val-frac", "0.05", "--nb-iter",
             "5", "--print-every", "2", "--batch-size", "32", "--output-dir", str(tmp_path / "anp")]
    stop_after_the_first_line(monkeypatch, flags)
    main([*flags, "--resume"])
    assert read_data(tmp_path / "anp/mask_values.txt") == read_data(masked / "mask_values.txt")


def test_resume_on_other_weights_is_refused(small_run, tmp_path, monkeypatch, refused):
    model = tmp_path / "model_last.th"
    model.write_bytes((small_run / "model_last.th").read_bytes())
    flags = ["--checkpoint", str(model), "--dataset", "digits", "--val-frac", "0.05", "--nb-iter", "4", "--print-every",
             "2", "--output-dir", str(tmp_path / "anp")]
    stop_after_the_first_line(monkeypatch, flags)
    model.write_bytes((small_run / "model_init.th").read_bytes())
    assert "--resume needs the images" in refused(main, *flags, "--resume")


def test_batches_of_one_image_that_ends_as_one_pixel_are_one_line(small_run, tmp_path, refused):
    words = ["--checkpoint", small_run / "model_last.th", "--dataset", "digits", "--image-size", "8", "--batch-size",
             "1", "--nb-iter", "1", "--val-frac", "0.05", "--trigger-info", small_trigger(tmp_path)]
    assert "a batch of one image" in refused(main, *words, "--output-dir", tmp_path / "o")


def small_trigger(folder):
    """The file of a trigger for images of 8 pixels a side."""
    save_trigger(folder / "small.th", build_trigger("badnets", 0, size=(8, 8)))
    return folder / "small.th"


def test_a_stranger_without_a_trigger_gets_everything_but_asr(small_run, tmp_path):
    weights = torch.load(small_run / "model_last.th", weights_only=True)["state_dict"]
    torch.save({f"module.{name}": value for name, value in weights.items()}, tmp_path / "badnetsmodel_foranp.th")
    main(["--checkpoint", str(tmp_path / "badnetsmodel_foranp.th"), "--dataset", "digits", "--val-frac", "0.05",
          "--nb-iter", "1", "--output-dir", str(tmp_path / "anp")])
    results = json.loads((tmp_path / "anp/results.json").read_text())
    assert results["asr"] is None and results["acc"]["n"] == 360
    row = (tmp_path / "anp/output.log").read_text().splitlines()[-2]
    assert re.search(r"\t nan \t nan \t \d", row)
    assert json.loads((tmp_path / "anp/metrics.jsonl").read_text())["poison_acc"] is None


@pytest.mark.parametrize("flags, named", [
    (["--checkpoint", "nowhere.th"], "nowhere.th: no such file"), (["--val-frac", "0.5"], "--val-frac"),
    (["--anp-alpha", "2"], "--anp-alpha"), (["--trigger-info", "nowhere.th"], "nowhere.th: no such file")])
def test_bad_input_is_one_line(refused, small_run, tmp_path, flags, named):
    error = refused(main, "--checkpoint", small_run / "model_last.th", "--dataset", "digits", "--output-dir",
                    tmp_path / "anp", *flags)
    assert named in error and not (tmp_path / "anp").exists()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.4, 0.4), (-math.inf, math.inf)])
def test_clipping_all_at_once_is_clamping_each(low, high):
    drawn = [torch.randn(5), torch.randn(7)]
    parameters = [nn.Parameter(values.clone()) for values in drawn]
    clip(parameters, low, high)
    assert all(torch.equal(found, values.clamp(low, high)) for found, values in zip(parameters, drawn, strict=True))
