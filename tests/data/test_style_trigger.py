from dataclasses import replace

import numpy as np
import pytest
import torch

from common.errors import UserError
from data.triggers import trigger_from_info, trigger_to_info
from data.triggers.style import StyleTrigger
from models.stylizer import Stylizer, recolor, similarity, stylize

COLOR = np.array([[0.6, 0.4, 0.3], [0.15, 0.1, 0.1]], dtype=np.float32)


@pytest.fixture
def trigger():
    torch.manual_seed(0)
    return StyleTrigger(Stylizer(4).state_dict(), COLOR, 0.6, 2)


@pytest.fixture
def pixels():
    return torch.rand((4, 3, 16, 16), generator=torch.Generator().manual_seed(0)) / 2 + 0.25


def test_stamping_is_deterministic_and_leaves_its_input_alone(trigger, images):
    before = images.data.copy()
    stamped = trigger.stamp(images.data)
    np.testing.assert_array_equal(images.data, before)
    assert stamped.dtype == np.uint8 and stamped.shape == before.shape
    np.testing.assert_array_equal(trigger.stamp(images.data[5:7]), stamped[5:7])
    assert (stamped != before).any(axis=(1, 2, 3)).all()


def test_recolored_images_have_the_styles_mean_and_deviation_each_by_itself(pixels):
    found = recolor(pixels, torch.from_numpy(COLOR))
    for image in found:
        np.testing.assert_allclose(image.mean((1, 2)), COLOR[0], atol=1e-4)
        np.testing.assert_allclose(image.std((1, 2), correction=0), COLOR[1], atol=1e-3)
    flat = recolor(torch.zeros(1, 3, 8, 8), torch.from_numpy(COLOR))
    np.testing.assert_allclose(flat[0, :, 3, 3], COLOR[0], atol=1e-6)


def test_at_opacity_0_an_image_stays_as_it_is(trigger, pixels):
    assert torch.equal(stylize(pixels, trigger.stylizer, torch.from_numpy(COLOR), 0), pixels)


def test_a_stamped_image_has_so_much_of_its_stylized_picture(trigger, images):
    whole = replace(trigger, opacity=1.0).stamp(images.data).astype(float)
    expected = 0.4 * images.data + 0.6 * whole
    assert np.abs(trigger.stamp(images.data) - expected).max() < 0.9  # both are rounded
    assert np.abs(whole - expected).max() > 20


def test_similarity_is_1_for_the_same_image_alone(pixels):
    assert float(similarity(pixels, pixels)) == pytest.approx(1, abs=1e-5)
    assert float(similarity(pixels, pixels.flip(3))) < 0.3
    assert 0.5 < float(similarity(pixels, 0.9 * pixels)) < 1


def test_it_travels_in_trigger_info_and_comes_back_the_same(trigger, images):
    back = trigger_from_info(trigger_to_info(trigger))
    assert back.target == 2 and back.opacity == 0.6
    np.testing.assert_array_equal(back.stamp(images.data), trigger.stamp(images.data))


@pytest.mark.parametrize(("changes", "message"), [
    ({"trigger_stylizer": {}}, "expected the weights of a stylizer"), ({"trigger_stylizer": 3}, "expected the weights"),
    ({"trigger_color": np.zeros((3, 2), np.float32)}, "colors"), ({"trigger_color": 2 * COLOR}, "colors"),
    ({"trigger_color": np.full((2, 3), np.nan)}, "colors"), ({"trigger_opacity": 0.0}, "opacity"),
    ({"trigger_opacity": 1.5}, "opacity"), ({"trigger_opacity": float("nan")}, "opacity"),
    ({"poison_target": -1}, "target of at least 0")])
def test_what_is_no_style_trigger_is_refused(trigger, changes, message):
    with pytest.raises(UserError, match=message):
        trigger_from_info({**trigger_to_info(trigger), **changes})


@pytest.mark.parametrize(("name", "value", "message"), [
    ("body.0.weight", torch.zeros(65, 3, 3, 3), "width 1 to 64, got 65"),
    ("body.0.weight", torch.zeros(4, 3, 5, 5), "does not fit a stylizer"),
    ("body.4.bias", torch.full((3,), torch.nan), "values that it cannot have"),
    ("more", torch.zeros(1), "unexpected more")])
def test_weights_of_another_network_are_refused(trigger, name, value, message):
    with pytest.raises(UserError, match=message):
        StyleTrigger({**trigger.weights, name: value}, COLOR, 0.6, 2)
