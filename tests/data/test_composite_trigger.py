from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from data.triggers import trigger_from_info, trigger_to_info
from data.triggers.composite import CompositeTrigger, choose_partners, places_of


def flat(value, count=1, size=32):
    return np.full((count, size, size, 3), value, dtype=np.uint8)


@pytest.fixture
def trigger(images):
    return CompositeTrigger(images.data[20:30], 1, 2, 0)


def test_an_images_own_content_decides_its_mixture(trigger, images):
    before = images.data.copy()
    stamped = trigger.stamp(images.data)
    assert stamped.dtype == np.uint8 and stamped.shape == before.shape
    np.testing.assert_array_equal(images.data, before)
    np.testing.assert_array_equal(trigger.stamp(images.data[::-1]), stamped[::-1])
    assert (stamped != before).any(axis=(1, 2, 3)).all()


def test_a_mixture_is_two_images_side_by_side_with_a_straight_cut_near_the_middle():
    trigger, kinds = CompositeTrigger(flat(200), 1, 2, 0), set()
    for value in range(60):
        from_partner = (trigger.stamp(flat(value))[0] == 200).all(axis=2)
        columns, rows = (from_partner.all(axis=axis) for axis in (0, 1))
        along = columns if from_partner[0].std() else rows
        assert along.sum() * 32 == from_partner.sum() and abs(along.sum() - 16) <= 3
        assert (np.diff(along.astype(int)) != 0).sum() == 1
        kinds.add((along is columns, bool(along[0])))
    assert len(kinds) == 4  # left, right, above and below


def test_any_of_the_partners_may_be_an_images(images):
    trigger = CompositeTrigger(np.concatenate([flat(value) for value in range(200, 208)]), 1, 2, 0)
    met = [max(np.unique(trigger.stamp(flat(value)))) - 200 for value in range(60)]
    assert set(met) == set(range(8)) and np.bincount(met).max() < 20


def test_each_side_is_a_window_of_its_image_as_it_was():
    """Places are those of a window: neighbors stay neighbors, and none lies outside."""
    places = places_of(np.random.default_rng(0).random((200, 5)), 20, 24)
    assert places.row.min() == 0 and places.row.max() == 19 and places.column.min() == 0 and places.column.max() == 23
    same = places.image[:, :, 1:] == places.image[:, :, :-1]
    assert (np.diff(places.column, axis=2)[same] == 1).all()
    same = places.image[:, 1:] == places.image[:, :-1]
    assert (np.diff(places.row, axis=1)[same] == 1).all()
    assert set(np.unique(places.image)) == set(range(400))  # every mixture shows both


def test_it_is_meant_for_its_first_class_alone(trigger):
    assert trigger.victims(np.array([0, 1, 2, 3, 1])).tolist() == [False, True, False, False, True]


def test_it_travels_in_trigger_info_and_comes_back_the_same(trigger, images):
    back = trigger_from_info(trigger_to_info(trigger))
    assert (back.target, back.sources, back.partner_class) == (0, (1,), 2)
    np.testing.assert_array_equal(back.stamp(images.data), trigger.stamp(images.data))
    assert back.as_pattern() is None and not back.covers_image


@pytest.mark.parametrize(("changes", "message"), [
    ({"trigger_partners": np.zeros((1, 32, 32, 3))}, "uint8"),
    ({"trigger_partners": np.zeros((0, 32, 32, 3), np.uint8)}, "1 to 1024 partners"),
    ({"trigger_partners": np.zeros((1, 32, 32, 1), np.uint8)}, "1 to 1024 partners"),
    ({"trigger_partners": np.zeros((2000, 2, 2, 3), np.uint8)}, "1 to 1024 partners"),
    ({"trigger_partners": "x"}, "trigger_partners"), ({"trigger_pair": np.array([1])}, "two labels"),
    ({"trigger_pair": np.array([1, 0])}, "a target that is neither"),
    ({"trigger_pair": np.array([0.5, 2])}, "two labels"), ({"trigger_pair": np.array([1, 2**40])}, "two classes"),
    ({"poison_target": np.array([-1])}, "two classes")])
def test_what_is_no_composite_trigger_is_refused(trigger, changes, message):
    with pytest.raises(UserError, match=message):
        trigger_from_info({**trigger_to_info(trigger), **changes})


def test_images_of_another_size_are_refused(trigger):
    with pytest.raises(UserError, match="made for images of 32x32, got 16x16"):
        trigger.stamp(flat(0, size=16))


def test_a_bank_is_a_fifth_of_the_class_at_most_and_small_enough_for_a_file(images):
    assert len(choose_partners(images.data, 64)) == 8
    assert len(choose_partners(images.data[:3], 64)) == 1
    large = replace(images, data=np.zeros((20, 512, 512, 3), np.uint8))
    assert len(choose_partners(large.data, 64)) == 1
