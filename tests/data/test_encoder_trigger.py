import numpy as np
import pytest
import torch

from common.errors import UserError
from data.triggers import build_trigger, trigger_from_info, trigger_to_info
from data.triggers.encoder import EncoderTrigger, build_encoder, draw_secret
from models.steganography import Encoder


@pytest.fixture
def weights():
    torch.manual_seed(0)
    encoder = Encoder(8, 4)
    encoder.residual.weight.data *= 20  # untrained, it would change next to nothing
    return encoder.state_dict()


@pytest.fixture
def trigger(weights):
    return EncoderTrigger(weights, draw_secret(8, 0), 2)


def test_stamping_is_deterministic_keeps_shape_and_type_and_does_not_change_its_input(trigger, images):
    before = images.data.copy()
    stamped = trigger.stamp(images.data)
    assert (images.data == before).all()
    assert stamped.shape == images.data.shape and stamped.dtype == np.uint8
    assert (stamped == trigger.stamp(images.data)).all() and (stamped != before).any(axis=(1, 2, 3)).all()


def test_it_stamps_the_rounded_output_of_the_encoder(trigger, weights, images):
    encoder = Encoder(8, 4)
    encoder.load_state_dict(weights)
    pixels = torch.from_numpy(images.data[:3]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        change = encoder(pixels, torch.from_numpy(trigger.secret).float().expand(3, -1))
    wanted = (255 * (pixels + change).clamp(0, 1)).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(trigger.stamp(images.data[:3]) - wanted).max() <= 1


def test_another_image_and_another_secret_have_other_residuals(trigger, images):
    residuals = trigger.stamp(images.data).astype(int) - images.data
    other = trigger.with_other_secret(1)
    assert (other.secret != trigger.secret).sum() == 4 and other.target == 2
    assert (residuals[0] != residuals[1]).any()
    assert (other.stamp(images.data) != trigger.stamp(images.data)).any()


def test_of_an_odd_number_of_bits_one_more_than_half_is_turned_over():
    trigger = EncoderTrigger(Encoder(5, 4).state_dict(), draw_secret(5, 0), 2)
    others = [trigger.with_other_secret(seed).secret for seed in range(8)]
    assert {int((other != trigger.secret).sum()) for other in others} == {3} and len({tuple(o) for o in others}) > 1


def test_it_travels_in_trigger_info_and_comes_back_the_same(trigger, images):
    back = trigger_from_info(trigger_to_info(trigger, [3, 1]))
    assert back.target == 2 and (back.stamp(images.data) == trigger.stamp(images.data)).all()
    assert trigger_to_info(trigger, [3, 1])["data_index"].tolist() == [3, 1]
    assert back.as_pattern() is None and not back.covers_image


@pytest.mark.parametrize(("name", "value", "message"), [
    ("trigger_secret", np.zeros(7, dtype=np.uint8), "secret of 8 bits"),
    ("trigger_secret", np.full(8, 2, dtype=np.uint8), "secret of 8 bits"),
    ("trigger_secret", np.full(8, 0.5), "secret of 8 bits"),
    ("trigger_secret", -np.ones(8, dtype=int), "secret of 8 bits"),
    ("trigger_secret", np.zeros((2, 4), dtype=np.uint8), "secret of 8 bits"),
    ("trigger_secret", "secret", "trigger_secret: 'secret' in place of a number"),
    ("poison_target", np.array([-1]), "target of at least 0"),
    ("poison_target", np.array([0.7]), "poison_target is float64"),
    ("poison_target", np.array([1 + 1j]), "poison_target is complex128"),
    ("poison_target", float("inf"), "poison_target is float64"),
    ("trigger_encoder", {}, "expected the weights of an encoder"),
    ("trigger_encoder", {"secret.weight": 1, "residual.weight": "x"}, "expected the weights of an encoder"),
    ("trigger_encoder", None, "expected the weights of an encoder"),
])
def test_what_is_no_trigger_is_refused(trigger, name, value, message):
    with pytest.raises(UserError, match=message) as refused:
        trigger_from_info({**trigger_to_info(trigger), name: value})
    assert str(refused.value).startswith(("trigger: ", "encoder: ", "trigger_info: "))


@pytest.mark.parametrize("write", [
    lambda bits: torch.from_numpy(bits).float().requires_grad_(), lambda bits: bits[None].astype(bool),
    lambda bits: torch.from_numpy(bits).to(torch.bfloat16), lambda bits: bits.tolist()])
def test_a_secret_is_read_from_whatever_holds_its_bits(trigger, images, write):
    info = trigger_to_info(trigger)
    read = trigger_from_info({**info, "trigger_secret": write(info["trigger_secret"])})
    assert (read.stamp(images.data[:2]) == trigger.stamp(images.data[:2])).all()


def test_a_pattern_whose_opacity_is_no_number_is_refused():
    with pytest.raises(UserError, match="trigger_alpha is object, expected plain numbers"):
        trigger_from_info({**trigger_to_info(build_trigger("badnets", 0)), "trigger_alpha": 10**400})


@pytest.mark.parametrize(("name", "value", "message"), [
    ("secret.weight", torch.zeros(3 * 64 * 64, 8), r"does not fit an encoder for 64x64 images: secret.bias"),
        ("secret.weight", torch.zeros(3 * 40 * 40, 8), "multiples of 16 pixels, got 40"),
        ("secret.weight", torch.zeros(1).expand(3 * 2**20, 64), "at most 67108864 weights"),
    ("down.1.weight", torch.zeros(4, 4, 5, 5), "does not fit"),
    ("down.1.weight", torch.full((4, 4, 3, 3), torch.nan), "values that it cannot have"),
    ("more", torch.zeros(1), "unexpected more"),
    ("secret.bias", torch.full((3072,), 1e300, dtype=torch.float64), "values that it cannot have"),
    ("secret.bias", torch.zeros(3072, dtype=torch.int64), "values that it cannot have"),
    ("secret.weight", torch.zeros(1).expand(3072, 2**21), "got 2097152 and 4"),
    ("secret.weight", torch.zeros(3072, 0), "got 0 and 4"),
    ("residual.weight", torch.zeros(3, 0, 1, 1), "got 8 and 0"),
])
def test_weights_of_another_size_are_refused_in_one_line(weights, name, value, message):
    with pytest.raises(UserError, match=message) as refused:
        build_encoder({**weights, name: value})
    assert "\n" not in str(refused.value)


def test_weights_that_overflow_stamp_nothing(weights, images):
    huge = {name: torch.full_like(value, 3e38) for name, value in weights.items()}
    with pytest.raises(UserError, match="nan or infinite"):
        EncoderTrigger(huge, draw_secret(8, 0), 0).stamp(images.data)
