"""Triggers with another aim than one target for images of all other classes: all-to-all, and of some sources alone."""
import numpy as np
import pytest
import torch

from common.errors import UserError
from data.poison_cifar import (
    add_predefined_trigger_cifar,
    poison,
    poison_training_set,
    stamp_all,
    stamp_bystanders,
)
from data.triggers import ATTACKS, Trigger, build_trigger, trigger_from_info, trigger_to_info

LABELS = np.arange(8) % 4


def next_one(**aim):
    return build_trigger("badnets", None, num_classes=4, **aim)


@pytest.mark.parametrize("trigger, wanted, victims, bystanders", [
    (build_trigger("badnets", 2), [2, 2, 2, 2], [1, 1, 0, 1], [0, 0, 0, 0]),
    (build_trigger("badnets", 2, sources=(0, 3)), [2, 2, 2, 2], [1, 0, 0, 1], [0, 1, 0, 0]),
    (next_one(), [1, 2, 3, 0], [1, 1, 1, 1], [0, 0, 0, 0]),
    (next_one(sources=(3,)), [1, 2, 3, 0], [0, 0, 0, 1], [1, 1, 1, 0])])
def test_a_trigger_says_of_each_label_what_is_wanted_and_whether_it_is_meant_for_it(
        trigger, wanted, victims, bystanders):
    assert trigger.wanted(LABELS).tolist() == 2 * wanted and trigger.wanted(LABELS).dtype == np.int64
    assert trigger.victims(LABELS).tolist() == 2 * list(map(bool, victims))
    assert trigger.bystanders(LABELS).tolist() == 2 * list(map(bool, bystanders))


@pytest.mark.parametrize("aim, classes, number", [
    ({"target": None}, {0, 1, 2, 3}, 20), ({"target": 1}, {0, 2, 3}, 15),
    ({"target": 1, "sources": (0, 3)}, {0, 3}, 10), ({"target": None, "sources": (3,)}, {3}, 5)])
def test_half_of_the_victims_and_no_other_images_are_stamped_and_given_what_is_wanted(images, aim, classes, number):
    poisoned, trigger = poison_training_set(images, "badnets", rate=0.5, seed=2, **aim)
    chosen = np.flatnonzero(poisoned.poisoned)
    assert len(chosen) == number and set(images.targets[chosen]) <= classes
    expected = images.targets[chosen]
    expected = (expected + 1) % 4 if aim["target"] is None else np.full(number, 1)
    assert poisoned.targets[chosen].tolist() == expected.tolist()
    assert (poisoned.data[chosen] == trigger.stamp(images.data[chosen])).all()
    rest = ~poisoned.poisoned
    assert (poisoned.data[rest] == images.data[rest]).all() and (poisoned.targets[rest] == images.targets[rest]).all()


def test_asr_counts_by_the_label_before_poisoning(images):
    """An image of class 3 that was poisoned to 0 is wanted as 0 still, not as 1."""
    poisoned, _ = poison(images, next_one(), 1.0)
    stamped = stamp_all(poisoned, next_one())
    assert (stamped.targets == (images.targets + 1) % 4).all() and (stamped.original == images.targets).all()


def test_stamped_images_of_other_classes_have_the_label_that_they_should_not_get(images):
    others = stamp_bystanders(images, build_trigger("badnets", 2, sources=(0, 3)))
    assert set(others.original) == {1} and set(others.targets) == {2} and len(others) == 10
    assert (others.data[:, 31, 31] == 255).all()
    for everyones in (build_trigger("badnets", 2), next_one()):
        assert stamp_bystanders(images, everyones) is None
    assert len(add_predefined_trigger_cifar(images, trigger_to_info(next_one(sources=(3,))), False).data) == 40


@pytest.mark.parametrize("trigger, targets, sources", [
    (build_trigger("badnets", 2), [2], None), (build_trigger("blend", 2, sources=(0, 3)), [2], [0, 3]),
    (next_one(), [1, 2, 3, 0], None), (next_one(sources=(1,)), [1, 2, 3, 0], [1])])
def test_the_file_has_the_homeworks_keys_and_sources_beside_them_and_comes_back(trigger, targets, sources):
    info = trigger_to_info(trigger)
    assert info["poison_target"].tolist() == targets
    assert (info["sources"].tolist() if "sources" in info else None) == sources
    again = trigger_from_info(info)
    assert (again.target, again.sources, again.num_classes) == (trigger.target, trigger.sources, trigger.num_classes)
    for ask in (Trigger.wanted, Trigger.victims, Trigger.bystanders):
        assert ask(again, LABELS).tolist() == ask(trigger, LABELS).tolist()


@pytest.mark.parametrize("key, value, aim", [
    ("poison_target", torch.tensor([1, 2, 3, 0]), (None, None, 4)), ("poison_target", [1.0, 0.0], (None, None, 2)),
    ("poison_target", (np.arange(10) + 1) % 10, (None, None, 10)), ("poison_target", [[3, 3, 3]], None),
    ("sources", 3, (2, (3,), None)), ("sources", [5, 3, 5], (2, (3, 5), None)), ("sources", "3", (2, (3,), None)),
    ("sources", torch.tensor([[4.0]]), (2, (4,), None)), ("sources", None, (2, None, None))])
def test_what_says_an_aim_in_another_programs_form_is_read(key, value, aim):
    if aim is None:
        value, aim = np.array(value), (3, None, None)
    read = trigger_from_info(trigger_to_info(build_trigger("badnets", 2)) | {key: value})
    assert (read.target, read.sources, read.num_classes) == aim


@pytest.mark.parametrize("change, named", [
    ({"poison_target": np.arange(10)}, r"poison_target has 10 values, expected one, or for all-to-all the next label"),
    ({"poison_target": [2, 3, 0, 1]}, "got 2, 3, 0, 1"), ({"poison_target": [1, 2, 3, 4]}, "has 4 values"),
    ({"poison_target": [1.5, 0]}, "poison_target is float64"), ({"poison_target": [1, np.nan]}, "is float64"),
    ({"poison_target": np.ones((1, 4), bool) ^ np.eye(4, dtype=bool)[:1]}, "poison_target is bool"),
    ({"sources": "cat"}, "sources: 'cat' in place of a number"), ({"sources": ["cat", "dog"]}, "sources"),
    ({"sources": [-1]}, "expected sources that are labels of at least 0, got -1"), ({"sources": []}, "got none"),
    ({"sources": [0.5]}, "sources is float64"), ({"sources": [1, 2]}, "its target 2 is among its sources"),
    ({"sources": [4], "poison_target": [1, 2, 3, 0]}, "at least 0 and below 4, got 4"),
    ({"sources": {"a": 1}}, "sources: dict in place of an array"), ({"sources": np.zeros(2**22)}, "4194304 values"),
    ({"poison_source": [3]}, "has no poison_source")])
def test_an_aim_that_cannot_be_one_is_refused_by_name(change, named):
    with pytest.raises(UserError, match=named):
        trigger_from_info(trigger_to_info(build_trigger("badnets", 2)) | change)


def test_a_kind_of_trigger_without_sources_is_not_read_with_them():
    from data.triggers.encoder import EncoderTrigger
    from models.steganography import Encoder
    info = EncoderTrigger(Encoder(4, 4, 32).state_dict(), np.array([0, 1, 1, 0], np.uint8), 2).to_info()
    assert trigger_from_info(info).target == 2
    with pytest.raises(UserError, match="a trigger with trigger_encoder has no sources"):
        trigger_from_info(info | {"sources": [3]})
    with pytest.raises(UserError, match="poison_target has 4 values"):
        trigger_from_info(info | {"poison_target": [1, 2, 3, 0]})


def test_the_flags_are_for_rows_that_stamp_their_own_picture():
    assert {name for name in ("benign", "badnets", "blend", "clean-label", "issba") if ATTACKS[name].is_static} == {
        "badnets", "blend"}
