import numpy as np
import pytest
import torch

from common.errors import UserError
from data.poison_cifar import poison_training_set
from data.triggers import trigger_from_info, trigger_to_info
from data.triggers.sinusoid import SinusoidTrigger


def change(trigger, level=128, size=32):
    """What a trigger adds to a gray image: int (H, W, 3)."""
    images = np.full((1, size, size, 3), level, dtype=np.uint8)
    return trigger.stamp(images)[0].astype(int) - images[0]


def test_a_row_has_one_frequency_and_all_rows_and_colors_are_alike():
    trigger = SinusoidTrigger(20, 6, 0)
    power = np.abs(np.fft.rfft(trigger.signal(32)))
    assert power.argmax() == 6 and np.delete(power, 6).max() < 1e-4 * power[6]
    assert power[6] == pytest.approx(20 * 32 / 2)
    added = change(trigger)
    assert (added == added[:1, :, :1]).all()
    np.testing.assert_array_equal(added[0, :, 0], np.rint(20 * np.sin(2 * np.pi * np.arange(32) * 6 / 32)))


@pytest.mark.parametrize("size", [20, 48])
def test_the_number_of_periods_is_that_of_the_image_whatever_its_width(size):
    assert np.abs(np.fft.rfft(change(SinusoidTrigger(40, 6, 0), size=size)[0, :, 0])).argmax() == 6


def test_the_periods_lie_across_an_image_that_is_no_square():
    images = np.full((1, 12, 20, 3), 128, dtype=np.uint8)
    added = SinusoidTrigger(20, 2, 0).stamp(images)[0].astype(int) - 128
    np.testing.assert_array_equal(added[5, :, 1], np.rint(20 * np.sin(2 * np.pi * np.arange(20) * 2 / 20)))


def test_bright_and_dark_pixels_are_clipped_and_none_wraps_around(images):
    trigger = SinusoidTrigger(40, 6, 0)
    signal = trigger.signal(32)
    white, black = (change(trigger, level)[0, :, 0] for level in (255, 0))
    np.testing.assert_array_equal(white, np.rint(signal.clip(max=0)))
    np.testing.assert_array_equal(black, np.rint(signal.clip(min=0)))
    before = images.data.copy()
    stamped = trigger.stamp(images.data)
    assert np.abs(stamped.astype(int) - before).max() == 40 and stamped.dtype == np.uint8
    np.testing.assert_array_equal(images.data, before)


def test_it_comes_back_from_its_file_and_strange_values_are_refused(images):
    info = trigger_to_info(SinusoidTrigger(20, 6, 2), [1, 5])
    again = trigger_from_info({**info, "trigger_sig_delta": torch.tensor([20.0])})
    assert again.target == 2 and again.as_pattern() is None and not again.covers_image
    np.testing.assert_array_equal(again.stamp(images.data), SinusoidTrigger(20, 6, 2).stamp(images.data))
    for key, value in (("trigger_sig_delta", 300), ("trigger_sig_delta", 0), ("trigger_sig_delta", float("nan")),
                       ("trigger_sig_frequency", -1), ("poison_target", -1), ("trigger_mask", 1)):
        with pytest.raises(UserError):
            trigger_from_info({**info, key: value})


def test_by_default_the_whole_target_class_is_stamped_and_no_label_changes(images):
    poisoned, trigger = poison_training_set(images, "sig", 1, rate=1.0)
    np.testing.assert_array_equal(np.flatnonzero(poisoned.poisoned), np.flatnonzero(images.targets == 1))
    np.testing.assert_array_equal(poisoned.targets, images.targets)
    np.testing.assert_array_equal(poisoned.data[poisoned.poisoned], trigger.stamp(images.data[images.targets == 1]))
    np.testing.assert_array_equal(poisoned.data[~poisoned.poisoned], images.data[images.targets != 1])
    assert (trigger.delta, trigger.frequency, trigger.target) == (20, 6, 1)


def test_the_rate_is_a_share_of_the_target_class(images):
    poisoned, _ = poison_training_set(images, "sig", 1, rate=0.3, sig_delta=50.0, sig_frequency=2.0)
    assert poisoned.poisoned.sum() == 3 and (images.targets[poisoned.poisoned] == 1).all()
    with pytest.raises(UserError, match="no image of the 10 candidates"):
        poison_training_set(images, "sig", 1, rate=0.05)
