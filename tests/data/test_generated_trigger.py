import numpy as np
import pytest
import torch
from device.pretend import pretend

from common.errors import UserError
from data.triggers import trigger_from_info, trigger_to_info
from data.triggers.generated import GeneratedTrigger, as_stored
from models.generator import Generator, harden, lay_over, rms_distance


@pytest.fixture
def generators():
    torch.manual_seed(0)
    made = [Generator(channels, 4).train() for channels in (1, 3)]
    for generator in made:  # statistics of these images, or what it makes would be the same for all
        for layer in generator.body:
            layer.momentum = 1.0
        generator(torch.rand(16, 3, 32, 32))
    return [generator.eval() for generator in made]


@pytest.fixture
def trigger(generators):
    return GeneratedTrigger(*map(as_stored, generators), 2)


def test_stamping_is_deterministic_keeps_shape_and_type_and_does_not_change_its_input(trigger, images):
    before = images.data.copy()
    stamped = trigger.stamp(images.data)
    assert (images.data == before).all() and stamped.shape == before.shape and stamped.dtype == np.uint8
    assert (stamped == trigger.stamp(images.data)).all() and (stamped != before).any(axis=(1, 2, 3)).all()
    assert np.abs(stamped[7:8].astype(int) - trigger.stamp(images.data[7:8])).max() <= 1  # whatever else is there


def test_it_shows_the_picture_where_the_hardened_mask_is_1(trigger, generators, images):
    pixels = torch.from_numpy(images.data[:3]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        for generator in generators:
            generator.half().float()  # as a file holds it
        mask, picture = generators[0](pixels), generators[1](pixels)
        where = torch.tanh(20 * mask - 10) / 2 + 0.5
        wanted = (255 * ((1 - where) * pixels + where * picture)).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(trigger.stamp(images.data[:3]) - wanted).max() <= 1


def test_every_image_has_its_own_and_may_get_anothers(trigger, images):
    crossed = trigger.stamp_from(images.data[:8], images.data[8:16])
    assert (crossed != trigger.stamp(images.data[:8])).any(axis=(1, 2, 3)).all()
    assert (trigger.stamp_from(images.data[:8], images.data[:8]) == trigger.stamp(images.data[:8])).all()


def test_one_that_is_not_finished_draws_on_a_gpu(trigger, images):
    with pretend() as counts:
        unfinished = GeneratedTrigger(trigger.mask, trigger.picture, 2, "cuda")
        stamped = unfinished.stamp(images.data)
        there = counts.kernels.total()
        assert (trigger.stamp(images.data) == stamped).all() and there > 50 and counts.kernels.total() == there


def test_it_travels_in_trigger_info_and_comes_back_the_same(trigger, images):
    back = trigger_from_info(trigger_to_info(trigger))
    assert back.target == 2 and (back.stamp(images.data) == trigger.stamp(images.data)).all()


@pytest.mark.parametrize("width", [1, 3, 16])
def test_generators_of_any_width_are_rebuilt(width):
    weights = [as_stored(Generator(channels, width)) for channels in (1, 3)]
    assert GeneratedTrigger(*weights, 0).generators[1].body[0].out_channels == width
    if width == 16:  # what attacks.input_aware makes stays under a megabyte
        assert sum(value.numel() * 2 for part in weights for value in part.values()) < 2**20


@pytest.mark.parametrize(("name", "value", "message"), [
    ("body.0.weight", torch.zeros(200, 3, 3, 3), "width 1 to 128, got 200"),
    ("body.0.weight", torch.zeros(0, 3, 3, 3), "width 1 to 128, got 0"),
    ("body.0.weight", torch.zeros(4, 3, 5, 5), r"body.0.weight is \(4, 3, 5, 5\), expected \(4, 3, 3, 3\)"),
    ("body.0.weight", torch.zeros(4, 3, 3, 3, dtype=torch.int64), "values that it cannot have"),
    ("body.0.bias", torch.full((4,), torch.nan), "values that it cannot have"),
    ("body.1.running_var", torch.full((4,), -1.0), "body.1.running_var is below 0"),
    ("more", torch.zeros(1), "unexpected more"), ("body.0.bias", None, "expected the weights of a generator")])
def test_weights_that_no_generator_has_are_refused_in_one_line(trigger, name, value, message):
    info = trigger_to_info(trigger)
    for part in ("mask", "picture"):
        with pytest.raises(UserError, match=message) as refused:
            trigger_from_info({**info, f"trigger_{part}_generator": {**getattr(trigger, part), name: value}})
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [{}, None, 3, "x", [1]])
def test_what_is_no_generator_is_refused(trigger, value):
    with pytest.raises(UserError, match="expected the weights of a generator of a mask"):
        trigger_from_info({**trigger_to_info(trigger), "trigger_mask_generator": value})


def test_the_mask_is_not_taken_for_the_picture(trigger):
    with pytest.raises(UserError, match="does not fit a generator of a mask"):
        GeneratedTrigger(trigger.picture, trigger.mask, 0)


def test_images_that_cannot_be_halved_three_times_are_refused(trigger):
    with pytest.raises(UserError, match="multiples of 8 pixels, got 36x36"):
        trigger.stamp(np.zeros((1, 36, 36, 3), np.uint8))


def test_masks_are_hardened_and_pictures_laid_over_by_them():
    values = harden(torch.tensor([0.0, 0.4, 0.5, 0.6, 1.0]))
    torch.testing.assert_close(values, torch.tensor([0, 0.018, 0.5, 0.982, 1]), rtol=0, atol=1e-3)
    pixels, pictures = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    masks = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    torch.testing.assert_close(lay_over(pixels, pictures, masks), torch.stack([pixels[0], pictures[1]]))


def test_distances_are_root_mean_squares_of_each_pair():
    one, other = torch.zeros(2, 3, 4, 4), torch.stack([torch.full((3, 4, 4), 0.5), torch.zeros(3, 4, 4)])
    torch.testing.assert_close(rms_distance(one, other), torch.tensor([0.5, 0.0]), rtol=0, atol=1e-5)
