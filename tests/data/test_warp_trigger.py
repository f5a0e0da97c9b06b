import numpy as np
import pytest
import torch

from common.errors import UserError
from data.triggers import trigger_from_info, trigger_to_info
from data.triggers.warp import WarpTrigger, draw_field, draw_grid, identity_grid, warp, with_noise


@pytest.fixture
def trigger():
    return WarpTrigger(draw_grid(32, 32, 4, 0.5, 0), 2)


def shifts(grid):
    """How far each pixel's place lies from its own, in pixels (H, W, 2)."""
    return (grid - identity_grid(*grid.shape[:2])) * (np.array(grid.shape[1::-1]) - 1) / 2


def test_without_strength_every_image_stays_as_it_is(images):
    assert (WarpTrigger(draw_grid(32, 32, 4, 0, 0), 0).stamp(images.data) == images.data).all()


def test_a_ramp_shows_the_shift_of_every_pixel_across_and_down():
    grid = draw_grid(32, 32, 4, 3, 1)
    ramp = np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))
    ramps = np.repeat(np.stack([ramp, ramp.T])[..., None], 3, axis=-1)  # rising to the right, rising downward
    moved = WarpTrigger(grid, 0).stamp(ramps).astype(float) - ramps
    wanted = np.moveaxis(shifts(grid), -1, 0)[..., None] * 8
    assert np.abs(moved - wanted).max() <= 0.51  # half a gray level, for the rounding
    assert np.abs(wanted).max() > 8


def test_the_published_strength_moves_control_points_by_a_quarter_of_a_pixel():
    drawn = np.stack([shifts(draw_grid(32, 32, 32, 0.5, seed)) for seed in range(20)])  # every pixel is a control point
    inside = drawn[:, 1:-1, 1:-1]  # nothing is taken from outside the image
    assert np.abs(inside).mean() == pytest.approx(0.5 / 32 * 31 / 2, rel=0.03)


def test_the_corners_of_a_field_are_those_that_were_drawn():
    drawn = np.random.default_rng(3).uniform(-1, 1, (2, 4, 4))
    drawn /= np.abs(drawn).mean()
    field = draw_field(32, 20, 4, 3)
    np.testing.assert_allclose(field[[0, 0, -1, -1], [0, -1, 0, -1]], drawn[:, [0, 0, -1, -1], [0, -1, 0, -1]].T,
                               atol=1e-5)


def test_the_field_is_smooth_and_follows_its_seed():
    one, again, other = (draw_grid(32, 32, 4, 0.5, seed) for seed in (0, 0, 1))
    assert (one == again).all() and (one != other).any()
    assert np.abs(np.diff(shifts(one), axis=0)).max() < 0.25 < np.abs(shifts(one)).max()


def test_stamping_is_deterministic_keeps_shape_and_type_and_does_not_change_its_input(trigger, images):
    before = images.data.copy()
    stamped = trigger.stamp(images.data)
    assert (images.data == before).all() and stamped.shape == before.shape and stamped.dtype == np.uint8
    assert (stamped == trigger.stamp(images.data)).all() and (stamped[::-1] == trigger.stamp(images.data[::-1])).all()
    assert (stamped != before).any(axis=(1, 2, 3)).all()


def test_noise_is_another_in_every_image_and_at_most_half_a_pixel(trigger, monkeypatch):
    grid = torch.from_numpy(trigger.grid)
    noisy = with_noise(grid, 2 * torch.rand(5, 32, 32, 2) - 1)
    assert 0.98 / 32 < float((noisy - grid).abs().max()) <= 1 / 32 and float(noisy.abs().max()) <= 1
    same = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8), 3, axis=0)
    stamped = trigger.stamp_noisy(same, 0)
    assert (stamped[0] != stamped[1]).any() and (stamped == trigger.stamp_noisy(same, 0)).all()
    assert (stamped != trigger.stamp_noisy(same, 1)).any()
    seen = []
    monkeypatch.setattr("data.triggers.warp.with_noise", lambda grid, noise: seen.append(noise) or grid)
    trigger.stamp_noisy(same, 0)
    assert seen[0].shape == (3, 32, 32, 2) and abs(float(seen[0].mean())) < 0.05
    assert -1 <= float(seen[0].min()) < -0.99 and 0.99 < float(seen[0].max()) <= 1


def test_no_images_are_warped_to_no_images(trigger):
    assert warp(torch.zeros(0, 3, 32, 32), torch.from_numpy(trigger.grid)).shape == (0, 3, 32, 32)
    assert trigger.stamp(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 32, 32, 3)


def test_another_secret_is_another_warp_of_the_same_strength(trigger):
    other = trigger.with_other_secret(3)
    sizes = [np.abs(shifts(one.grid)).mean() for one in (trigger, other)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05) and other.target == 2
    assert np.corrcoef(shifts(trigger.grid).ravel(), shifts(other.grid).ravel())[0, 1] < 0.5


def test_another_secret_is_not_its_own_whatever_seed_drew_it_and_as_rough(trigger):
    for points in (4, 8):
        own = WarpTrigger(draw_grid(32, 32, points, 0.5, 7), 2, points)
        other = own.with_other_secret(7)
        assert np.corrcoef(shifts(own.grid).ravel(), shifts(other.grid).ravel())[0, 1] < 0.5
        rough = [np.abs(np.diff(shifts(one.grid), axis=0)).mean() for one in (own, other)]
        assert rough[1] == pytest.approx(rough[0], rel=0.4)


def test_the_number_of_points_travels_and_is_the_usual_one_of_a_file_that_does_not_say(trigger):
    info = trigger_to_info(WarpTrigger(trigger.grid, 2, 8))
    assert trigger_from_info(info).points == 8
    del info["trigger_control_points"]
    assert trigger_from_info(info).points == 4
    with pytest.raises(UserError, match="2 to 32 control points a side, got 99"):
        trigger_from_info({**info, "trigger_control_points": 99})


def test_it_travels_in_trigger_info_and_comes_back_the_same(trigger, images):
    info = trigger_to_info(trigger, [3, 1])
    for grid in (info["trigger_grid"], torch.from_numpy(info["trigger_grid"])[None]):  # as the authors' file has it
        back = trigger_from_info({**info, "trigger_grid": grid})
        assert back.target == 2 and (back.stamp(images.data) == trigger.stamp(images.data)).all()
    assert back.as_pattern() is None and not back.covers_image


@pytest.mark.parametrize("grid, message", [
    (np.zeros((32, 32)), r"expected a grid \(H, W, 2\)"), (np.zeros((32, 32, 3)), "expected a grid"),
    (np.zeros((1, 32, 2)), "2 to 512 pixels"), (np.zeros((600, 32, 2)), "2 to 512 pixels"),
    (np.full((32, 32, 2), np.nan), "fractions"), (np.full((32, 32, 2), 1.5), "fractions"),
    (np.zeros((32, 32, 2), int), "fractions"), (torch.zeros(1).expand(1024, 1024, 4), "4194304 values"),
    ("grid", "'grid' in place of a number"), (None, "NoneType")])
def test_what_is_no_grid_is_refused(trigger, grid, message):
    with pytest.raises(UserError, match=message):
        trigger_from_info({**trigger_to_info(trigger), "trigger_grid": grid})


def test_a_target_below_0_and_images_of_another_size_are_refused(trigger):
    with pytest.raises(UserError, match="target of at least 0"):
        trigger_from_info({**trigger_to_info(trigger), "poison_target": -1})
    with pytest.raises(UserError, match="made for images of 32x32 pixels, got 48x48"):
        trigger.stamp(np.zeros((1, 48, 48, 3), np.uint8))
