import csv
import json
from contextlib import nullcontext

import pytest
import torch
from PIL import Image

from data.batches import Batches
from data.datasets import load_splits
from data.poison_cifar import stamp_all
from data.triggers import build_trigger
from defenses import fine_prune
from defenses.fine_prune import earlier_stage_curve, last_stage_curve, main, sweep, usual_counts
from engine.defending.suspect import find_trigger
from engine.measuring.evaluation import EvalSets, evaluate, score
from engine.measuring.scores import last_within
from engine.weights.checkpoint import load_model
from models import build_model
from models.pruning import stage_means

SMALL = ["--dataset", "digits"]


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = build_model("resnet18", 2, 4).eval()
    model.linear.weight.data *= 5
    return model


@pytest.fixture
def test_images(images):
    return EvalSets.on("cpu", images, stamp_all(images, build_trigger("badnets", 0)))


def run(small_run, folder, *flags):
    main(["--checkpoint", str(small_run / "model_last.th"), *SMALL, "--output-dir", str(folder), *flags])
    return json.loads((folder / "results.json").read_text())


def test_a_planted_dormant_channel_goes_first(network, images, test_images):
    network.layer4[1].bn2.bias.data[11] = -1000
    batches = Batches(images, 16)
    activations = stage_means(network, batches, "layer4").mean(0)
    order = activations.argsort()
    rows = sweep(network, "layer4", order, activations, test_images, batches, usual_counts(network, "layer4", 16))
    assert order[0] == rows[1].channel == 11 and rows[1].activation == 0
    assert [row.count for row in rows] == list(range(16))
    assert rows[1].test == rows[0].test and rows[1].held_out == rows[0].held_out
    assert [row.activation for row in rows[1:]] == sorted(row.activation for row in rows[1:])


def test_the_curve_by_a_matrix_product_is_the_one_by_whole_passes(network, images, test_images):
    sets = (test_images.clean, test_images.triggered, Batches(images, 7))
    order = stage_means(network, sets[0], "layer4").mean(0).argsort()
    quick = last_stage_curve(network, order, sets)
    slow = earlier_stage_curve(network, order, sets, "layer4")
    seen = set()
    for count in range(16):
        for i in range(3):
            a, b = quick(i, count), slow(i, count)
            assert a.accuracy == b.accuracy and a.original_accuracy == b.original_accuracy
            assert a.loss == pytest.approx(b.loss, rel=1e-4)
            seen.add(a.accuracy)
    assert len(seen) > 3


def test_the_kept_model_is_the_last_one_within_the_limit():
    assert last_within([0.90, 0.89, 0.85, 0.87, 0.80], 0.04) == 3
    assert last_within([0.90, 0.86, 0.85], 0.04) == 1
    assert last_within([0.90, 0.80], 0.04) == 0


@pytest.mark.parametrize("layer", ["layer4", "layer2"])
def test_pruned_channels_stay_out_of_fine_tuning_and_of_the_file(learned_run, tmp_path, monkeypatch, layer):
    """The mask is held in training: with it the last epoch's own scores are those of the file, without it not."""
    results = run(learned_run, tmp_path / "out", "--layer", layer, "--prune-fraction", "0.5", "--epochs", "2")
    model = load_model(tmp_path / "out/model_last.th").model
    readers = {"layer4": [model.linear.weight],
               "layer2": [model.layer3[0].conv1.weight, model.layer3[0].shortcut[0].weight]}[layer]
    for weight in readers:
        zero = weight.flatten(2).abs().sum((0, 2)) == 0 if weight.dim() == 4 else weight.abs().sum(0) == 0
        assert int(zero.sum()) == results["method"]["chosen"]["pruned"] == weight.shape[1] // 2
    _, _, test = load_splits("digits", "data", image_size=16)
    images = EvalSets.stamped("cpu", test, find_trigger(learned_run / "model_last.th"))
    from_file = evaluate(model, images)
    assert from_file.figures() == {name: results[name] for name in from_file.figures()}
    assert results["acc"]["value"] > 0.5
    last = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[-1])
    assert last["clean_loss"] == pytest.approx(from_file.clean.loss, rel=1e-4)
    monkeypatch.setattr(fine_prune, "output_masked", lambda *args: nullcontext())
    run(learned_run, tmp_path / "unmasked", "--layer", layer, "--prune-fraction", "0.5", "--epochs", "2")
    last = json.loads((tmp_path / "unmasked/metrics.jsonl").read_text().splitlines()[-1])
    unmasked = evaluate(load_model(tmp_path / "unmasked/model_last.th").model, images)
    assert last["clean_loss"] != pytest.approx(unmasked.clean.loss, rel=1e-2)


def test_stopped_and_resumed_it_ends_with_the_same_bits(learned_run, tmp_path, monkeypatch, stop_at_test):
    run(learned_run, tmp_path / "whole", "--epochs", "2")
    stop_at_test(fine_prune, 1)
    with pytest.raises(SystemExit):
        run(learned_run, tmp_path / "stopped", "--epochs", "2")
    monkeypatch.undo()
    run(learned_run, tmp_path / "stopped", "--epochs", "2", "--resume")
    a, b = (load_model(tmp_path / name / "model_last.th").model.state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_control_is_printed_beside(learned_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(learned_run, tmp_path / "first", "--epochs", "1")
    assert "alone has not been run; run it with --mode fine-tune" in (tmp_path / "first/output.log").read_text()
    main(["--checkpoint", str(learned_run / "model_last.th"), *SMALL, "--mode", "fine-tune", "--epochs", "1"])
    results = run(learned_run, tmp_path / "second", "--epochs", "1")
    control, = tmp_path.glob("output/**/fine-tune/results.json")
    assert results["method"]["control"]["acc"] == json.loads(control.read_text())["acc"]
    assert "control, fine-tuning alone: ASR" in (tmp_path / "second/output.log").read_text()


def test_the_whole_curve_is_written_and_its_choice_is_within_the_limit(small_run, tmp_path):
    results = run(small_run, tmp_path / "out", "--mode", "prune", "--max-drop", "0.1")
    rows = list(csv.DictReader((tmp_path / "out/pruning_curve.csv").open()))
    assert [int(row["pruned"]) for row in rows] == list(range(32))
    held_out = [float(row["held_out_acc"]) for row in rows]
    assert results["method"]["chosen"]["pruned"] == max(i for i, acc in enumerate(held_out) if acc >= held_out[0] - 0.1)
    assert Image.open(tmp_path / "out/pruning_curve.png").size[0] > 500
    assert results["acc"] == results["method"]["chosen"]["acc"] and results["acc_outside_target"]["n"] < 500


def test_fine_tuning_alone_prunes_nothing_and_changes_the_weights(small_run, tmp_path):
    results = run(small_run, tmp_path / "out", "--mode", "fine-tune", "--epochs", "1")
    assert results["method"]["chosen"]["pruned"] == 0 and not (tmp_path / "out/pruning_curve.csv").exists()
    before, after = (load_model(folder / "model_last.th").model for folder in (small_run, tmp_path / "out"))
    assert not torch.equal(before.conv1.weight, after.conv1.weight)


def test_without_a_trigger_asr_is_left_out(small_run, tmp_path):
    (tmp_path / "model_last.th").write_bytes((small_run / "model_last.th").read_bytes())
    results = run(tmp_path, tmp_path / "out", "--epochs", "1")
    assert results["asr"] is None and results["method"]["chosen"]["asr"] is None
    assert "ASR nan" in (tmp_path / "out/output.log").read_text()


@pytest.mark.parametrize(("flags", "message"), [
    (["--layer", "layer9"], "--layer: expected a stage of resnet18 (layer1, layer2, layer3, layer4), got layer9"),
    (["--prune-fraction", "1"], "--prune-fraction: expected a fraction in [0, 1), got 1"),
    (["--val-frac", "0.1"], "--val-frac 0.1: expected a share that leaves"),
    (["--mode", "fine-tune", "--max-drop", "0.1"], "--max-drop: has no effect with --mode fine-tune"),
    (["--mode", "prune", "--no-flip"], "--flip: has no effect with --mode prune"),
    (["--max-drop", "0.1", "--prune-fraction", "0.1"], "not allowed with")])
def test_what_is_refused(small_run, tmp_path, refused, flags, message):
    assert message in refused(main, "--checkpoint", small_run / "model_last.th", *SMALL, "--output-dir",
                              tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_scores_are_those_of_the_engine(network, images, test_images):
    measure = last_stage_curve(network, torch.arange(16), (test_images.clean, None, Batches(images, 40)))
    whole = score(network, test_images.clean)
    assert measure(0, 0).accuracy == whole.accuracy and measure(1, 3).accuracy.n == 0
