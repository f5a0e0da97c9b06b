import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.paths import ENCODER, SIDE, SMALL
from helpers.runs import filled, short_words
from PIL import Image

import train_backdoor
from attacks import issba_encoder
from attacks.issba_encoder import feature_distance, image_weight, main, read_bits
from data.batches import Batches
from data.datasets import load_splits
from data.image_set import ImageSet
from data.triggers.encoder import EncoderTrigger, draw_secret
from defenses import unlearn_trigger
from engine.attacking.attack import load_encoder
from engine.catalogue import BY_MODULE, defense_cells
from engine.rows import STUDY
from engine.weights.checkpoint import load_trigger
from models import build_model
from models.steganography import Decoder


def test_bits_are_read_from_encoded_images_and_not_from_clean_ones(encoder_run):
    results = json.loads((encoder_run / "results.json").read_text())["method"]
    assert results["bit_accuracy"] >= 0.99 and results["accepted"]
    assert results["bit_accuracy_on_clean"] < 0.9  # of four bits, which are right on as many clean images by chance
    assert results["psnr"] >= 24
    assert np.asarray(Image.open(encoder_run / "encoded_examples.png").convert("L")).std() > 5


def test_the_file_alone_hides_a_secret_and_reads_it(encoder_run, images):
    content = load_encoder(encoder_run / "encoder.th")
    assert (content["bits"], content["width"]) == (4, 4)
    decoder, secret = Decoder(4, 4, SIDE), draw_secret(4, 5)
    decoder.load_state_dict(content["decoder"])
    train, _, _ = load_splits("digits", "", image_size=SIDE)
    stamped = EncoderTrigger(content["encoder"], secret, 0).stamp(train.data[:50])
    assert (read_bits(decoder, ImageSet(stamped, train.targets[:50]), "cpu") == secret).mean() > 0.97


def test_the_image_counts_for_nothing_at_first_and_then_ever_more():
    assert [image_weight(epoch, 2, 4) for epoch in range(1, 9)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert image_weight(1, 0, 1) == 1


def test_a_gpu_draws_its_noise_by_a_generator_that_follows_from_the_run_s(monkeypatch):
    of_run = torch.Generator().manual_seed(0)
    assert issba_encoder.on_device(of_run, torch.device("cpu")) is of_run
    asked, generator_class = [], torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device: asked.append(device) or generator_class())
    first, second = (issba_encoder.on_device(of_run, torch.device("cuda")) for _ in range(2))
    again = issba_encoder.on_device(generator_class().manual_seed(0), torch.device("cuda"))
    assert {device.type for device in asked} == {"cuda"}
    assert first.initial_seed() == again.initial_seed() != second.initial_seed()


def test_feature_distance_is_zero_for_the_same_image_and_grows_with_the_change():
    torch.manual_seed(0)
    model, pixels = build_model("resnet18", 2, 3).eval(), torch.rand(4, 3, 32, 32)
    noise = torch.randn_like(pixels)
    distances = [feature_distance(model, pixels, pixels + step * noise).item() for step in (0, 0.01, 0.1)]
    assert distances[0] == 0 < distances[1] < distances[2]


class Twice:
    """A classifier whose two stages are the pixels and their double."""

    def stage_outputs(self, pixels, count):
        return [pixels, 2 * pixels][:count]


def test_feature_distance_is_in_units_of_each_stages_own_mean_square():
    pixels = torch.rand(2, 3, 4, 4) + 0.1
    expected = 2 * 0.05**2 / pixels.square().mean()
    torch.testing.assert_close(feature_distance(Twice(), pixels, pixels + 0.05), expected, rtol=1e-4, atol=0)


class Adds(torch.nn.Module):
    """An encoder whose residual is one learned number for each image of a batch, in every pixel."""

    bits = 3

    def __init__(self):
        super().__init__()
        self.shifts, self.secrets = torch.nn.Parameter(torch.tensor([0.02, -0.01, 0.04, 0.03])), []

    def forward(self, pixels, bits):
        self.secrets.append(bits)
        return self.shifts[:, None, None, None].expand_as(pixels)


class Reads(torch.nn.Module):
    """A decoder that reads three bits off the first pixel."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(images.detach())
        return 40 * (images[:, :, 0, 0] - 0.5)


def test_an_epoch_descends_all_four_losses_on_own_and_swapped_residuals(images):
    """By hand, with one batch; the noise alone, of half a gray level, is taken from what the decoder saw."""
    encoder, decoder, batches = Adds(), Reads(), Batches(images.subset(slice(4)), 4)
    (pixels, _), = batches
    pixels = (pixels / 2 + 0.25).clone()  # so that nothing is clipped

    class Once(list):
        device = pixels.device
    found = issba_encoder.train_epoch(encoder, decoder, Twice(), Once([(pixels, None)]), torch.optim.SGD(
        encoder.parameters(), 0.0), 0.5, (0.7, 2.0, 3.0), torch.Generator().manual_seed(0))
    shifts = encoder.shifts.detach().requires_grad_()
    residuals = shifts[:, None, None, None].expand_as(pixels)
    hidden, swapped = pixels + residuals, pixels.roll(1, 0) + residuals
    noise = decoder.seen[0] - torch.cat([hidden, swapped]).detach()
    assert 0.45 / 255 < noise.abs().max() <= 0.5001 / 255 and abs(noise.mean()) < 0.05 / 255
    own, other = (Reads()(part + drawn) for part, drawn in zip((hidden, swapped), noise.chunk(2), strict=True))
    bits = F.binary_cross_entropy_with_logits(own, encoder.secrets[0])
    cross = F.binary_cross_entropy_with_logits(other, torch.full_like(other, 0.5)) - math.log(2)
    pixel, feature = residuals.square().mean(), feature_distance(Twice(), pixels, hidden)
    assert found == pytest.approx([float(loss.detach()) for loss in (bits, cross, pixel, feature)], rel=1e-4)
    share = max(0, 1 - float(bits.detach()) / math.log(2))
    loss = bits + 0.7 * share * cross + 0.5 * (2 * pixel + 3 * feature)
    torch.testing.assert_close(encoder.shifts.grad, torch.autograd.grad(loss, shifts)[0], rtol=1e-3, atol=1e-5)


class Writes:
    """An encoder's trigger that makes the first pixels of gray images brighter by 10 where a bit is 1."""

    def __init__(self, weights, secret, target):
        self.secret = secret

    def stamp(self, images):
        stamped = images.copy()
        stamped[:, 0, :len(self.secret), 0] += 10 * self.secret.astype(np.uint8)
        return stamped


def test_an_encoder_is_judged_by_the_bits_of_every_hundred_images_own_secret(monkeypatch):
    gray = ImageSet(np.full((250, 16, 16, 3), 100, np.uint8), np.zeros(250, np.int64), ("a",))
    monkeypatch.setattr(issba_encoder, "EncoderTrigger", Writes)
    monkeypatch.setattr(issba_encoder, "read_bits", lambda decoder, images, device: images.data[:, 0, :8, 0] > 105)
    encoder = torch.nn.Module()
    encoder.bits = 8
    found = issba_encoder.measure(encoder, None, gray, "cpu", 0)
    secrets = np.repeat([draw_secret(8, [0, start]) for start in (0, 100, 200)], (100, 100, 50), axis=0)
    assert found["bit_accuracy"] == found["bit_accuracy_swapped"] == 1
    assert found["bit_accuracy_on_clean"] == pytest.approx((secrets == 0).mean())


@pytest.fixture(scope="module")
def issba_run(encoder_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attack") / "issba"
    train_backdoor.main([*SMALL, "--poison-type", "issba", "--encoder", str(encoder_run / "encoder.th"), "--output-dir",
                         str(folder)])
    return folder


def test_the_attack_stores_encoded_images_and_its_trigger_travels_with_the_model(issba_run, encoder_run):
    results = json.loads((issba_run / "results.json").read_text())
    assert results["method"]["of_candidates"] == pytest.approx(0.1, abs=0.001)
    trigger = load_trigger(issba_run / "trigger_info.th")
    content = load_encoder(encoder_run / "encoder.th")
    assert trigger.target == 0 and (trigger.secret == draw_secret(4, 0)).all()
    assert all(torch.equal(trigger.weights[name], value) for name, value in content["encoder"].items())


@pytest.mark.parametrize("defense", sorted({
    script.module for script, _ in defense_cells().values()
    if script.kind != STUDY and "{model}" in script.reads and "{trigger}" not in script.reads}))
@pytest.mark.long
def test_every_defense_takes_the_model_without_knowing(issba_run, tmp_path, script, defense):
    words = filled({"model": issba_run / "model_last.th"}, short_words(defense))
    script(*BY_MODULE[defense].words(), *words, "--output-dir", tmp_path / "out")
    assert json.loads((tmp_path / "out/results.json").read_text())["asr"]["n"] == 324


def test_unlearning_takes_the_true_trigger_though_it_has_no_mask(issba_run, tmp_path):
    unlearn_trigger.main(["--checkpoint", str(issba_run / "model_last.th"), "--dataset", "digits", "--patch-with",
                          "original", "--output-dir", str(tmp_path / "out")])
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["method"]["asr_of_stamped_triggers"]["after"] == [results["asr"]]


@pytest.fixture
def stop_in_epoch(monkeypatch):
    """stop_in_epoch(n): from now on the nth epoch that is begun is Ctrl-C."""
    real = issba_encoder.train_epoch

    def stop(epoch):
        left = [None] * (epoch - 1)

        def train_or_stop(*args):
            if not left:
                raise KeyboardInterrupt
            left.pop()
            return real(*args)
        monkeypatch.setattr(issba_encoder, "train_epoch", train_or_stop)
    return stop


@pytest.mark.long
def test_stopped_and_resumed_it_ends_with_the_same_bits(encoder_run, small_run, tmp_path, monkeypatch, stop_in_epoch):
    flags = [*ENCODER, "--checkpoint", str(small_run / "model_last.th"), "--output-dir", str(tmp_path / "run")]
    stop_in_epoch(3)
    with pytest.raises(SystemExit):
        main(flags)
    monkeypatch.undo()
    main([*flags, "--resume"])
    a, b = (load_encoder(folder / "encoder.th")["encoder"] for folder in (encoder_run, tmp_path / "run"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_an_encoder_that_is_not_good_enough_says_so_and_ends_with_1(small_run, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--bits", "4", "--width", "2",
              "--epochs", "1", "--batch-size", "256", "--output-dir", str(tmp_path / "run")])
    assert stopped.value.code == 1 and "not accepted: bit accuracy" in (tmp_path / "run/output.log").read_text()
    assert not json.loads((tmp_path / "run/results.json").read_text())["method"]["accepted"]


@pytest.mark.long
def test_resumed_with_another_classifier_it_is_refused(small_run, learned_run, tmp_path, monkeypatch, stop_in_epoch,
                                                     refused):
    model = tmp_path / "model.th"
    model.write_bytes((small_run / "model_last.th").read_bytes())
    flags = ["--checkpoint", str(model), "--dataset", "digits", "--bits", "4", "--width", "2", "--batch-size", "256",
             "--epochs", "2", "--output-dir", str(tmp_path / "run")]
    stop_in_epoch(2)
    with pytest.raises(SystemExit):
        main(flags)
    monkeypatch.undo()
    model.write_bytes((learned_run / "model_last.th").read_bytes())
    assert "--resume needs the images and weights" in refused(main, *flags, "--resume")


def test_too_few_images_are_refused(image_folder, small_run, tmp_path, refused):
    folder = image_folder(count=4)
    assert "at least 10 images" in refused(main, "--checkpoint", small_run / "model_last.th", "--data-dir", folder,
                                           "--output-dir", tmp_path / "run")


def test_training_says_that_an_encoder_was_not_accepted(encoder_run, tmp_path):
    content = load_encoder(encoder_run / "encoder.th")
    torch.save({**content, "accepted": False}, tmp_path / "encoder.th")
    train_backdoor.main([*SMALL, "--poison-type", "issba", "--encoder", str(tmp_path / "encoder.th"), "--output-dir",
                         str(tmp_path / "run")])
    assert "was not accepted" in (tmp_path / "run/output.log").read_text()


def test_what_is_refused(small_run, tmp_path, refused):
    flags = ["--dataset", "digits", "--poison-type", "issba", "--output-dir", tmp_path / "out"]
    assert "no such file" in refused(train_backdoor.main, *flags, "--encoder", tmp_path / "none.th")
    assert "expected an encoder and a decoder" in refused(train_backdoor.main, *flags, "--encoder",
                                                          small_run / "model_last.th")
    assert "--trigger-alpha: has no effect with --poison-type issba" in refused(train_backdoor.main, *flags,
                                                                              "--trigger-alpha", "0.5")
    assert "--encoder: has no effect with --poison-type badnets" in refused(
        train_backdoor.main, "--dataset", "digits", "--encoder", "x.th")
