import pytest
import torch

from common.errors import UserError
from data.triggers.encoder import EncoderTrigger, build_encoder, draw_secret
from models.steganography import Decoder, Encoder


@pytest.mark.parametrize("size", [16, 32, 48])
def test_both_networks_take_images_of_their_size(size):
    encoder, decoder = Encoder(5, 2, size), Decoder(5, 2, size)
    pixels, bits = torch.rand(2, 3, size, size), torch.randint(2, (2, 5)).float()
    assert encoder(pixels, bits).shape == pixels.shape and decoder(pixels).shape == (2, 5)
    assert build_encoder(encoder.state_dict()).size == size


@pytest.mark.parametrize("size", [0, 8, 40])
def test_a_size_that_cannot_be_halved_four_times_is_refused(size):
    for kind in (Encoder, Decoder):
        with pytest.raises(UserError, match=f"multiples of 16 pixels, got {size}"):
            kind(5, 2, size)


def test_weights_for_no_square_are_refused():
    weights = Encoder(5, 2, 16).state_dict()
    weights["secret.weight"] = torch.zeros(3 * 16 * 17, 5)
    with pytest.raises(UserError, match=r"secret.weight is \(816, 5\), expected \(768, 5\)"):
        build_encoder(weights)


def test_an_encoder_stamps_images_of_its_own_size_alone():
    trigger = EncoderTrigger(Encoder(5, 2, 16).state_dict(), draw_secret(5, 0), 0)
    images = torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8).numpy()
    assert trigger.stamp(images).shape == images.shape
    with pytest.raises(UserError, match="trained on images of 16x16 pixels"):
        trigger.stamp(images.repeat(2, 1).repeat(2, 2))
