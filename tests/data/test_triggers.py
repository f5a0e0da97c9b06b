import itertools

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.make_fixed_files import noise_picture
from data.triggers import (
    PatternTrigger,
    build_trigger,
    checkerboard_1corner,
    gaussian_noise,
    read_trigger_image,
    trigger_from_info,
    trigger_to_info,
)

BADNETS = [[0, 0, 255], [0, 255, 0], [255, 0, 255]]


def test_badnets_sets_nine_pixels_to_its_pattern_and_no_other(images):
    stamped = build_trigger("badnets", 0).stamp(images.data)
    for channel in range(3):
        np.testing.assert_array_equal(stamped[:, 29:, 29:, channel], np.broadcast_to(BADNETS, (40, 3, 3)))
    changed = (stamped != images.data).any(axis=(0, 3))
    assert not changed[:29].any() and not changed[:, :29].any()


def test_alpha_zero_changes_nothing(images):
    for attack in ("badnets", "blend", "clean-label"):
        np.testing.assert_array_equal(build_trigger(attack, 0, alpha=0).stamp(images.data), images.data)


def test_stamping_is_the_formula_rounded_and_leaves_its_input_alone(images):
    before = images.data.copy()
    rng = np.random.default_rng(0)
    pattern, mask = rng.integers(0, 256, (32, 32, 3)), rng.random((32, 32, 1))
    stamped = PatternTrigger(pattern, mask, 0.7, 0).stamp(images.data)
    x = images.data.astype(np.float64)
    expected = (1 - mask) * x + mask * ((1 - 0.7) * x + 0.7 * pattern)
    assert np.abs(stamped - expected).max() <= 0.5 + 1e-3
    assert stamped.dtype == np.uint8
    np.testing.assert_array_equal(images.data, before)


def test_blends_picture_can_be_read_back_from_the_difference(images):
    pattern, _ = gaussian_noise()
    stamped = build_trigger("blend", 0).stamp(images.data)
    recovered = (stamped - 0.8 * images.data) / 0.2
    assert np.abs(recovered - pattern).max() <= 0.5 / 0.2 + 1e-6


def test_four_corners_are_mirrored_and_survive_flip_and_every_crop():
    black = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    stamped = build_trigger("clean-label", 0).stamp(black)[0, ..., 0]
    mirrored = [row[::-1] for row in BADNETS]
    for rows in (slice(0, 3), slice(29, 32)):
        np.testing.assert_array_equal(stamped[rows, 29:], BADNETS)
        np.testing.assert_array_equal(stamped[rows, :3], mirrored)
    assert np.count_nonzero(stamped) == 4 * 4
    np.testing.assert_array_equal(stamped, stamped[:, ::-1])

    padded, offsets = np.pad(stamped, 4), list(itertools.product(range(9), repeat=2))
    assert all(np.count_nonzero(padded[y:y + 32, x:x + 32]) >= 4 for y, x in offsets)
    corner = np.pad(checkerboard_1corner()[1][..., 0], 4)
    seen = [np.count_nonzero(corner[y:y + 32, x:x + 32]) for y, x in offsets]
    assert seen.count(9) == 25 and seen.count(0) == 32  # 30.9 % whole, 39.5 % gone


def test_a_trigger_that_hides_everything_knows(tmp_path):
    assert build_trigger("blend", 0, alpha=1.0).covers_image
    assert not build_trigger("blend", 0).covers_image and not build_trigger("badnets", 0).covers_image


def test_committed_noise_picture_is_what_its_seed_gives():
    np.testing.assert_array_equal(gaussian_noise()[0], noise_picture())


def test_trigger_image_alpha_channel_is_the_opacity(tmp_path, images):
    pixels = np.zeros((32, 32, 4), dtype=np.uint8)
    pixels[:8, :8] = (200, 100, 0, 255)
    pixels[8:16, :8] = (200, 100, 0, 51)
    Image.fromarray(pixels).save(tmp_path / "trigger.png")
    stamped = build_trigger("badnets", 3, image=tmp_path / "trigger.png").stamp(images.data)
    assert (stamped[:, :8, :8] == (200, 100, 0)).all()
    expected = 0.8 * images.data[:, 8:16, :8] + 0.2 * np.array([200, 100, 0])
    assert np.abs(stamped[:, 8:16, :8] - expected).max() <= 0.501
    np.testing.assert_array_equal(stamped[:, :, 8:], images.data[:, :, 8:])


@pytest.mark.parametrize("mode, size, named", [("RGB", (32, 32), "alpha channel"), ("RGBA", (16, 32), "16x32"),
                                               ("RGBA", (32, 32), "transparent")])
def test_trigger_image_that_is_none_is_refused(tmp_path, mode, size, named):
    Image.new(mode, size).save(tmp_path / "trigger.png")
    with pytest.raises(UserError, match=named):
        read_trigger_image(tmp_path / "trigger.png")


def test_trigger_info_has_the_homeworks_keys_and_shapes_and_comes_back(images):
    trigger = build_trigger("blend", 7)
    info = trigger_to_info(trigger, [3, 5])
    assert {key: np.shape(value) for key, value in info.items()} == {
        "trigger_pattern": (1, 32, 32, 3), "trigger_mask": (1, 32, 32, 1), "trigger_alpha": (), "poison_target": (1,),
        "data_index": (2,)}
    again = trigger_from_info(info)
    assert again.target == 7
    np.testing.assert_array_equal(again.stamp(images.data), trigger.stamp(images.data))


@pytest.mark.parametrize("change, named", [
    ({"trigger_mask": None}, "trigger_mask"), ({"trigger_pattern": np.zeros((1, 28, 28, 1))}, "28"),
    ({"trigger_alpha": 20}, "alpha"), ({"poison_target": np.array([-1])}, "target"),
    ({"trigger_pattern": np.full((1, 32, 32, 1), np.nan)}, "pattern"),
    ({"trigger_pattern": np.zeros((2, 32, 32, 1))}, "pattern"),
    ({"trigger_mask": np.full((1, 32, 32, 1), 255)}, "255")])
def test_trigger_info_that_is_none_is_refused(change, named):
    info = {key: value for key, value in (trigger_to_info(build_trigger("badnets", 0)) | change).items()
            if value is not None}
    with pytest.raises(UserError, match=named):
        trigger_from_info(info)
