import numpy as np
import pytest
import torch

from attacks.issba_encoder import read_bits
from attacks.pruning_aware import largest_and_mean
from common import memory
from common.memory import HalvingForward
from data.batches import Batches
from data.image_set import ImageSet
from engine.measuring.evaluation import EvalSets, evaluate, predict
from methods.detox import Compromised, Injectors, judge_injector, mean_activations
from methods.features import features_of
from methods.strip import strip_entropy
from models import build_model
from models.pruning import stage_means
from models.steganography import Decoder


class Small(torch.nn.Module):
    """A device that holds `most` images: a model that runs out of memory on more, and remembers what it did."""

    def __init__(self, most):
        super().__init__()
        self.most, self.done, self.failed = most, [], []

    def forward(self, images):
        if len(images) > self.most:
            self.failed.append(len(images))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.done.append(len(images))
        return images.flatten(1)[:, :4]


@pytest.fixture
def cheap(monkeypatch):
    """`folded` would copy what Small remembers."""
    monkeypatch.setattr("engine.measuring.evaluation.folded", lambda model: model)
    monkeypatch.setattr(memory, "SMALLEST_BATCH", 4)


def test_a_test_that_does_not_fit_goes_on_with_half_the_batch_once_a_halving(images, cheap, caplog):
    model, batches = Small(9), Batches(images, 32)
    with caplog.at_level("WARNING", logger="backdoor"):
        found = predict(model, batches)
    assert torch.equal(found, torch.cat([pixels.flatten(1)[:, :4] for pixels, _ in Batches(images, 40)]))
    assert model.failed == [32, 16] and set(model.done) == {8} and sum(model.done) == 40
    assert [record.getMessage() for record in caplog.records] == [
        f"{size} images at a time do not fit into the device's memory; continuing with {size // 2}"
        for size in (32, 16)]
    predict(model, batches)
    assert model.failed == [32, 16] and batches.batch_size == 8  # what did fit is where the next test begins


def test_below_the_smallest_batch_it_is_the_error_that_it_was(images, cheap):
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        predict(Small(3), Batches(images, 32))
    forward = HalvingForward(Small(4))
    assert len(forward(torch.zeros(9, 3, 2, 2))) == 9 and forward.size == 4


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("resnet18", 2, 4)


@pytest.fixture
def shrink(monkeypatch):
    """From its call on, a network's last layer runs out of memory on more than so many images; returns [images of a
    call]."""
    def limit(most):
        calls, real = [], torch.nn.Linear.forward

        def forward(self, features):
            calls.append(len(features))
            if len(features) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(self, features)
        monkeypatch.setattr(memory, "SMALLEST_BATCH", 4)
        monkeypatch.setattr(torch.nn.Linear, "forward", forward)
        return calls
    return limit


def entropies(model, images):
    """STRIP's, of each image under three others."""
    data = torch.from_numpy(images.data)
    return torch.from_numpy(strip_entropy(model, data, data, np.arange(120).reshape(40, 3) % 40, "average"))


def activations(model, images):
    """DFST's, and how far an injector reaches and how many images it fools."""
    batches, injectors = Batches(images, 40), Injectors(1)
    injectors.add(torch.eye(3, 12), torch.zeros(3))
    found = mean_activations(model, batches)
    hit = Compromised(torch.arange(4), found[:4], found[:4] + 1, 0.0)
    return torch.cat([found, torch.tensor(judge_injector(model, injectors, 0, hit, batches, 0.5, 1))])


def bits(model, images):
    """What ISSBA's decoder reads."""
    torch.manual_seed(0)
    return torch.from_numpy(read_bits(Decoder(4, 4, 32), images, "cpu")).float()


@pytest.mark.parametrize("compute", [
    bits, activations, entropies, lambda model, images: features_of(model, images, "cpu"),
    lambda model, images: stage_means(model, Batches(images, 40), "layer3"),
    lambda model, images: torch.stack(largest_and_mean(model, Batches(images, 40)))],
    ids=["ISSBA", "DFST", "STRIP", "features", "stage", "decoys"])
def test_what_else_looks_at_whole_batches_goes_on_with_less(compute, network, images, shrink):
    whole = compute(network.eval(), images)
    calls = shrink(20)
    halved = compute(network, images)
    assert max(calls) >= 40 and calls[-1] <= 20 and halved.shape == whole.shape
    torch.testing.assert_close(halved, whole, rtol=1e-4, atol=1e-5)


def test_figures_of_a_halved_test_are_those_of_a_whole_one(images, network, shrink):
    whole = evaluate(network, EvalSets.on("cpu", images))
    calls = shrink(20)
    halved = evaluate(network, EvalSets.on("cpu", ImageSet(images.data, images.targets, images.classes)))
    assert calls == [40, 20, 20] and halved.clean.accuracy == whole.clean.accuracy
    assert halved.clean.loss == pytest.approx(whole.clean.loss, rel=1e-5)
