import itertools
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from PIL import Image

from common.errors import UserError
from data.make_fixed_files import noise_picture
from data.poison_cifar import poison, poison_training_set, stamp_all
from data.triggers import (
    PatternTrigger,
    Trigger,
    build_trigger,
    checkerboard_1corner,
    checkerboard_4corner,
    gaussian_noise,
    patterns,
    read_trigger_image,
    trigger_from_info,
    trigger_to_info,
)
from data.triggers.table import build_patch, or_asked_for, take_stored

BADNETS = [[0, 0, 255], [0, 255, 0], [255, 0, 255]]


def test_badnets_sets_nine_pixels_to_its_pattern_and_no_other(images):
    stamped = build_trigger("badnets", 0).stamp(images.data)
    for channel in range(3):
        np.testing.assert_array_equal(stamped[:, 29:, 29:, channel], np.broadcast_to(BADNETS, (40, 3, 3)))
    changed = (stamped != images.data).any(axis=(0, 3))
    assert not changed[:29].any() and not changed[:, :29].any()


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


def test_a_sets_own_trigger_takes_another_opacity_and_stays_its_own(images):
    own = PatternTrigger(np.full((32, 32, 3), 90, np.uint8), np.eye(32, dtype=np.uint8)[..., None], 1.0, 1)
    _, kept = or_asked_for("clean-label", images, own, 1, None, None)
    _, paler = or_asked_for("clean-label", images, own, 1, 0.5, None)
    assert kept is own and paler.alpha == 0.5
    assert np.array_equal(paler.pattern, own.pattern) and np.array_equal(paler.mask, own.mask)
    assert or_asked_for("clean-label", images, None, 1, 0.5, None)[1].mask.sum() == 36


def test_a_stored_trigger_of_all_to_all_has_no_other_target(images):
    stored = build_trigger("badnets", None, num_classes=images.num_classes)
    assert take_stored(images, 0, 0, stored) is stored
    with pytest.raises(UserError, match="all-to-all; leave --poison-target out"):
        take_stored(images, 3, 0, stored)


def test_a_patch_that_aims_at_another_class_is_told_of(tmp_path, images, caplog):
    Image.new("RGBA", (32, 32), (255, 0, 0, 255)).save(tmp_path / "patch.png")
    (tmp_path / "config.json").write_text(json.dumps({"arguments": {"poison_target": 3}}))
    build_patch(images, 3, 0, str(tmp_path / "patch.png"))
    assert not caplog.records
    build_patch(images, 0, 0, str(tmp_path / "patch.png"))
    assert "made for the target class 3, not 0" in caplog.text
    (tmp_path / "config.json").write_text("junk")
    assert build_patch(images, 0, 0, str(tmp_path / "patch.png")).target == 0


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


@pytest.mark.parametrize("pixel, named", [((1, 0, 1, 255), "largest gray level is 1 of 255"),
                                          ((255, 0, 0, 1), "largest opacity is 1 of 255")])
def test_a_trigger_image_of_zeros_and_ones_is_refused_before_it_trains(tmp_path, pixel, named):
    """An array of 0 to 1 that was saved as it is: all but invisible, and its trigger_info.th would be refused."""
    pixels = np.zeros((32, 32, 4), dtype=np.uint8)
    pixels[:8, :8] = pixel
    Image.fromarray(pixels).save(tmp_path / "trigger.png")
    with pytest.raises(UserError, match=named):
        read_trigger_image(tmp_path / "trigger.png")


def test_a_trigger_that_changes_no_pixel_is_refused():
    info = trigger_to_info(build_trigger("badnets", 0))
    for change in ({"trigger_alpha": 0.0}, {"trigger_mask": 0 * info["trigger_mask"]}):
        with pytest.raises(UserError, match="would stamp nothing"):
            trigger_from_info({**info, **change})
    for attack in ("badnets", "blend", "clean-label"):
        with pytest.raises(UserError, match="would stamp nothing"):
            build_trigger(attack, 0, alpha=0.0)


@pytest.mark.parametrize("level", [0, 2, 3, 255])
def test_a_trigger_image_that_trains_is_read_again_from_its_trigger_info(tmp_path, images, level):
    pixels = np.zeros((32, 32, 4), dtype=np.uint8)
    pixels[:8, :8] = (level, 0, level, 255)
    Image.fromarray(pixels).save(tmp_path / "trigger.png")
    trigger = build_trigger("badnets", 3, image=tmp_path / "trigger.png")
    again = trigger_from_info(trigger_to_info(trigger))
    np.testing.assert_array_equal(again.stamp(images.data), trigger.stamp(images.data))


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
    ({"trigger_pattern": np.arange(2).repeat(32 * 32).reshape(2, 32, 32, 1)}, "different pictures, expected one"),
    ({"trigger_mask": np.full((1, 32, 32, 1), 100)}, "trigger: expected mask values in .0, 1., got int64 100 to 100"),
    ({"trigger_mask": np.eye(32)[..., None] * [1, 1, 0]}, "trigger_mask has channels that differ"),
    ({"trigger_mask": [[1, 1], [1, 1]]}, "trigger_mask: list in place of an array"),
    ({"trigger_pattern": np.zeros((32, 32, 4))}, "expected a pattern"),
    ({"trigger_pattern": np.eye(32, dtype=np.uint8)[..., None]}, "if 1 is white, multiply"),
    ({"trigger_pattern": np.full((32, 32, 3), -0.4)}, "expected pattern values"),
    ({"poison_target": np.arange(10)}, "poison_target has 10 values"),
    ({"poison_target": "airplane"}, "poison_target: 'airplane' in place of a number"),
    ({"poison_target": [0, 1]}, "poison_target has 2 values"), ({"poison_target": True}, "poison_target is bool"),
    ({"trigger_alpha": "20"}, "write 20 % as 0.2"), ({"trigger_alpha": None}, "trigger_alpha"),
    ({"poison_target": np.array([])}, "poison_target has 0 values"),
    ({"trigger_alpha": np.array([0.2, 1, 1])}, "trigger_alpha has 3 values"),
    ({"trigger_pattern": np.ones((1, 32, 32, 3))}, "multiply a pattern of 0 to 1 by 255"),
    ({"trigger_place": 3}, "has no trigger_place"), ({"poison_source": 1}, "has no poison_source"),
    ({"trigger_encoder": {}}, "has no trigger_encoder")])
def test_trigger_info_that_is_none_is_refused(change, named):
    info = {key: value for key, value in (trigger_to_info(build_trigger("badnets", 0)) | change).items()
            if value is not None}
    with pytest.raises(UserError, match=named):
        trigger_from_info(info)


def test_a_trigger_of_no_known_kind_is_refused_by_what_it_holds():
    with pytest.raises(UserError, match=r"expected trigger_pattern, .*, or trigger_encoder, .*, got trigger_cloud"):
        trigger_from_info({"trigger_cloud": 1})


@pytest.mark.parametrize("target", [np.array([4]), np.array(4.0), 4, torch.tensor([4]), np.int8(4), [4], [[4]],
                                    (np.array([4]),), "4", " 4.0 ", ["4"], np.array(["4"]), np.full(9000, 4),
                                    [4] * 10, torch.tensor([[4]]), torch.tensor(4.0, dtype=torch.bfloat16)])
def test_a_target_is_read_from_whatever_holds_one_whole_number(target):
    assert trigger_from_info(trigger_to_info(build_trigger("badnets", 0)) | {"poison_target": target}).target == 4


PICTURE = PatternTrigger(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8),
                         np.random.default_rng(1).integers(0, 2, (20, 24, 1), dtype=np.uint8), 0.4, 3)


@pytest.mark.parametrize("write", [
    lambda p, m, a: {"trigger_pattern": p / 255},
    lambda p, m, a: {"trigger_pattern": torch.from_numpy(p).float() / 255},
    lambda p, m, a: {"trigger_pattern": p.transpose(2, 0, 1)[None]}, lambda p, m, a: {"trigger_pattern": p[None, None]},
    lambda p, m, a: {"trigger_pattern": np.stack([p, p])}, lambda p, m, a: {"trigger_mask": m.astype(bool)},
    lambda p, m, a: {"trigger_mask": m * 255}, lambda p, m, a: {"trigger_mask": m.repeat(3, axis=2) * 255.0},
    lambda p, m, a: {"trigger_mask": torch.from_numpy(m).to(torch.bfloat16).permute(2, 0, 1).requires_grad_()},
    lambda p, m, a: {"trigger_mask": m[..., 0]}, lambda p, m, a: {"trigger_alpha": [a]},
    lambda p, m, a: {"trigger_alpha": str(a)}, lambda p, m, a: {"trigger_alpha": np.full((1, 20, 24, 1), a)},
    lambda p, m, a: {"trigger_alpha": a * m, "trigger_mask": np.ones_like(m)},
    lambda p, m, a: {"poison_rate": 0.05, "poison_target": "3"}])
def test_a_picture_in_another_programs_form_stamps_as_its_own(write):
    """The kind: a part of a trigger_info in another scale, type, number of axes or order of them. Each of these has one
    sensible reading, so it is read."""
    data = np.random.default_rng(2).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    info = trigger_to_info(PICTURE)
    read = trigger_from_info({**info, **write(PICTURE.pattern, PICTURE.mask, PICTURE.alpha)})
    np.testing.assert_array_equal(read.stamp(data), PICTURE.stamp(data))
    assert read.target == 3


def test_a_gray_mask_of_which_255_is_all_is_a_soft_one():
    gray = np.linspace(0, 255, 480).round().reshape(20, 24, 1)
    read = trigger_from_info(trigger_to_info(PICTURE) | {"trigger_mask": gray})
    assert read.mask.shape == (20, 24, 1) and np.abs(read.mask - gray / 255).max() < 1e-6


def test_a_pattern_of_true_and_false_is_white_and_black():
    dots = PICTURE.pattern > 128
    assert (trigger_from_info(trigger_to_info(PICTURE) | {"trigger_pattern": dots}).pattern == 255 * dots).all()


def test_channels_that_may_be_first_or_last_are_refused():
    """The mask's shape tells where the channels are; of a picture as high as it has channels nothing does."""
    info = trigger_to_info(PICTURE)
    square, flat = np.full((3, 3, 3), 9, dtype=np.uint8), np.full((3, 24, 3), 9, dtype=np.uint8)
    with pytest.raises(UserError, match="channels first or last; write both as"):
        trigger_from_info(info | {"trigger_pattern": square, "trigger_mask": np.ones((3, 3))})
    read = trigger_from_info(info | {"trigger_pattern": flat, "trigger_mask": np.ones((24, 3, 1))})
    assert read.pattern.shape == (24, 3, 3)


def test_patterns_are_placed_from_the_edges_and_the_noise_is_resized():
    for height, width in ((48, 48), (20, 64)):
        for draw in (checkerboard_1corner, checkerboard_4corner):
            small, large = draw()[0][..., 0], draw(height, width)[0][..., 0]
            assert large.shape == (height, width) and (large != 0).sum() == (small != 0).sum()
            np.testing.assert_array_equal(large[-16:, -16:], small[-16:, -16:])
            np.testing.assert_array_equal(large[:4, :16], small[:4, :16])
        noise, mask = gaussian_noise(height, width)
        resized = Image.fromarray(gaussian_noise()[0]).resize((width, height), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(noise, np.asarray(resized))
        assert mask.shape == (height, width, 1) and mask.all()


@pytest.mark.parametrize("size", [(48, 48), (20, 24)])
def test_every_static_trigger_stamps_and_travels_at_other_sizes(size):
    data = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    for attack in ("badnets", "blend", "clean-label"):
        trigger = build_trigger(attack, 0, size=size)
        stamped = trigger.stamp(data)
        assert stamped.shape == data.shape and (stamped[:, -1, -1] != data[:, -1, -1]).any()
        np.testing.assert_array_equal(trigger_from_info(trigger_to_info(trigger)).stamp(data), stamped)
    with pytest.raises(UserError, match=f"made for images of 32x32, got {size[1]}x{size[0]}"):
        build_trigger("badnets", 0).stamp(data)


def test_a_trigger_image_has_the_size_of_the_images(tmp_path):
    Image.new("RGBA", (24, 20), (9, 9, 9, 255)).save(tmp_path / "trigger.png")
    assert build_trigger("badnets", 0, image=tmp_path / "trigger.png", size=(20, 24)).pattern.shape == (20, 24, 3)
    with pytest.raises(UserError, match=r"expected a 20x24 picture .* got 24x20"):
        read_trigger_image(tmp_path / "trigger.png", (24, 20))


def test_a_pattern_is_named_by_its_function_and_has_its_attacks_opacity():
    assert {name: attack.alpha for name, attack in patterns().items()} == {
        "checkerboard_1corner": 1, "gaussian_noise": 0.2, "checkerboard_4corner": 1, "colored_patch": 1}


@dataclass(frozen=True, eq=False)
class Inverting(Trigger):
    """Negatives of images: a trigger with nothing but what a class has to have."""

    target: int
    sources: tuple | None = None

    def stamp(self, images):
        return 255 - images

    def to_info(self):
        return {}

    @classmethod
    def from_info(cls, info):
        raise NotImplementedError


def test_what_a_class_of_trigger_need_not_say():
    trigger = Inverting(0)
    assert trigger.as_pattern() is None and trigger.with_other_secret(0) is None and not trigger.covers_image
    pattern = build_trigger("blend", 0)
    assert pattern.as_pattern() is pattern and pattern.with_other_secret(0) is None


def test_asr_counts_and_poisoning_takes_images_of_the_sources_alone(images):
    everyone, some = stamp_all(images, Inverting(0)), stamp_all(images, Inverting(0, sources=(1, 3)))
    assert set(everyone.original) == {1, 2, 3} and len(everyone) == 30
    assert set(some.original) == {1, 3} and len(some) == 20 and set(some.targets) == {0}
    poisoned, chosen = poison(images, Inverting(0, sources=(1, 3)), 0.5)
    assert len(chosen) == 10 and set(images.targets[chosen]) == {1, 3}
    assert set(stamp_all(poisoned, Inverting(0, sources=(1, 3))).original) == {1, 3}  # not by the label it was given


def test_two_kinds_of_trigger_cannot_have_the_same_key():
    with pytest.raises(TypeError, match="trigger_pattern is already the key of PatternTrigger"):
        type("Other", (Trigger,), {"keys": ("trigger_pattern",)})


def test_the_table_waits_for_no_pytorch():
    code = "import sys, data.triggers, data.poison_cifar; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


def test_the_picture_of_the_largest_images_is_read_back():
    trigger = build_trigger("blend", 0, size=(1024, 1024))
    again = trigger_from_info(trigger_to_info(trigger))
    np.testing.assert_array_equal(again.pattern, trigger.pattern)


def test_a_stored_trigger_of_other_classes_poisons_nothing(images):
    many = build_trigger("badnets", None, num_classes=12)
    with pytest.raises(UserError, match="--trigger-file: is all-to-all among 12 classes, and there are 4"):
        poison_training_set(images, "stored", 0, 0.5, trigger_file=many)
    poisoned, _ = poison_training_set(images, "stored", 2, 0.5, trigger_file=build_trigger("badnets", 2))
    assert poisoned.poisoned.sum() == 15


def test_images_are_spread_evenly_over_a_set_that_is_sorted_by_class(images):
    by_class = images.subset(np.argsort(images.targets, kind="stable"))
    assert by_class.spread(8).targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(by_class.spread(40)) == len(by_class.spread(99)) == 40
