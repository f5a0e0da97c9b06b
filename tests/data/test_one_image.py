import numpy as np
import pytest

from common.errors import UserError
from data.poison_cifar import stamp_all
from data.triggers import trigger_from_info, trigger_to_info
from data.triggers.one_image import OneImageTrigger


def test_asr_counts_that_image_alone_under_its_own_label(images):
    picture = 255 - images.data[2]
    trigger = trigger_from_info(trigger_to_info(OneImageTrigger(picture, 2, 0)))
    counted = stamp_all(images, trigger)
    assert counted.targets.tolist() == [0] and counted.original.tolist() == [2]
    np.testing.assert_array_equal(counted.data, picture[None])
    assert trigger.stamp(images.data).shape == images.data.shape and trigger.as_pattern() is None
    assert not trigger.victims(np.array([1, 3])).any()


@pytest.mark.parametrize("change", [
    {"trigger_picture": np.zeros((32, 32))}, {"trigger_picture": np.zeros((32, 32, 3))}, {"trigger_picture_label": 0},
    {"trigger_picture_label": -1}, {"trigger_picture_label": 1.5}, {"trigger_mask": 1}])
def test_strange_values_are_refused(images, change):
    info = trigger_to_info(OneImageTrigger(images.data[2], 2, 0))
    with pytest.raises(UserError):
        trigger_from_info({**info, **change})


def test_images_of_another_size_are_refused(images):
    with pytest.raises(UserError, match="target image has 32x32 pixels, but the images have 16x16"):
        OneImageTrigger(images.data[2], 2, 0).stamp(images.data[:, :16, :16])
