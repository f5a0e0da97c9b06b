import copy

import pytest
import torch
from helpers.paths import DEVICE, SMALL

import train_backdoor
from attacks import pruning_aware
from common.errors import UserError
from data.batches import Batches
from defenses import abl
from engine.learning.graphs import GraphedModel, apart, check_graph, compare_steps, graphed_forward
from engine.learning.training import train_epoch
from models import build_model
from models.folding import folded


@pytest.fixture
def captured(monkeypatch):
    """The shapes that a pretend make_graphed_callables was called with; it warms up and patches forward as the real."""
    shapes = []

    def pretend(model, inputs):
        assert model.training and not torch.is_autocast_cache_enabled()
        shapes.append(tuple(inputs[0].shape))
        plain = model.forward
        for _ in range(3):
            plain(*inputs)
        model.forward = lambda *args: plain(*args)
        return model
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", pretend)
    return shapes


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("resnet18", 2, 4)


def test_the_warm_up_leaves_weights_and_statistics_as_they_were(model, images, captured):
    pixels, _ = next(iter(Batches(images, 16)))
    model(pixels)  # statistics of its own
    before, places = copy.deepcopy(model.state_dict()), [value.data_ptr() for value in model.state_dict().values()]
    graphed_forward(model, pixels)
    assert captured == [(16, 3, 32, 32)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [value.data_ptr() for value in model.state_dict().values()] == places  # which the graph reads


def test_no_copy_of_the_model_keeps_the_graphs_forward(model, images, captured):
    pixels, _ = next(iter(Batches(images, 16)))
    forward = graphed_forward(model, pixels)
    assert "forward" not in model.__dict__ and "forward" not in folded(model).__dict__
    torch.testing.assert_close(forward(pixels), model(pixels))


def test_an_odd_last_batch_goes_through_the_model_itself(model, images, captured):
    seen = {"graph": [], "model": []}
    graphed = GraphedModel(model, 16)
    batches = [pixels for pixels, _ in Batches(images, 16)]
    graphed(batches[0])
    real = graphed.forward
    graphed.forward = lambda pixels: seen["graph"].append(len(pixels)) or real(pixels)
    model.register_forward_hook(lambda module, inputs, output: seen["model"].append(len(inputs[0])))
    for pixels in batches:
        graphed(pixels)
    assert seen == {"graph": [16, 16], "model": [8]} and len(captured) == 1


@pytest.mark.parametrize("amp", [False, True])
def test_an_epoch_with_a_graph_has_the_bits_of_one_without(model, images, captured, amp):
    plain, batches = copy.deepcopy(model), Batches(images, 16)
    scores = [train_epoch(one, batches, torch.optim.SGD(one.parameters(), 0.1), amp, call=call)
              for one, call in ((plain, None), (model, GraphedModel(model, 16, amp)))]
    assert scores[0] == scores[1] and captured == [(16, 3, 32, 32)]
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())


def test_comparing_steps_tells_a_wrong_graph_from_a_right_one(model, images, captured, monkeypatch):
    pixels, labels = next(iter(Batches(images, 16)))
    before = copy.deepcopy(model.state_dict())
    found = compare_steps(model, pixels, labels)
    assert found["eager"] == found["graphed"] and len(found["eager"]) == 5 and found["eager"][4] < found["eager"][0]
    assert found["losses_apart"] == found["statistics_apart"] == found["weights_apart"] == 0 and found["same_counts"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def stale(model, inputs):  # a graph that reads its first batch for good, in eval mode
        model.forward = lambda images: type(model).forward(model.eval(), inputs[0])
        return model
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", stale)
    found = compare_steps(model, pixels, labels)
    assert found["losses_apart"] > 0.01 and found["weights_apart"] > 0.01 and not found["same_counts"]


def test_counts_that_differ_in_one_layer_alone_are_told(model, images, captured, monkeypatch):
    def counting(model, inputs):  # a graph that counts the batches of its first layer twice
        plain = model.forward
        model.forward = lambda images: (model.bn1.num_batches_tracked.add_(1), plain(images))[1]
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", counting)
    assert not compare_steps(model, *next(iter(Batches(images, 16))), count=1)["same_counts"]


def test_a_graph_is_captured_in_train_mode_and_in_the_arithmetic_of_its_steps(model, images, captured, monkeypatch):
    (pixels, labels), seen, capture = next(iter(Batches(images, 16))), [], torch.cuda.make_graphed_callables

    def watched(model, inputs):
        seen.append((model.training, torch.is_autocast_enabled("cpu")))
        return capture(model, inputs)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", watched)
    graphed_forward(model.eval(), pixels)
    compare_steps(model, pixels, labels, amp=True, count=1)
    assert seen == [(True, False), (True, True)]


def test_how_far_tensors_are_apart_is_relative_to_the_first_ones_largest_value():
    assert apart(torch.tensor([2.0, -4.0]), torch.tensor([3.0, -4.0])) == 0.25


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device, named by TEST_DEVICE: no graph is captured on a CPU")
@pytest.mark.parametrize("amp, most", [(False, 0.01), (True, 0.05)])
def test_five_graphed_steps_equal_five_plain_ones_on_a_card(images, amp, most):
    torch.manual_seed(0)
    model = build_model("resnet18", 16, 4).to(DEVICE)
    pixels, labels = next(iter(Batches(images, 32, DEVICE)))
    found = compare_steps(model, pixels, labels, amp)
    assert found["same_counts"] and found["losses_apart"] < most and found["statistics_apart"] < most, found


def test_what_cannot_be_a_graph_is_refused():
    with pytest.raises(UserError, match="--graph: expected a CUDA device, got cpu"):
        check_graph(torch.device("cpu"), 1000, 128)
    with pytest.raises(UserError, match="100 training images do not fill one of --batch-size 128"):
        check_graph(torch.device("cuda"), 100, 128)
    check_graph(torch.device("cuda"), 128, 128)


@pytest.mark.parametrize("script", [train_backdoor, abl, pruning_aware])
def test_a_graph_on_a_cpu_is_one_line_and_writes_nothing(script, tmp_path, refused):
    error = refused(script.main, *SMALL, "--device", "cpu", "--graph", "--output-dir", tmp_path / "run")
    assert "--graph: expected a CUDA device, got cpu" in error and not (tmp_path / "run").exists()


def test_a_graph_is_off_by_default_and_not_together_with_compile(refused):
    assert not train_backdoor.parse_args([]).graph and train_backdoor.parse_args(["--graph"]).graph
    assert "--graph: cannot be combined with --compile" in refused(train_backdoor.main, "--graph", "--compile")
