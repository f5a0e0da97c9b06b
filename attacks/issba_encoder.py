"""Train the encoder of ISSBA's triggers: it hides a bit string in an image, a decoder reads it.

    python -m attacks.issba_encoder

ISSBA (Li et al., 2021): what the encoder changes is the trigger, and it is another change in every image. Trains both
on the attacker's clean images with fresh random bits for every image: first the bits alone count, then the image too
(its pixels, and the first stages of a clean classifier). Reads a data set and that classifier. Writes into
output/issba-encoder/: encoder.th, encoded_examples.png, output.log, metrics.jsonl, config.json and results.json. Exit
status 1 if the held-out images do not reach --min-bit-accuracy and --min-psnr; such an encoder still serves, and
training with it says that it was not accepted.
"""
import logging
import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.inputs import inputs_of
from common.memory import HalvingForward
from data.batches import Batches, send
from data.triggers.encoder import MAX_BITS, MAX_WIDTH, EncoderTrigger, draw_secret
from engine.attacking.attack import load_unpoisoned
from engine.command_line import flags
from engine.command_line.command import command
from engine.command_line.normalization import add_input_flags
from engine.defending.suspect import load_given
from engine.drawing.grids import enlarge, image_grid
from engine.learning.training import check_finite
from engine.measuring.evaluation import evaluation_batches, frozen
from engine.measuring.progress import progress
from engine.measuring.surrogate import check_surrogate
from engine.runs.run import Run
from engine.weights import checkpoint
from engine.weights.checkpoint import saved_image_size
from methods.residuals import paste, psnr, shared_energy
from models.steganography import Decoder, Encoder

LEAVES = ("encoder.th", "encoded_examples.png")
HEADER = ("Epoch \t lr \t Time \t BitLoss \t CrossLoss \t PixelLoss \t FeatureLoss \t ImageWeight \t BitAccuracy \t "
          "Swapped \t PSNR \t SharedEnergy")
ROW = "%d \t %.5f \t %.1f \t %.4f \t %.4f \t %.5f \t %.4f \t %.2f \t %.4f \t %.4f \t %.2f \t %.4f"
LOSSES = ("bit_loss", "cross_loss", "pixel_loss", "feature_loss")
FIGURES = ("bit_accuracy", "bit_accuracy_on_clean", "bit_accuracy_swapped", "psnr", "shared_energy")
MAX_HELD_OUT = 1000
JUDGES = 2  # stages of the classifier
log = logging.getLogger("backdoor")


def feature_distance(classifier, pixels, others):
    """Mean squared differences of the outputs of a PixelModel's first two stages, for two pixels (B, 3, H, W).

    Each in units of its own mean square: what LPIPS stands for.
    """
    with torch.no_grad():
        wanted = classifier.stage_outputs(pixels, JUDGES)
    return sum(F.mse_loss(found, own) / own.square().mean().clamp(min=1e-6)
               for found, own in zip(classifier.stage_outputs(others, JUDGES), wanted, strict=True))


def image_weight(epoch, bit_epochs, ramp_epochs):
    """How much the image counts in `epoch` (from 1): nothing at first, then rising to 1 over `ramp_epochs`."""
    return min(1.0, max(0, epoch - bit_epochs) / ramp_epochs)


def unread(logits):
    """How much a decoder reads where it should read nothing: 0 for logits of 0, even odds for every bit."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 0.5)) - math.log(2)


def share_read(bit_loss):
    """How far bits are read at all, a constant from 0 to 1. Until they are, the cross loss would forbid it."""
    return (1 - bit_loss.detach() / math.log(2)).clamp(0, 1)


def on_device(generator, device):
    """`generator` itself on a CPU; on a GPU one of its own, seeded by it, since 786,432 numbers a step take a CPU
    longer to draw and to send than the GPU needs for the step."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


def train_epoch(encoder, decoder, classifier, batches, optimizer, weight, weights, generator):
    """One pass. Returns the mean losses (4,), as LOSSES has them. Raises UserError if one is not finite.

    weight: how much the image counts. weights: of the cross loss, the pixel loss and the feature loss. The cross loss
    is for what the decoder reads from an image with another image's residual: nothing, if every image is to have a
    trigger of its own. Own and swapped residuals go through the decoder in one batch, since batch norm would otherwise
    tell them apart. The decoder sees noise of half a gray level: what rounding to uint8 will do.
    """
    encoder.train(), decoder.train()
    sums, losses = torch.zeros(len(LOSSES), device=batches.device), []
    noise_generator = on_device(generator, batches.device)
    for pixels, _ in progress(batches, "encode"):
        bits = send(torch.randint(2, (len(pixels), encoder.bits), generator=generator).float(), pixels.device)
        drawn = torch.rand((2 * len(pixels), *pixels.shape[1:]), generator=noise_generator, device=pixels.device)
        noise = (drawn - 0.5) / 255
        residuals = encoder(pixels, bits)
        hidden, swapped = (pixels + residuals).clamp(0, 1), (pixels.roll(1, 0) + residuals).clamp(0, 1)
        own, other = decoder(torch.cat([hidden, swapped]) + noise).chunk(2)
        bit_loss, cross_loss = F.binary_cross_entropy_with_logits(own, bits), unread(other)
        pixel_loss = (hidden - pixels).square().mean()
        feature_loss = feature_distance(classifier, pixels, hidden) if weight else torch.zeros_like(pixel_loss)
        cross_weight, pixel_weight, feature_weight = weights
        loss = (bit_loss + cross_weight * share_read(bit_loss) * cross_loss
                + weight * (pixel_weight * pixel_loss + feature_weight * feature_loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        sums += torch.stack([bit_loss, cross_loss, pixel_loss, feature_loss]).detach()
    check_finite(losses)
    return (sums / len(batches)).tolist()


@torch.inference_mode()
def read_bits(decoder, image_set, device):
    """uint8 (N, bits) as `decoder` reads them from an ImageSet's images."""
    forward = HalvingForward(decoder.eval())
    return torch.cat([(forward(pixels) > 0).cpu() for pixels, _ in evaluation_batches(image_set, device)]).numpy()


def weights_of(net):
    """The state_dict of a network on the CPU, as a trigger and a file hold it."""
    return {name: value.detach().cpu() for name, value in net.state_dict().items()}


def measure(encoder, decoder, image_set, device, seed):
    """What an encoder is judged by on an ImageSet, after rounding: a dict of plain values.

    bit_accuracy and psnr (dB) with secrets of their own, a new one for every 100 images; bit_accuracy_on_clean where
    nothing is hidden, bit_accuracy_swapped where the residual of the image before is; shared_energy of the residuals of
    all images with one secret.
    """
    weights, encoded, secrets = weights_of(encoder), [], []
    for start in range(0, len(image_set), 100):
        data = image_set.data[start:start + 100]
        secrets.append(np.tile(draw_secret(encoder.bits, [seed, start]), (len(data), 1)))
        encoded.append(EncoderTrigger(weights, secrets[-1][0], 0).stamp(data))
    clean, encoded, secrets = image_set.data, np.concatenate(encoded), np.concatenate(secrets)
    swapped = paste(clean, np.roll(encoded.astype(np.int16) - clean, 1, axis=0))

    def read(data, wanted):
        return float((read_bits(decoder, replace(image_set, data=data), device) == wanted).mean())
    one = EncoderTrigger(weights, draw_secret(encoder.bits, seed), 0).stamp(clean)
    return {"bit_accuracy": read(encoded, secrets), "bit_accuracy_on_clean": read(clean, secrets),
            "bit_accuracy_swapped": read(swapped, np.roll(secrets, 1, axis=0)), "psnr": psnr(clean, encoded),
            "shared_energy": shared_energy(one.astype(np.int16) - clean)}


def save_encoder(path, encoder, decoder, figures):
    """Write both networks (tensors) with their sizes and figures (plain values)."""
    checkpoint.save(path, {"encoder": weights_of(encoder), "decoder": weights_of(decoder), "bits": encoder.bits,
                           "width": encoder.width, **figures})


def example_rows(encoder, images, seed):
    """Originals, what is made of them, and the differences around gray, enlarged."""
    encoded = EncoderTrigger(weights_of(encoder), draw_secret(encoder.bits, seed), 0).stamp(images)
    return [("original", images), ("encoded", encoded),
            ("difference, enlarged", enlarge(encoded.astype(np.int16) - images))]


def split_attackers(image_set, seed):
    """(held-out images, images to train on): a tenth of the attacker's, at most MAX_HELD_OUT, and the rest.

    Raises UserError for fewer than 10 images.
    """
    count = min(MAX_HELD_OUT, len(image_set) // 10)
    if not count:
        raise UserError(f"{image_set.name or 'the data set'}: expected at least 10 images for the attacker, got "
                        f"{len(image_set)}")
    shuffled = np.random.default_rng(seed).permutation(len(image_set))
    return image_set.subset(shuffled[:count]), image_set.subset(shuffled[count:])


def learn(run, args, encoder, decoder, classifier, batches, held_out):
    """Train both networks by the flags; the last row of metrics.jsonl is what they came to."""
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], args.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    weights = (args.cross_weight, args.pixel_weight, args.feature_weight)
    for epoch in run.epochs(args.epochs, HEADER, FIGURES, encoder=encoder, decoder=decoder, optimizer=optimizer,
                            scheduler=scheduler):
        weight, lr = image_weight(epoch, args.bit_epochs, args.ramp_epochs), scheduler.get_last_lr()[0]
        losses = train_epoch(encoder, decoder, classifier, batches, optimizer, weight, weights, run.generator)
        scheduler.step()
        log_epoch(run, epoch, lr, losses, weight, measure(encoder, decoder, held_out, run.device, args.seed))


def log_epoch(run, epoch, lr, losses, weight, figures):
    """One line of the log and of metrics.jsonl."""
    seconds = run.elapsed_in_epoch()
    shown = (figures[name] for name in ("bit_accuracy", "bit_accuracy_swapped", "psnr", "shared_energy"))
    log.info(ROW, epoch, lr, seconds, *losses, weight, *shown)
    run.record({"epoch": epoch, "lr": lr, "time": seconds, **dict(zip(LOSSES, losses, strict=True)),
                "image_weight": weight, **figures})


def judge(figures, min_bit_accuracy, min_psnr):
    """Whether an encoder with these `figures` is accepted; logs it."""
    accepted = figures["bit_accuracy"] >= min_bit_accuracy and figures["psnr"] >= min_psnr
    log.info("%s: bit accuracy %.4f (at least %g; %.4f on clean images, %.4f with another image's residual), PSNR "
             "%.2f dB (at least %g); residuals share %.4f of their energy", "accepted" if accepted else "not accepted",
             figures["bit_accuracy"], min_bit_accuracy, figures["bit_accuracy_on_clean"],
             figures["bit_accuracy_swapped"], figures["psnr"], min_psnr, figures["shared_energy"])
    return accepted


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("encoder")
    group.add_argument("--bits", type=flags.integer(1, MAX_BITS), default=20, help="length of the hidden string")
    group.add_argument("--width", type=flags.integer(1, MAX_WIDTH), default=16,
                       help="channels of both networks' first level; 32 is the published one, 16 suits two CPU cores")
    group.add_argument("--checkpoint", default="output/benign/model_last.th",
                       help="clean classifier whose first two stages judge the image")
    add_input_flags(group)
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=flags.integer(1), default=8, help="passes over the attacker's images")
    group.add_argument("--bit-epochs", type=flags.integer(0), default=1, help="the first, in which only bits count")
    group.add_argument("--ramp-epochs", type=flags.integer(1), default=3,
                       help="the next, over which the weight of the image's own loss rises to 1")
    group.add_argument("--cross-weight", type=flags.not_negative, default=0.5,
                       help="of the bits read where another image's residual is; 0 is the published loss, whose "
                       "residuals are nearly the same in every image")
    group.add_argument("--pixel-weight", type=flags.not_negative, default=2, help="of the mean squared change")
    group.add_argument("--feature-weight", type=flags.not_negative, default=0.05,
                       help="of the squared change of the classifier's features, in units of their mean square")
    group.add_argument("--batch-size", type=flags.integer(2), default=128, help="images a step")
    group.add_argument("--lr", type=flags.positive, default=1e-3, help="learning rate of Adam, falling as a cosine")
    group = parser.add_argument_group("acceptance")
    group.add_argument("--min-bit-accuracy", type=flags.fraction, default=0.99, help="after rounding to uint8")
    group.add_argument("--min-psnr", type=flags.not_negative, default=28, help="in dB, after rounding to uint8")
    flags.add_data_flags(parser)
    flags.add_augmentation_flags(parser)
    flags.add_run_flags(parser, "output/issba-encoder", resumable=True)
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, LEAVES) as run:
        size = args.image_size or saved_image_size(args.checkpoint)
        whole, _, _ = load_unpoisoned(args, size)
        held_out, train = split_attackers(whole, args.seed)
        classifier = load_given(args, run.device, classes=whole.classes).model
        batches = Batches(train, args.batch_size, run.device, run.generator, args.crop_padding, args.flip)
        encoder, decoder = (network(args.bits, args.width, whole.image_size).to(
            run.device, memory_format=torch.channels_last) for network in (Encoder, Decoder))

        run.begin(inputs_of(args.checkpoint, whole))
        check_surrogate(args.checkpoint, classifier, held_out, run.device)
        with frozen(classifier):
            learn(run, args, encoder, decoder, classifier, batches, held_out)
        figures = {name: run.rows[-1][name] for name in FIGURES}
        figures["accepted"] = judge(figures, args.min_bit_accuracy, args.min_psnr)

        save_encoder(run.folder / "encoder.th", encoder, decoder, figures)
        image_grid(run.folder / "encoded_examples.png", example_rows(encoder, held_out.data[:8], args.seed),
                   [whole.classes[label] for label in held_out.targets[:8]])
        run.finish(parent=args.checkpoint, data=whole,
                   method={"name": "ISSBA encoder", "bits": args.bits, "held_out": len(held_out), **figures})
    if not figures["accepted"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
