import copy
import json

import pytest
import torch

from common.errors import UserError
from data.batches import Batches
from defenses import nad
from defenses.nad import attention, betas_of, count_places, distance, distillation_step, main, parse_args
from engine.learning.training import cross_entropy_step, train_epoch
from engine.weights.checkpoint import load_model
from models import build_model

COMMON = ["--dataset", "digits", "--teacher-epochs", "1", "--epochs", "2", "--batch-size", "32"]


@pytest.fixture
def features():
    return torch.rand(3, 5, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.3


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("resnet18", 2, 4)


def run(folder, out, *flags):
    main(["--checkpoint", str(folder / "model_last.th"), *COMMON, "--output-dir", str(out), *flags])
    return json.loads((out / "results.json").read_text())


def test_attention_is_a_map_of_unit_norm_that_neither_scale_nor_the_order_of_channels_changes(features):
    maps = attention(features)
    assert maps.shape == (3, 16) and torch.allclose(maps.norm(dim=1), torch.ones(3))
    assert distance(features, 7 * features) < 1e-12
    assert distance(features, features[:, [3, 1, 4, 0, 2]]) < 1e-12
    assert distance(features, features.flip(2)) > 1e-4
    assert torch.allclose(maps, torch.nn.functional.normalize((features**2).sum(1).flatten(1)))


def test_the_loss_of_a_step_is_cross_entropy_and_each_stage_times_its_weight(network, images):
    teacher = build_model("resnet18", 2, 4).eval().requires_grad_(False)
    pixels, labels = next(iter(Batches(images, 8)))
    network.eval()
    seen, taught = (model.stage_outputs(pixels, 4) for model in (network, teacher))
    expected = torch.nn.functional.cross_entropy(network(pixels), labels)
    expected += 3 * distance(seen[1], taught[1]) + 50 * distance(seen[3], taught[3])
    loss, logits = distillation_step(teacher, dict(zip(network.stages, (0, 3, 0, 50), strict=True)))(
        network, pixels, labels)
    assert torch.allclose(loss, expected) and torch.equal(logits, network(pixels))


def test_without_weights_it_is_fine_tuning_to_the_bit_and_with_them_the_teacher_stays_as_it_is(network, images):
    teacher = build_model("resnet18", 2, 4).eval().requires_grad_(False)
    kept = copy.deepcopy(teacher.state_dict())

    def trained(step):
        model = copy.deepcopy(network)
        batches = Batches(images.subset(slice(8)), 4, generator=torch.Generator().manual_seed(1), flip=True)
        train_epoch(model, batches, torch.optim.SGD(model.parameters(), 0.05, 0.9), step=step)
        return model.state_dict()
    plain = trained(cross_entropy_step)
    without, taught = (trained(distillation_step(teacher, dict.fromkeys(network.stages, beta))) for beta in (0.0, 9.0))
    assert all(torch.equal(plain[name], without[name]) for name in plain)
    assert not torch.equal(plain["conv1.weight"], taught["conv1.weight"])
    assert all(torch.equal(kept[name], value) for name, value in teacher.state_dict().items())


def test_the_weights_are_those_of_the_last_stages():
    places = {"a": 64, "b": 16, "c": 4, "d": 4}
    assert betas_of(places, None) == {"a": 0, "b": 500, "c": 500, "d": 500}
    assert betas_of(places, [7.0]) == {"a": 0, "b": 0, "c": 0, "d": 7}
    assert betas_of({"a": 4, "b": 4}, None) == {"a": 500, "b": 500}
    with pytest.raises(UserError, match="--betas: expected at most one for each of the 2 stages"):
        betas_of({"a": 4, "b": 4}, [1.0, 2.0, 3.0])


def test_counting_places_leaves_a_model_as_it_was_and_takes_a_last_stage_of_one_pixel(network):
    before = copy.deepcopy(network.train().state_dict())
    assert list(count_places(network, 8).values()) == [64, 16, 4, 1]
    assert network.training and all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_stage_of_one_place_gets_no_weight_by_default_and_a_warning_for_a_given_one(caplog):
    network = build_model("vgg19_bn", 4, 10)
    assert list(count_places(network, 64).values()) == [1024, 256, 64, 16, 4]
    places = count_places(network, 32)
    assert list(places.values()) == [256, 64, 16, 4, 1]
    assert list(betas_of(places, None).values()) == [0, 500, 500, 500, 0]
    assert not caplog.records
    assert list(betas_of(places, [5.0, 7.0]).values()) == [0, 0, 0, 5, 7]
    assert "the weight of features.52 has no effect" in caplog.text


@pytest.mark.slow
def test_the_teachers_figures_are_the_control_and_a_stopped_run_ends_with_the_same_bits(
        small_run, tmp_path, monkeypatch, stop_at_test):
    taught, real = [], distillation_step
    monkeypatch.setattr(nad, "distillation_step", lambda *args: taught.append(args[0]) or real(*args))
    whole = run(small_run, tmp_path / "whole", "--milestones", "1")
    left, teacher = load_model(tmp_path / "whole/teacher.th").model.state_dict(), taught[0]
    assert not teacher.training
    assert all(torch.equal(left[name], value) for name, value in teacher.state_dict().items())
    rates = [json.loads(line)["lr"] for line in (tmp_path / "whole/metrics.jsonl").open()]
    assert rates == pytest.approx([0.1, 0.1, 0.01])  # the teacher's epoch, and two of the student, whose rate falls
    assert whole["method"]["control"]["acc"] == whole["method"]["teacher"]["acc"] != whole["acc"]
    assert whole["epochs"] == 3 and "control, fine-tuning alone: ASR" in (tmp_path / "whole/output.log").read_text()
    stop_at_test(nad, 3)  # after the teacher's epoch, the teacher, and the student's first epoch
    with pytest.raises(SystemExit):
        run(small_run, tmp_path / "stopped", "--milestones", "1")
    monkeypatch.undo()
    run(small_run, tmp_path / "stopped", "--milestones", "1", "--resume")
    for name in ("teacher.th", "model_last.th"):
        a, b = (load_model(tmp_path / folder / name).model.state_dict() for folder in ("whole", "stopped"))
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_what_is_refused(small_run, tmp_path, refused):
    model = ["--checkpoint", small_run / "model_last.th", *COMMON, "--output-dir", tmp_path / "out"]
    assert "one for each of the 4 stages" in refused(main, *model, "--betas", 1, 2, 3, 4, 5)
    assert "--milestones: expected epochs below --epochs 2" in refused(main, *model, "--milestones", 2)
    longer = ["--teacher-epochs", 3, "--milestones", 3]
    assert "--milestones: expected epochs below 3, got 3" in refused(main, *model, *longer)
    assert parse_args(["--teacher-epochs", "4", "--epochs", "2"]).milestones == [2]  # of the teacher's rate
    assert parse_args(["--teacher-epochs", "2", "--epochs", "2"]).milestones == []
    assert "--momentum: expected more than 0" in refused(main, *model, "--momentum", 0)
    assert not (tmp_path / "out").exists()
