import csv
import json

import pytest
import torch
import torch.nn.functional as F
from helpers.paths import HALF

from data.batches import Batches
from models import build_model
from models.noisy_batchnorm import NoisyBatchNorm2d, parameters_named, perturbed
from studies.neuron_noise import main, noise_figures, worst_noise


@pytest.fixture
def net():
    torch.manual_seed(0)
    return build_model("resnet18", 4, 4, norm_layer=NoisyBatchNorm2d)


def test_the_noise_raises_the_loss_and_stays_within_epsilon(net, images):
    pixels, labels = next(iter(Batches(images, 40)))
    before = F.cross_entropy(net.eval()(pixels), labels).item()
    generator = torch.Generator().manual_seed(0)
    worst_noise(net, Batches(images, 40, generator=generator, draws=40 * 5), 0.3, 5, generator)
    assert max(noise.abs().max().item() for noise in parameters_named(net, "neuron_noise")) <= 0.3 + 1e-6
    with perturbed(net):
        assert F.cross_entropy(net(pixels), labels).item() > before
    assert all(p.requires_grad for p in net.parameters())


def test_each_ascent_is_by_two_and_a_half_times_epsilon_over_their_number(net, images, monkeypatch):
    lengths = []
    monkeypatch.setattr("studies.neuron_noise.ascend_noise", lambda model, loss, noises, optimizer, *rest: (
        lengths.append(optimizer.param_groups[0]["lr"])))
    generator = torch.Generator().manual_seed(0)
    worst_noise(net, Batches(images, 40, generator=generator, draws=40 * 5), 0.2, 5, generator)
    assert lengths == pytest.approx([0.1] * 5)


def test_errors_and_shares_are_counted_apart(net, images):
    for noise in parameters_named(net, "neuron_noise"):
        noise.data.zero_()
    net.linear.weight.data.zero_()
    net.linear.bias.data.copy_(torch.tensor([0.0, 0, 5, 0]))  # calls everything class 2
    leaning = {"leaning": 2, "leaning_share_of_errors": 1.0}
    assert noise_figures(net, Batches(images, 16), 2) == {"error_rate": 0.75, "target_share": 1.0,
                                                    "target_share_of_errors": 1.0, **leaning}
    assert noise_figures(net, Batches(images, 16), 1)["target_share"] == 0
    assert noise_figures(net, Batches(images, 16)) == {"error_rate": 0.75, "target_share": None,
                                                 "target_share_of_errors": None, **leaning}
    without_errors = noise_figures(net, Batches(images.subset(images.targets == 2), 16))
    assert without_errors["leaning"] is without_errors["leaning_share_of_errors"] is None


def test_two_models_side_by_side(small_run, tmp_path):
    main(["--checkpoint", str(small_run / "model_last.th"), "--benign", str(small_run / "model_init.th"), "--dataset",
          "digits", "--val-frac", "0.05", "--epsilons", "0", "0.5", "--seeds", "2", "--steps", "2", "--output-dir",
          str(tmp_path / "noise")])
    rows = list(csv.DictReader((tmp_path / "noise/neuron_noise.csv").open()))
    assert [(row["model"], row["epsilon"], row["seed"]) for row in rows[:4]] == [
        ("suspect", "0.0", "0"), ("suspect", "0.0", "1"), ("suspect", "0.5", "0"), ("suspect", "0.5", "1")]
    assert len(rows) == 8
    results = json.loads((small_run / "results.json").read_text())
    assert float(rows[0]["error_rate"]) == pytest.approx(1 - results["acc"]["value"], abs=1e-6)


@pytest.mark.long
def test_the_benign_model_is_fed_as_its_own_flags_say(learned_run, tmp_path, refused):
    ours, bare = learned_run / "model_last.th", tmp_path / "bare.th"
    torch.save(torch.load(ours, weights_only=True)["state_dict"], bare)
    usual = ["--dataset", "digits", *HALF, "--val-frac", "0.05", "--epsilons", "0", "--seeds", "1", "--steps", "1",
             "--overwrite", "--output-dir", str(tmp_path / "noise")]

    def errors(suspect, *words):
        """(error rate of the suspect, of the benign model), which is the same weights."""
        main(["--checkpoint", str(suspect), "--benign", str(bare), *usual, *words])
        return [row["error_rate"] for row in csv.DictReader((tmp_path / "noise/neuron_noise.csv").open())]
    none = ["--mean", "none", "--std", "none"]
    of_none = [word.replace("--", "--benign-") for word in none]
    (sound, same), (other, fed_alike) = errors(ours), errors(bare, *none)
    assert sound == same != other == fed_alike  # as the suspect, where nothing else is said
    assert errors(ours, *of_none) == [sound, other]
    assert errors(bare, *none, "--benign-mean", "homework", "--benign-std", "homework") == [other, sound]
    pair = ["--checkpoint", bare, "--benign", ours, *usual]
    assert "says its own normalization, so --benign-mean none --benign-std none has no use" in refused(
        main, *pair, *of_none)
    assert "--benign-std: expected too" in refused(main, *pair, *of_none[:2])
    assert "--benign-mean: has no effect without --benign" in refused(main, "--checkpoint", ours, *usual, *of_none)
