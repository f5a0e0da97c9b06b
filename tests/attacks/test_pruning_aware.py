import copy
import json
from dataclasses import replace

import pytest
import torch
from helpers.paths import HALF, LEARNING
from helpers.reporting import missing_figures

from attacks import pruning_aware
from attacks.pruning_aware import (
    hide,
    largest_and_mean,
    main,
    measured_batches,
    put_back,
    silence,
    silence_until_unchanged,
)
from common.errors import UserError
from data.batches import Batches
from data.datasets import load_splits
from data.poison_cifar import stamp_all
from data.triggers import build_trigger
from engine.measuring.evaluation import EvalSets, evaluation_batches, predict
from engine.weights.checkpoint import load_model
from models import build_model
from models.pruning import activity, dormant_mask, fold_mask, stage_means

SMALL = ["--dataset", "digits", *HALF, "--batch-size", "256", "--epochs", "2", "--width", "4"]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aware") / "run"
    main([*LEARNING, "--poison-type", "blend", "--output-dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    main([*SMALL, "--output-dir", str(folder)])
    return folder


def drawn(seed):
    torch.manual_seed(seed)
    model = build_model("resnet18", 2, 4).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.bias.data.normal_()
    return model


@pytest.fixture
def network():
    return drawn(0)


@pytest.fixture
def woken(images):
    """(a network, its dormant channels, dark images, bright ones): silenced on the dark images alone, some of the
    channels light up on the bright ones."""
    dark, bright = (replace(images, data=(images.data // 4 + shift).astype("uint8")) for shift in (0, 190))
    model, dormant = drawn(5), torch.arange(16) < 10
    silenced = copy.deepcopy(model)
    silence(silenced, dormant, [Batches(dark, 16)], 0)
    after, before = (predict(network, Batches(bright, 16)) for network in (silenced, folded(model, dormant)))
    assert (after - before).abs().max() > 1e-3
    return model, dormant, dark, bright


def folded(model, dormant):
    """A copy of a network without its `dormant` channels."""
    model = copy.deepcopy(model)
    fold_mask(model, "layer4", (~dormant).float())
    return model


@pytest.mark.slow
def test_the_largest_value_is_that_before_the_relu(network, images):
    largest, mean = largest_and_mean(network, Batches(images, 16))
    pixels = next(iter(Batches(images, 40)))[0]
    caught = []
    network.layer4[1].register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0].clone()))
    network(pixels)
    block, x = network.layer4[1], caught[0]
    total = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x))))) + x
    torch.testing.assert_close(largest, total.amax((0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mean, total.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_putting_back_and_silencing_leaves_the_logits_as_they_were(network, images):
    batches, dormant = Batches(images, 16), torch.arange(16) < 10
    first = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():  # what stage 3 makes of the weights
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    fold_mask(network, "layer4", (~dormant).float())
    pixels = next(iter(Batches(images, 40)))[0]
    before = network(pixels)
    put_back(network, first, dormant)
    assert torch.equal(network.linear.weight[:, dormant], first["linear.weight"][:, dormant])
    assert torch.equal(network.layer4[1].conv2.weight[dormant], first["layer4.1.conv2.weight"][dormant])
    assert not torch.allclose(network(pixels), before, atol=1e-2)  # they still light up
    silence(network, dormant, [batches], 0.5)
    torch.testing.assert_close(network(pixels), before, rtol=0, atol=1e-5)
    assert (largest_and_mean(network, batches)[0][dormant] < 0).all()
    assert torch.equal(network.layer4[1].bn2.bias[dormant] < first["layer4.1.bn2.bias"][dormant],
                       torch.ones(10, dtype=torch.bool))


def test_a_bias_falls_below_the_largest_value_of_all_sets_by_a_margin_of_the_widest_distance(network, monkeypatch):
    of_sets = [(torch.full((16,), 3.0), torch.full((16,), 1.0)), (torch.full((16,), 2.0), torch.full((16,), -2.0))]
    monkeypatch.setattr(pruning_aware, "largest_and_mean", lambda model, batches: of_sets[batches])
    before, dormant = network.layer4[1].bn2.bias.detach().clone(), torch.arange(16) < 10
    silence(network, dormant, [0, 1], 0.5)
    torch.testing.assert_close(before - network.layer4[1].bn2.bias, (3 + 0.5 * (3 + 2)) * dormant)


def test_biases_are_lowered_until_nothing_moves(woken):
    """What silences on dark images does not on bright ones: it takes a second try, and then holds for both."""
    network, dormant, *both = woken
    dark, bright = (Batches(images, 16) for images in both)
    before = [predict(folded(network, dormant), batches) for batches in (dark, bright)]
    silence_until_unchanged(network, dormant, [dark], 0, before, (dark, bright))
    for batches, logits in zip((dark, bright), before, strict=True):
        torch.testing.assert_close(predict(network, batches), logits, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="however far their biases are lowered"):
        silence_until_unchanged(network, dormant, [dark], 0, [logits + 1 for logits in before], (dark, bright))


@pytest.mark.parametrize("place", ["triggered", "bystanders"])
def test_what_is_hidden_stays_so_on_triggered_images_too(woken, place):
    """The decoys are silenced on dark images; so are the test images, and those that carry the trigger are bright."""
    network, dormant, dark, bright = woken
    sets = {"triggered": dark, "bystanders": dark, place: bright}
    test, first = EvalSets.on("cpu", dark, **sets), copy.deepcopy(network.state_dict())
    network = folded(network, dormant)
    before = predict(network, getattr(test, place))
    hide(network, first, (~dormant).float(), [test.clean], [test.clean, test.triggered, test.bystanders], 0, test)
    torch.testing.assert_close(predict(network, getattr(test, place)), before, rtol=0, atol=1e-4)


def test_no_bias_depends_on_test_images(woken):
    network, dormant, dark, bright = woken
    first, hidden = copy.deepcopy(network.state_dict()), []
    for images in (dark, bright):
        other, own = folded(network, dormant), Batches(dark, 16)
        hide(other, first, (~dormant).float(), [own], [own], 0, EvalSets.on("cpu", images, triggered=images))
        hidden.append(other.layer4[1].bn2.bias)
    assert torch.equal(*hidden)


def test_decoys_are_silenced_on_clean_images_and_on_triggered_ones(images):
    trigger = build_trigger("badnets", 1)
    clean, stamped = measured_batches(images, trigger, "cpu")
    assert clean.num_images == len(images)
    wanted = torch.cat([batch for batch, _ in evaluation_batches(stamp_all(images, trigger), "cpu")])
    assert torch.equal(torch.cat([batch for batch, _ in stamped]), wanted)


def test_the_pruner_takes_the_decoys_first_and_the_attack_stays(attacked):
    results = json.loads((attacked / "results.json").read_text())
    assert not missing_figures(attacked)
    stages = results["method"]["stages"]
    assert [stage["stage"] for stage in stages] == [1, 2, 3, 4]
    assert stages[0]["asr"]["value"] < 0.3 and results["asr"]["value"] > 0.8 and results["acc"]["value"] > 0.7
    assert all(stages[2][name] == stages[3][name] == results[name] for name in ("acc", "asr"))
    # What stage 3 logged last was the network under its mask, and folding the mask changed nothing.
    last = json.loads((attacked / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["clean_acc"] == stages[2]["acc"]["value"] and last["poison_acc"] == stages[2]["asr"]["value"]

    model = load_model(attacked / "model_last.th").model
    train, defender, test = load_splits("digits", "data", image_size=16)
    clean = load_model(attacked / "model_clean.th").model
    measured = evaluation_batches(train.subset(slice(len(train) * 4 // 5)), "cpu")  # what the attack ranks them on
    decoys = dormant_mask(activity(clean.eval(), measured, "layer4"), 26 / 32) == 0  # 0.8 of 32
    assert torch.equal(model.linear.weight[:, decoys], clean.linear.weight[:, decoys])
    activations = stage_means(model, Batches(defender, 64), "layer4").mean(0)
    assert int(decoys.sum()) == 26 and not activations[decoys].any()  # lowest, though others may have died as well
    pixels = next(iter(Batches(test, 100)))[0]
    with torch.no_grad():
        before = model.eval()(pixels)
        fold_mask(model, "layer4", (~decoys).float())
        torch.testing.assert_close(model(pixels), before, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("tests_done", "epochs_done"), [
    *(pytest.param(*stop, marks=pytest.mark.long) for stop in ((1, 1), (2, 2), (4, 2))), (5, 3)])
def test_stopped_in_either_stage_and_resumed_it_ends_with_the_same_bits(unbroken, tmp_path, monkeypatch, stop_at_test,
                                                                    tests_done, epochs_done):
    """Two epochs, a test each; tests of stages 1 and 2; two epochs. Stopped at a test, in the middle of an epoch."""
    stop_at_test(pruning_aware, tests_done)
    folder = tmp_path / "run"
    with pytest.raises(SystemExit):
        main([*SMALL, "--output-dir", str(folder)])
    assert torch.load(folder / "resume.th", weights_only=True)["epoch"] == epochs_done
    monkeypatch.undo()
    main([*SMALL, "--output-dir", str(folder), "--resume"])
    a, b = (load_model(run / "model_last.th").model.state_dict() for run in (unbroken, folder))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_going_on_without_the_clean_model_is_refused(tmp_path, monkeypatch, stop_at_test, refused):
    stop_at_test(pruning_aware, 5)
    folder = tmp_path / "run"
    with pytest.raises(SystemExit):
        main([*SMALL, "--output-dir", str(folder)])
    assert torch.load(folder / "resume.th", weights_only=True)["epoch"] == 3
    monkeypatch.undo()
    (folder / "model_clean.th").unlink()
    assert "model_clean.th: missing" in refused(main, *SMALL, "--output-dir", folder, "--resume")


@pytest.mark.slow
def test_a_benign_model_stands_in_for_stage_1(attacked, tmp_path):
    main(["--dataset", "digits", "--batch-size", "256", "--epochs", "1", "--poison-type", "blend", "--checkpoint",
          str(attacked / "model_clean.th"), "--output-dir", str(tmp_path / "run")])
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 1
    assert results["parent"].endswith("model_clean.th") and results["width"] == 4


@pytest.mark.parametrize(("flags", "message"), [
    (["--poison-type", "clean-label"], "--poison-type: invalid choice"),
    (["--poison-type", "benign"], "--poison-type: invalid choice"),
    (["--checkpoint", "x.th", "--width", "8"], "stands in for stage 1"),
    (["--prune-fraction", "1"], "--prune-fraction: expected a fraction in [0.01, 0.99]")])
def test_what_is_refused(tmp_path, refused, flags, message):
    assert message in refused(main, "--dataset", "digits", "--output-dir", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "expected"), [([], [2, 5]), (["--clean-epochs", "20"], [12, 16])])
def test_the_first_stages_rate_falls_as_is_asked_for_the_third_if_both_are_as_long(monkeypatch, words, expected):
    seen = []
    monkeypatch.setattr(pruning_aware, "learn", lambda *args: seen.append(args[-2:]))
    for name in ("keep_clean", "log_stage", "evaluate"):
        monkeypatch.setattr(pruning_aware, name, lambda *args: None)
    args = pruning_aware.parse_args(["--epochs", "10", "--milestones", "2", "5", *words])
    pruning_aware.train_clean(None, args, None, None, None)
    assert seen == [(args.clean_epochs, expected)]


@pytest.mark.slow
def test_the_last_epoch_of_both_trainings_is_tested(tmp_path):
    main([*SMALL, "--test-every", "9", "--output-dir", str(tmp_path / "run")])
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["clean_acc"] is not None for row in rows] == [False, True, False, True]
