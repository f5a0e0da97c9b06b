import numpy as np
import pytest

from common.errors import UserError
from data.datasets import SHUFFLE_FILE
from data.image_set import ImageSet
from data.poison_cifar import (
    add_predefined_trigger_cifar,
    add_trigger_cifar,
    generate_trigger,
    poison_training_set,
    share_of,
    split_dataset,
    stamp_all,
    stamp_share,
)
from data.triggers import build_trigger


class TorchvisionLike:
    """What torchvision's CIFAR10 offers of itself: an array and a list."""

    def __init__(self, image_set):
        self.data, self.targets, self.transform = image_set.data, image_set.targets.tolist(), "kept"


@pytest.fixture(params=["ImageSet", "CIFAR10"])
def either(request, images):
    return images if request.param == "ImageSet" else TorchvisionLike(images)


def test_exactly_the_asked_number_is_stamped_and_relabeled(either):
    before, labels = either.data.copy(), np.array(either.targets)
    poisoned, info = add_trigger_cifar(either, "checkerboard_1corner", 0.25, poison_target=2)
    chosen = info["data_index"]
    assert len(set(chosen)) == len(chosen) == int(0.25 * 30)
    assert (labels[chosen] != 2).all()
    changed = np.flatnonzero(np.array(poisoned.targets) != labels)
    np.testing.assert_array_equal(changed, np.sort(chosen))
    assert (np.array(poisoned.targets)[chosen] == 2).all()
    rest = np.setdiff1d(np.arange(40), chosen)
    np.testing.assert_array_equal(poisoned.data[rest], before[rest])
    assert (poisoned.data[chosen, 31, 31] == 255).all()
    np.testing.assert_array_equal(either.data, before)
    np.testing.assert_array_equal(either.targets, labels)


def test_the_patterns_own_opacity_and_a_rate_that_poisons_none(images):
    _, info = add_trigger_cifar(images, "gaussian_noise", 0.5, 1)
    assert info["trigger_alpha"] == 0.2
    with pytest.raises(UserError, match=r"--poison-rate 0\.01: no image of the 30"):
        add_trigger_cifar(images, "gaussian_noise", 0.01, 1)


def test_an_image_set_knows_what_was_poisoned_and_what_it_was(images):
    poisoned, info = add_trigger_cifar(images, "gaussian_noise", 0.5, 1, trigger_alpha=0.2)
    np.testing.assert_array_equal(np.flatnonzero(poisoned.poisoned), np.sort(info["data_index"]))
    np.testing.assert_array_equal(poisoned.original, images.targets)


def test_the_seed_chooses_the_images(images):
    first, again, other = (add_trigger_cifar(images, "checkerboard_1corner", 0.5, 0, seed=seed)[1]["data_index"]
                           for seed in (1, 1, 2))
    assert (first == again).all() and set(first) != set(other)


def test_asr_is_counted_on_9000_of_10000_by_the_original_label():
    test = ImageSet(np.zeros((10_000, 32, 32, 3), dtype=np.uint8), np.arange(10_000) % 10)
    triggered = stamp_all(test, build_trigger("badnets", 4))
    assert len(triggered) == 9000
    assert (triggered.targets == 4).all() and (triggered.original != 4).all()
    assert (triggered.data[:, 31, 31] == 255).all()


def test_predefined_trigger_on_either_kind(either):
    _, info = add_trigger_cifar(either, "checkerboard_4corner", 0, poison_target=3)
    triggered = add_predefined_trigger_cifar(either, info)
    assert len(triggered.data) == 30 and set(np.array(triggered.targets)) == {3}
    whole = add_predefined_trigger_cifar(either, info, exclude_target=False)
    assert len(whole.data) == 40
    assert add_predefined_trigger_cifar(either, None) is either
    if isinstance(either, TorchvisionLike):
        assert type(triggered.targets) is list and type(triggered.targets[0]) is int and triggered.transform == "kept"


def test_split_takes_the_first_of_the_permutation_for_the_defender(either):
    attacker, defender = split_dataset(either, 0.1, np.arange(40)[::-1])
    np.testing.assert_array_equal(defender.data, either.data[[39, 38, 37, 36]])
    assert len(attacker.targets) == 36


def test_committed_permutation_is_one():
    order = np.loadtxt(SHUFFLE_FILE, dtype=int)
    np.testing.assert_array_equal(np.sort(order), np.arange(50_000))


def test_generate_trigger_shapes_and_unknown_name():
    for name, channels in (("checkerboard_1corner", 1), ("checkerboard_4corner", 1), ("gaussian_noise", 3)):
        pattern, mask = generate_trigger(name)
        assert pattern.shape == (32, 32, channels) and mask.shape == (32, 32, 1)
        assert pattern.dtype == mask.dtype == np.uint8
    with pytest.raises(UserError, match="checkerboard_1corner"):
        generate_trigger("star")


def test_benign_poisons_nothing_but_has_a_trigger_to_measure_with(images):
    train, trigger = poison_training_set(images, "benign", 1, rate=0.5, eval_trigger="clean-label")
    assert train is images
    assert trigger.alpha == 1 and trigger.mask.sum() == 36


@pytest.mark.parametrize(("rate", "count", "expected"), [(0.29, 100, 29), (0.57, 40500, 23085), (0.299, 100, 29),
                                                         (0.05, 45000, 2250), (0.1, 9, 0), (1.0, 7, 7)])
def test_a_share_is_that_of_the_rate_as_written_rounded_down(rate, count, expected):
    assert share_of(rate, count) == expected


def test_alpha_left_alone_is_the_attacks_own(images):
    assert poison_training_set(images, "blend", 0, 0.1)[1].alpha == 0.2
    assert poison_training_set(images, "badnets", 0, 0.1)[1].alpha == 1.0
    assert poison_training_set(images, "blend", 0, 0.1, trigger_alpha=0.5)[1].alpha == 0.5


def test_a_seed_draws_which_share_of_the_images_is_stamped(images):
    triggers = [build_trigger("badnets", 0), build_trigger("blend", 0)]
    first, again, other = (stamp_share(images, triggers, 0.3, seed) for seed in (0, 0, 1))
    assert (first.data == again.data).all() and (first.poisoned != other.poisoned).any()
    assert first.poisoned.sum() == 12 and (first.data[~first.poisoned] == images.data[~first.poisoned]).all()
    assert (first.targets == images.targets).all()
    stamped = [(first.data == trigger.stamp(images.data)).all(axis=(1, 2, 3)).sum() for trigger in triggers]
    assert stamped == [6, 6]
