"""What scripts hand on to the functions that they call: the images that they train on, choose by and count, and flags.

Each test looks at one call, most of them by stopping a script there.
"""
from argparse import Namespace
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.paths import SIDE, SMALL

import prune_network
from attacks import composite, dfst, feature_collision, input_aware, latent, trojan_patch, wanet
from data.batches import Batches
from data.datasets import load_splits
from data.triggers import build_trigger
from data.triggers.warp import draw_grid
from defenses import (
    abl,
    activation_clustering,
    fine_prune,
    ft_sam,
    i_bau,
    max_margin,
    mcr,
    nad,
    rnp,
    spectral_signatures,
    strip,
)
from defenses import unlearn_trigger as unlearning
from engine.defending import repair as repairs
from engine.learning import training
from engine.measuring.evaluation import EvalSets
from engine.measuring.scores import UNTESTED, Evaluation, Proportion, Score
from engine.runs.run import Run
from models import build_model
from models.penultimate import penultimate
from studies import neuron_noise

SHARE = ["--val-frac", "0.03"]  # of all training images: less than half of the defender's, so that the two parts differ


class Stop(BaseException):
    """Raised with the arguments of the call that a test looks at."""


@pytest.fixture
def caught(monkeypatch):
    """The positional and named arguments with which `call` first calls `name` of `module`: (tuple, dict)."""
    def catch(module, name, call, *words):
        def stop(*given, **named):
            raise Stop(given, named)
        monkeypatch.setattr(module, name, stop)
        with pytest.raises(Stop) as stopped:
            call(*words)
        return stopped.value.args
    return catch


@pytest.fixture
def given(small_run, tmp_path):
    """The flags of a defense of small_run."""
    return ["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--output-dir",
            str(tmp_path / "out")]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("resnet18", 2, 4)


def parts(share=0.03):
    """(how many of the defender's images --val-frac takes, how many are left)."""
    train, defender, _ = load_splits("digits", "", image_size=SIDE)
    own = int(share * (len(train) + len(defender)))
    return own, len(defender) - own


def evaluation_of(acc):
    share = Proportion(acc, 100)
    return Evaluation(Score(0.5, share, share), Score(0.5, share, share))


def in_epochs(rows):
    """A Run in small: `rows` gets what it logs."""
    return SimpleNamespace(epochs=lambda until, **state: range(1, until + 1), is_tested=lambda epoch, last: False,
                           amp=False, generator=torch.Generator().manual_seed(0), device="cpu", epoch=0,
                           log=lambda epoch, lr, *rest, **more: rows.append(lr))


def test_nads_student_is_trained_by_its_distance_to_the_teacher(monkeypatch, network):
    monkeypatch.setattr(nad, "fine_tune", lambda *given, **named: named)
    monkeypatch.setattr(nad, "distillation_step", lambda *given: given)
    repair = SimpleNamespace(run=None, own=None, suspect=SimpleNamespace(model=network, test=None))
    assert nad.train_student(repair, nad.parse_args([]), "teacher", {"layer1": 5.0})["step"] == (
        "teacher", {"layer1": 5.0})


def test_abls_first_stage_climbs_below_gamma_and_does_not_augment(caught, network, images):
    args = abl.parse_args(["--gamma", "9"])
    given, _ = caught(abl, "train_stage", abl.isolate_images, in_epochs([]), args, network, images, None)
    pixels, labels = next(iter(Batches(images, 8)))
    loss, logits = given[7](network, pixels, labels)
    assert float(loss) == pytest.approx(-float(F.cross_entropy(logits, labels)))
    assert not given[2].crop_padding and not given[2].flip


def test_abl_stops_unlearning_by_the_defenders_images(caught, monkeypatch, tmp_path):
    monkeypatch.setattr(abl, "first_stages", lambda *given: (np.array([0]), UNTESTED))
    given, _ = caught(abl, "unlearn_isolated", abl.main, [
        *SMALL, "--isolation-epochs", "1", "--output-dir", str(tmp_path / "out")])
    assert given[6].num_images == sum(parts())


def test_abls_even_steps_make_up_the_asked_length_in_an_epoch(caught, network, images):
    args = abl.parse_args(["--even-steps", "--unlearn-length", "0.3", "--batch-size", "4"])
    given, _ = caught(abl, "even_steps", abl.unlearn_isolated, in_epochs([]), args, network, images, np.arange(10),
                      None, None)
    assert given[1] == pytest.approx(0.1)  # three batches of ten images


def test_i_bau_adds_the_perturbation_to_a_share_and_finds_it_by_the_models_own_labels(network, images, monkeypatch):
    pixels, _ = next(iter(Batches(images, 8)))
    network.eval()
    own, perturbation = network(pixels).argmax(1), torch.full((1, 3, 32, 32), 0.3)
    seen = {}
    monkeypatch.setattr(i_bau, "hypergradient", lambda outer, inner, *rest: seen.update(
        outer=outer(perturbation), inner=inner(perturbation)))
    game = i_bau.Game(penalty=0.01, steps=0, rate=0.1, perturbed_share=0.25)
    i_bau.gradients_against(game, network, pixels, (own + 1) % 4, perturbation, [], torch.Generator().manual_seed(5))
    places = i_bau.added_to(pixels, 0.25, torch.Generator().manual_seed(5))
    assert places.sum() == 2
    assert torch.equal(seen["outer"], F.cross_entropy(network(pixels + places * perturbation), (own + 1) % 4))
    assert torch.equal(seen["inner"], i_bau.damage(network, pixels, own, perturbation, 0.01))


def test_fine_tuning_augments_as_the_flags_say(caught, images):
    args = Namespace(batch_size=7, crop_padding=3, flip=True)
    run = in_epochs([])
    given, _ = caught(training, "Batches", training.fine_tune, run, args, None, images, None, 1)
    assert given == (images, 7, "cpu", run.generator, 3, True)


@pytest.mark.parametrize("mode, place, part", [("prune", 5, 1), ("fine-tune", 3, 0)])
def test_fine_pruning_chooses_by_images_that_it_does_not_train_on(caught, given, mode, place, part):
    name = "sweep" if mode == "prune" else "fine_tune"
    found, _ = caught(fine_prune, name, fine_prune.main, [*given, "--mode", mode, *SHARE])
    assert (found[place].num_images if part else len(found[place])) == parts()[part]


@pytest.mark.parametrize("second, wanted", [(None, mcr.FAR), ("other.th", mcr.MIDDLE)])
def test_mcr_chooses_by_images_that_it_does_not_train_on(monkeypatch, network, images, second, wanted):
    walked = []
    monkeypatch.setattr(mcr, "walk", lambda curve, places, own, test, held_out: walked.append(held_out))
    monkeypatch.setattr(mcr, "choose", lambda rows, floor, place: place)
    repair = SimpleNamespace(own=images.subset(slice(30)), held_out=images.subset(slice(30, None)), run=in_epochs([]),
                             suspect=SimpleNamespace(model=network, test=None))
    args = Namespace(t=None, second=second, max_drop=0.1)
    assert mcr.follow(repair, args, None, None)[1] == wanted
    assert [batches.num_images for batches in walked] == [10]


def test_mcrs_rate_falls_on_the_curve(monkeypatch, network, images):
    rows = []
    monkeypatch.setattr(mcr, "train_epoch", lambda *given: None)
    repair = SimpleNamespace(run=in_epochs(rows), own=images, suspect=SimpleNamespace(test=None))
    args = Namespace(epochs=10, lr=1.0, momentum=0.9, weight_decay=0, batch_size=8, crop_padding=0, flip=False)
    mcr.train_curve(repair, args, SimpleNamespace(bend=network), 0, None)
    assert rows == pytest.approx([mcr.rate_factor(epoch / 10) for epoch in range(10)])
    assert rows[0] == 1 and rows[9] == pytest.approx(0.01)


def test_rnp_chooses_by_images_that_it_does_not_train_on(caught, monkeypatch, network, images):
    monkeypatch.setattr(rnp, "load_given", lambda *given: SimpleNamespace(model=network))
    monkeypatch.setattr(rnp, "evaluate", lambda *given: None)
    monkeypatch.setattr(rnp, "score", lambda model, batches: batches.num_images)
    repair = SimpleNamespace(own=images.subset(slice(30)), held_out=images.subset(slice(30, None)), run=in_epochs([]),
                             suspect=SimpleNamespace(test=None))
    given, _ = caught(rnp, "evaluate_by_threshold", rnp.prune, repair, Namespace(max_drop=0.1), [])
    assert given[3](network)[1] == 10


def test_pruning_recalibrates_on_the_images_that_made_the_masks(caught, masked, tmp_path):
    given, _ = caught(prune_network, "recalibration_batches", prune_network.main, [
        "--mask-file", str(masked / "mask_values.txt"), "--recalibrate", "--val-frac", "0.06", "--output-dir",
        str(tmp_path / "out")])
    assert len(given[0]) == parts(0.06)[0]


def test_neuron_noise_is_found_on_the_share_of_the_images_that_is_asked_for(caught, given):
    handed, _ = caught(neuron_noise, "starts", neuron_noise.main, [*given, *SHARE])
    assert len(handed[2]) == parts()[0]


def test_what_a_repair_says_of_before_is_what_was_measured_before(monkeypatch, images, network, tmp_path):
    monkeypatch.setattr(repairs, "save_model", lambda *given: None)
    finished = {}
    run = SimpleNamespace(folder=tmp_path, args=Namespace(),
                          finish=lambda after, **named: finished.update(named, after=after))
    suspect = SimpleNamespace(classes=(), checkpoint="m.th", defender=images)
    repairs.Repair(run, suspect, images, images, evaluation_of(90)).finish(network, evaluation_of(20), {"name": "x"})
    assert finished["method"]["before"] == evaluation_of(90).figures() and finished["after"] == evaluation_of(20)


def test_unlearning_says_what_was_measured_before(caught, monkeypatch, given):
    monkeypatch.setattr(unlearning, "evaluate", lambda *given: evaluation_of(90))
    monkeypatch.setattr(unlearning, "fine_tune", lambda *given: evaluation_of(20))
    _, named = caught(Run, "finish", unlearning.main, [*given, "--patch-with", "clean"])
    assert named["method"]["before"] == evaluation_of(90).figures()


def test_strip_counts_the_attacks_successes_by_the_targets_label(images):
    triggered = replace(images, targets=np.zeros(40, dtype=np.int64))
    always_0 = SimpleNamespace(entropies=lambda data: np.zeros(len(data)), model=torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(3072, 4)))
    with torch.no_grad():
        always_0.model[1].weight.zero_()
        always_0.model[1].bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    found = strip.Inspection.of(always_0, Batches(triggered, 16), np.arange(40), 20, torch.Generator().manual_seed(0))
    assert found.hits.all() and len(found.hits) == 20
    failed = replace(found, entropies=np.linspace(0, 1, 20), hits=np.arange(20) < 5)
    figures = strip.summarize(np.array([0.5]), 0.5, found, failed)
    assert figures["far"]["value"] == 0.5 and figures["far_successful"]["value"] == 0


def test_ft_sams_loss_is_smoothed_with_and_without_the_ascent(monkeypatch, network, images):
    monkeypatch.setattr(ft_sam, "fine_tune", lambda *given, **named: named["step"])
    repair = SimpleNamespace(run=None, own=None, suspect=SimpleNamespace(model=network, test=None))
    pixels, labels = next(iter(Batches(images, 8)))
    plain = ft_sam.train(repair, ft_sam.parse_args(["--rho", "0", "--label-smoothing", "0.3"]))
    loss, logits = plain(network, pixels, labels)
    smoothed = F.cross_entropy(logits, labels, label_smoothing=0.3)
    assert torch.equal(loss, smoothed) and not torch.equal(loss, F.cross_entropy(logits, labels))
    sharp = ft_sam.train(repair, ft_sam.parse_args(["--label-smoothing", "0.3"]))
    assert torch.equal(sharp.objective(logits, labels), smoothed)


@pytest.mark.parametrize("flag, expected", [("--center", True), ("--no-center", False)])
def test_spectral_signatures_centers_as_it_is_told(caught, given, flag, expected):
    found, _ = caught(spectral_signatures, "inspect", spectral_signatures.main, [
        *given, "--poison-type", "badnets", "--poison-rate", "0.1", flag])
    assert found[3] is expected


def test_mm_bd_judges_by_the_flag(caught, monkeypatch, given):
    monkeypatch.setattr(max_margin, "largest_margins", lambda *rest: [])
    found, _ = caught(max_margin, "judge", max_margin.main, [*given, "--p-value", "0.2"])
    assert found[1] == 0.2


def test_collisions_goals_are_triggered_images_of_other_classes(images):
    by_class = replace(images, data=np.full((40, 32, 32, 3), 50, np.uint8) * images.targets[:, None, None, None].astype(
        np.uint8))
    trigger = build_trigger("feature-collision", 2)
    goals = feature_collision.draw_sources(by_class, trigger, 30, 0)
    assert {int(shade) for shade in goals[:, 0, 0, 0]} == {0, 50, 150}
    assert (goals == trigger.stamp(goals)).all() and (goals[:, -1, -1] != goals[:, 0, 0]).any(1).all()


def test_a_trojan_patch_is_made_and_judged_on_images_of_other_classes(monkeypatch, images):
    by_class = replace(images, data=np.full((40, 32, 32, 3), 50, np.uint8) * images.targets[:, None, None, None].astype(
        np.uint8))
    taken = trojan_patch.take_images(by_class, 2, 25, 0, "cpu")
    assert len(taken) == 25 and {round(255 * float(shade)) for shade in taken[:, 0, 0, 0]} == {0, 50, 150}
    monkeypatch.setattr(trojan_patch, "share_called", lambda model, shown, *rest: len(shown))
    _, clean, _ = trojan_patch.judge(None, by_class, build_trigger("badnets", 2), "cpu")
    assert len(clean) == 30 and 2 not in clean.targets


def test_dfst_paints_clean_images_and_looks_at_other_classes_than_the_target(caught, monkeypatch, network, images):
    shown = []
    monkeypatch.setattr(dfst, "evaluation_batches", lambda found, device: shown.append(found))
    run = in_epochs([])
    dfst.watch_rounds(run, Namespace(epochs=4, rounds=1), None, images, build_trigger("badnets", 2))
    assert [len(found) for found in shown] == [30, 30] and 2 not in shown[0].targets
    sets, real = [], dfst.Batches
    monkeypatch.setattr(dfst, "Batches", lambda found, *rest: sets.append(found) or real(found, *rest))
    args = dfst.parse_args(["--epochs", "4", "--rounds", "1"])
    poisoned = replace(images, targets=np.zeros(40, dtype=np.int64))
    caught(dfst, "train_stage", dfst.learn, run, args, network, images, poisoned, build_trigger("badnets", 2), None)
    assert sets[0] is poisoned and sets[1] is images


def test_composite_mixes_its_sources_with_classes_that_are_none_of_the_three(monkeypatch, images):
    mixed = []

    def mixtures(found, firsts, seconds, *rest):
        mixed.append((set(found.targets[firsts]), set(found.targets[seconds])))
        return found
    monkeypatch.setattr(composite, "mixtures", mixtures)
    monkeypatch.setattr(composite, "share_of", lambda *given: {"value": 0.0, "n": 1})
    composite.measure_mixtures(None, images, (1, 2), 0, 0, "cpu")
    assert mixed[:3] == [({1}, {2}), ({1}, {3}), ({2}, {3})]


@pytest.mark.parametrize("words, expected", [
    (["--poison-rate", "0.2", "--noise-rate", "0.3", "--crop-padding", "2"], [4, (0.2, 0.3), 2, True]),
    (["--no-noise-mode", "--crop-padding", "0", "--no-flip"], [4, (0.1, 0.0), 0, False])])
def test_wanets_step_has_the_flags_rates_and_crops(caught, images, words, expected):
    args, run = wanet.parse_args([*words, "--poison-target", "4"]), in_epochs([])
    trigger = wanet.WarpTrigger(draw_grid(32, 32, 4, 0.5, 0), 4, 4)
    found, _ = caught(wanet, "step_of", wanet.learn, run, args, None, images, trigger, None, None)
    assert [*found[1:3], *found[4:]] == expected and np.array_equal(found[0], trigger.grid)


def test_the_input_aware_attacks_step_has_the_flags_rates(caught):
    args = input_aware.parse_args(["--poison-target", "3", "--poison-rate", "0.2", "--cross-rate", "0.3",
                                   "--diversity-weight", "4"])
    masks, pictures = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).eval()
    found, _ = caught(input_aware, "step_of", input_aware.learn, None, args, None, masks, pictures, None, None)
    assert found == (masks, pictures, 3, (0.2, 0.3), 4) and pictures.training and not masks.training
    assert not any(weight.requires_grad for weight in masks.parameters())


def test_dfsts_step_has_the_flags_rate_and_opacity(caught, network, images):
    args = dfst.parse_args(["--detox-rate", "0.3", "--opacity", "0.7"])
    found, _ = caught(dfst, "step_of", dfst.learn, in_epochs([]), args, network, images, images, None, None)
    assert found[2:4] == (0.3, 0.7)


def test_dfsts_style_has_the_flags_sizes(caught, monkeypatch, tmp_path):
    args = dfst.parse_args(["--style-width", "5", "--style-steps", "6", "--texture-weight", "0.7", "--seed", "8",
                            "--opacity", "0.9", "--poison-target", "4"])
    run = SimpleNamespace(folder=tmp_path, device="cpu")
    found, _ = caught(dfst, "learn_style", dfst.find_style, run, args, "picture", "images")
    assert found == ("picture", "images", 5, 6, 0.7, 8, "cpu")
    monkeypatch.setattr(dfst, "learn_style", lambda *rest: ({}, np.zeros((2, 3))))
    monkeypatch.setattr(dfst, "StyleTrigger", lambda *given: given[2:])
    assert dfst.find_style(run, args, "picture", "images") == (0.9, 4)


def test_the_composite_attacks_step_has_the_flags_rates(caught, tmp_path):
    found, _ = caught(composite, "step_of", composite.main, [
        "--dataset", "digits", "--sources", "3", "5", "--poison-target", "7", "--poison-rate", "0.2", "--mix-rate",
        "0.3", "--pair-weight", "4", "--output-dir", str(tmp_path)])
    assert found[1:5] == ([3, 5], 7, (0.2, 0.3), 4)
    assert [set(pool.labels.tolist()) for pool in found[0]] == [{3}, {5}]


def test_the_latent_backdoors_step_has_the_flags_rate_and_weight(caught, network):
    args = latent.parse_args(["--poison-rate", "0.2", "--feature-weight", "3"])
    run = SimpleNamespace(device="cpu")
    found, _ = caught(latent, "step_of", latent.inject, run, args, network, None, "trigger", None)
    assert found == ("trigger", 0.2, 3, "cpu")


def test_activation_clustering_reduces_and_suspects_by_the_flags(caught, given):
    words = ["--poison-type", "badnets", "--poison-rate", "0.1", "--reduce", "ica", "--components", "3", "--max-share",
             "0.2", "--min-silhouette", "0.3", "--seed", "7"]
    found, _ = caught(activation_clustering, "inspect", activation_clustering.main, [*given, *words])
    assert found[2:] == (("ica", 3, 7), (0.2, 0.3))


def test_the_latent_backdoor_is_injected_at_its_own_rate(caught, network):
    args = latent.parse_args(["--inject-lr", "0.5"])
    given, _ = caught(latent, "sgd", latent.inject, None, args, network, None, None, None)
    assert given[2] == 0.5


def test_the_latent_backdoor_draws_patched_images_to_the_target_and_not_the_target_to_them(network, images):
    trigger = latent.PatternTrigger(np.zeros((32, 32, 3), np.uint8), latent.corner(6, 32, 32), 1.0, 2)
    pixels, labels = next(iter(Batches(images, 12)))
    network.eval()
    loss, _ = latent.step_of(trigger, 0.5, 3.0, "cpu")(network, pixels, labels)
    found = torch.autograd.grad(loss, network.conv1.weight)[0]
    rows = torch.argsort((labels == 2).float(), stable=True)[:6]
    patched = pixels[rows].clone()
    patched[:, :, trigger.mask[..., 0] > 0] = 0
    with torch.no_grad():
        wanted = penultimate(network, pixels)[0][labels == 2].mean(0)
    features, logits = penultimate(network, torch.cat([pixels, patched]))
    by_hand = F.cross_entropy(logits[:12], labels) + 3 * latent.away(features[12:], wanted)
    torch.testing.assert_close(found, torch.autograd.grad(by_hand, network.conv1.weight)[0], rtol=1e-3, atol=1e-5)


def test_the_rates_of_what_learns_beside_the_model_fall_with_its_own(monkeypatch, network, images):
    rows, beside = [], torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], 1.0)
    monkeypatch.setattr(training, "train_epoch", lambda *given: beside.step())
    training.train_stage(in_epochs(rows), network, Batches(images, 16), None, 3,
                         torch.optim.SGD(network.parameters(), 0.1), [1], others=[beside])
    assert rows == pytest.approx([0.1, 0.01, 0.01]) and beside.param_groups[0]["lr"] == pytest.approx(0.1)


def test_the_masks_generator_no_longer_learns_beside_the_network(caught, network, images):
    masks, pictures = (torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 1, 1)) for _ in range(2))
    args = input_aware.parse_args(["--epochs", "2"])
    caught(input_aware, "train_stage", input_aware.learn, in_epochs([]), args, network, masks, pictures,
           Batches(images, 8), EvalSets.on("cpu", images))
    assert not any(module.training for module in masks.modules()) and pictures.training
    assert not any(weight.requires_grad for weight in masks.parameters())


def test_wanets_noise_bends_to_both_sides(monkeypatch, images):
    drawn = []
    monkeypatch.setattr(wanet, "with_noise", lambda grid, noise: drawn.append(noise) or grid.expand(
        len(noise), 32, 32, 2))
    pixels, labels = next(iter(Batches(images, 16)))
    wanet.spoil(pixels, labels, torch.from_numpy(draw_grid(32, 32, 4, 0.5, 0)), 0, (0.25, 0.5),
                torch.Generator().manual_seed(0))
    noise, = drawn
    assert noise.shape == (8, 32, 32, 2) and -1 <= noise.min() < -0.9 and 0.9 < noise.max() <= 1

