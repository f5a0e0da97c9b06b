import numpy as np
import pytest
import torch

from data.image_set import ImageSet
from methods.batch_statistics import StatisticsBatches, recalibrated
from models import build_model


def white(count):
    """`count` white images of 8 x 8 pixels."""
    return ImageSet(np.full((count, 8, 8, 3), 255, dtype=np.uint8), np.arange(count), tuple(map(str, range(count))))


@pytest.mark.parametrize(("count", "sizes"), [(32, [32]), (129, [65, 64]), (500, [125] * 4)])
def test_batches_have_like_sizes_as_they_are_weighted_alike(count, sizes):
    batches = StatisticsBatches(white(count), 128, "cpu", 4, True, 0)
    assert [len(labels) for _, labels in batches] == sizes
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(count))


def test_images_are_cropped_as_in_training_by_the_same_draws_in_every_pass():
    batches = StatisticsBatches(white(40), 20, "cpu", 2, False, 0)
    first, second = (torch.cat([images for images, _ in batches]) for _ in range(2))
    assert torch.equal(first, second)
    assert 0.62 < first.mean() < 0.82  # of 64 pixels (8 - 6/5) squared stay white, on average
    other = torch.cat([images for images, _ in StatisticsBatches(white(40), 20, "cpu", 2, False, 1)])
    assert not torch.equal(first, other)
    assert torch.cat([images for images, _ in StatisticsBatches(white(40), 20, "cpu", 0, False, 0)]).min() == 1


@pytest.mark.parametrize("flip", [True, False])
def test_some_images_are_mirrored_if_training_mirrors(flip):
    images = white(40)
    images.data[:, :, 4:] = 0  # white on their left
    seen = torch.cat([pixels for pixels, _ in StatisticsBatches(images, 20, "cpu", 0, flip, 0)])
    mirrored = int((seen[:, 0, 0, 0] == 0).sum())
    assert 8 < mirrored < 32 if flip else mirrored == 0


def test_recalibrating_takes_the_statistics_of_the_images_and_leaves_the_model_alone():
    torch.manual_seed(0)
    net, images = build_model("resnet18", 4, 10), 2 * torch.rand(8, 3, 32, 32)
    before = net.bn1.running_var.clone()
    anew = recalibrated(net, [(images, None)])
    seen = net.conv1((images - net.mean) / net.std)
    assert not anew.training and torch.allclose(anew.bn1.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.equal(net.bn1.running_var, before) and not torch.allclose(anew.bn1.running_var, before)
