"""STRIP: tell triggered inputs at run time by how sure the model stays when other images are laid over them.

    python -m defenses.strip --checkpoint output/badnets/model_last.th

STRIP (Gao et al., 2019). A trigger that is still seen beneath any overlay keeps the answers the same, so the entropy of
a triggered input is low. Reads a model, the defender's clean images (some calibrate, others are the overlays), and the
trigger beside the model, if there is one, for the figures alone. Writes into output/badnets/strip/: strip.json and
overlays.npy (the calibration), verdicts.csv, frr_sweep.csv, entropy.png, frr_sweep.png, output.log, config.json and
results.json. With --images it screens a file or a folder by that calibration: path, entropy and verdict as CSV; exit
status 0 if none is rejected, 1 if some are, 2 for an error or an image that cannot be read.
"""
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from common.files import hash_file, write_table
from data.image_folder import find_files
from engine.command_line import flags
from engine.command_line.command import command
from engine.command_line.normalization import INPUT_FLAGS
from engine.defending.suspect import beneath_model, load_given, load_suspect
from engine.drawing.bars import entropy_histogram
from engine.drawing.curves import frr_curves
from engine.measuring.evaluation import evaluate, predict
from engine.runs import machine
from engine.runs.run import Run
from methods.screening import Calibration, read_calibration, screen, write_calibration
from methods.strip import (
    FRRS,
    Strip,
    accepted,
    auroc,
    find_boundaries,
    rejected,
    split_calibration,
    sweep_frr,
)
from models.pixel_input import are_of_pixels

LEAVES = ("strip.json", "overlays.npy", "verdicts.csv", "frr_sweep.csv", "entropy.png", "frr_sweep.png")
SCREENING = {"checkpoint", "images", "calibration_file", "frr", "boundary", "device", *INPUT_FLAGS}  # with --images
VERDICT_COLUMNS = ("images", "index", "entropy", "called", "rejected")
log = logging.getLogger("backdoor")


def or_nan(value):
    """What the log says where results.json has null."""
    return math.nan if value is None else value


@dataclass(frozen=True)
class Inspection:
    """Test images that went through: their places in the test set, entropies, the classes they were called."""

    indices: np.ndarray  # in the whole test set
    entropies: np.ndarray
    called: np.ndarray
    hits: np.ndarray  # called what the set's label says: for triggered images, that the attack succeeds

    @classmethod
    def of(cls, strip, batches, places, count, generator):
        """`count` images of Batches (all where there are fewer), drawn at random; none where `batches` is None.

        places: int64 (N,), where each image of `batches` stands in the test set.
        """
        if batches is None:
            return cls(*(np.empty(0, dtype) for dtype in (np.int64, np.float64, np.int64, bool)))
        rows = torch.randperm(batches.num_images, generator=generator)[:count].to(batches.images.device)
        called = predict(strip.model, batches).argmax(1)[rows]
        images, hits = batches.images[rows].cpu().numpy(), called == batches.labels[rows]
        return cls(places[rows.cpu().numpy()], strip.entropies(images), called.cpu().numpy(), hits.cpu().numpy())

    @property
    def successful(self):
        """Entropies of those on which the attack succeeds."""
        return self.entropies[self.hits]

    def rows(self, name, boundary):
        """The rows of verdicts.csv."""
        return [{"images": name, "index": int(index), "entropy": float(entropy), "called": int(called),
                 "rejected": int(entropy <= boundary)}
                for index, entropy, called in zip(self.indices, self.entropies, self.called, strict=True)]


def summarize(calibration, boundary, clean, triggered):
    """What results.json says of a boundary: means, FRR, FAR, AUROC; None where nothing is triggered."""
    return {"mean_entropy": {"calibration": float(calibration.mean()), "clean": float(clean.entropies.mean()),
                             "triggered": float(triggered.entropies.mean()) if len(triggered.entropies) else None},
            "sd_calibration": float(calibration.std()),
            "frr": rejected(clean.entropies, boundary).as_dict(),
            "far": accepted(triggered.entropies, boundary).as_dict(),
            "far_successful": accepted(triggered.successful, boundary).as_dict(),
            "auroc": auroc(clean.entropies, triggered.entropies),
            "auroc_successful": auroc(clean.entropies, triggered.successful)}


def log_rates(figures, boundaries, decides, frr, clean, sweep):
    """The figures as lines of the log."""
    calibration, *others = map(or_nan, figures["mean_entropy"].values())
    log.info("mean entropy in bits: calibration %.4f (sd %.4f), clean %.4f, triggered %.4f", calibration,
             figures["sd_calibration"], *others)
    for name, boundary in boundaries.items():
        useless = ", below 0, so it rejects nothing" if boundary < 0 else ""
        log.info("%s boundary %.4f%s: FRR %.4f on fresh clean images (asked: %g)%s", name, boundary, useless,
                 rejected(clean.entropies, boundary).value, frr, "; it decides" if name == decides else "")
    log.info("Asked \t Boundary \t Entropy \t FRR \t FAR \t FAR of successful")
    for row in sweep:
        log.info("%g \t %s \t %.4f \t %.4f \t %.4f \t %.4f", *map(or_nan, row.values()))
    shares = (figures[name] and figures[name]["value"] for name in ("frr", "far", "far_successful"))
    log.info("FRR %.4f, FAR %.4f, FAR of the successful %.4f, AUROC %.4f", *map(or_nan, (*shares, figures["auroc"])))


def feed_alike(args, stored):
    """Set the flags of what the model is fed to those of its calibration, {flag: value}, {} for one that does not say.

    Raises UserError for other ones: another network would be screened than the boundary was found on.
    """
    for name, value in stored.items():
        is_sound = value in ("rgb", "bgr", None) if name == "channels" else value is None or are_of_pixels(value, name)
        if name not in INPUT_FLAGS or not is_sound:
            raise UserError(f"{args.calibration_file}: damaged (input); defenses.strip without --images makes "
                            "a new one")
        if getattr(args, name) not in (None, value):
            raise UserError(f"--{name}: another than the calibration was made with; leave it out, or calibrate anew")
        setattr(args, name, value)


def screen_images(args):
    """Screen --images by a stored calibration; returns the exit status."""
    stored = read_calibration(args.calibration_file, args.checkpoint)
    feed_alike(args, stored.input)
    device = machine.find_device(args.device)
    strip = Strip(load_given(args, device).model, stored.pool, stored.overlays, stored.superimpose,
                  stored.seed, device)
    boundary = find_boundaries(stored.entropies, args.frr or stored.frr)[args.boundary or stored.boundary]
    return screen(find_files(args.images), strip.entropies, boundary, strip.pool.shape[1])


def places_in(test):
    """[(Batches, where each of its images stands in the test set)] of clean and triggered EvalSets."""
    return (test.clean, np.arange(len(test.clean_images))), (test.triggered, test.victims)


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = parser.add_argument_group("STRIP")
    group.add_argument("--overlays", type=flags.integer(1),
                       help="clean images laid over each input (default: 100, or as many as there are)")
    group.add_argument("--superimpose", choices=("sum-clip", "average"), default="sum-clip",
                       help="add the pixels and cut off at white, or average them")
    group.add_argument("--calibration", type=flags.integer(1),
                       help="clean images that the boundary is found on (default: 2000, or half of the defender's)")
    group.add_argument("--frr", type=flags.number(1e-6, 0.5, "a share of clean inputs from 1e-6 to 0.5"), default=0.01,
                       help="share of clean inputs that may be rejected")
    group.add_argument("--boundary", choices=("empirical", "normal"), default="empirical",
                       help="the boundary: the quantile of the calibration's entropies, or of the normal fitted to "
                            "them, as in the paper")
    group.add_argument("--inspect", type=flags.integer(1), default=2000,
                       help="number of clean and of triggered test images to inspect")
    group = parser.add_argument_group("screening")
    group.add_argument("--images", metavar="FOLDER|FILE", help="screen these by a stored calibration")
    group.add_argument("--calibration-file", metavar="strip.json",
                       help="(default: strip/strip.json beneath the model's run)")
    flags.add_run_flags(parser, beneath_model("strip"))
    args = parser.parse_args(argv)
    if args.images is None:
        parser.refuse(argv, ["calibration_file"], "without --images")
        return args
    parser.refuse(argv, sorted(vars(args).keys() - SCREENING), "with --images, which goes by a stored calibration")
    args.calibration_file = args.calibration_file or str(Path(args.output_dir) / "strip.json")
    for name in {"frr", "boundary"} - parser.given(argv):
        setattr(args, name, None)  # as it was calibrated
    return args


def calibrate(run, args, strip, images):
    """({name: boundary}, entropies) of the clean `images`; writes the calibration that screening goes by."""
    log.info("%d clean images calibrate; %d of %d others are laid over each image", len(images), strip.overlays,
             len(strip.pool))
    entropies = strip.entropies(images)
    write_calibration(run.folder, Calibration(
        hash_file(args.checkpoint), strip.overlays, strip.superimpose, strip.seed, args.frr, args.boundary,
        entropies.tolist(), {name: getattr(args, name) for name in INPUT_FLAGS}, strip.pool))
    if args.frr * len(images) < 1:
        log.warning("%d images are too few for a quantile at FRR %g; the lowest entropy is the boundary", len(images),
                    args.frr)
    return find_boundaries(entropies, args.frr), entropies


def leave_tables(folder, clean, triggered, boundary, sweep):
    """verdicts.csv, of every image that was inspected, and frr_sweep.csv."""
    verdicts = clean.rows("clean", boundary) + triggered.rows("triggered", boundary)
    write_table(folder / "verdicts.csv", VERDICT_COLUMNS, verdicts)
    write_table(folder / "frr_sweep.csv", list(sweep[0]), sweep)


@command
def main(argv=None):
    args = parse_args(argv)
    if args.images is not None:
        raise SystemExit(screen_images(args))
    with Run(args, LEAVES) as run:
        suspect = load_suspect(args, run)
        held_out, pool = split_calibration(suspect.defender, args.calibration)
        overlays = args.overlays or min(100, len(pool) - 1)
        strip = Strip(suspect.model, pool, overlays, args.superimpose, args.seed, run.device)

        run.begin(suspect)
        boundaries, calibration = calibrate(run, args, strip, held_out)
        clean, triggered = (Inspection.of(strip, batches, places, args.inspect, run.generator)
                            for batches, places in places_in(suspect.test))

        figures = summarize(calibration, boundaries[args.boundary], clean, triggered)
        sweep = sweep_frr(calibration, clean.entropies, triggered.entropies, triggered.successful, {*FRRS, args.frr})
        log_rates(figures, boundaries, args.boundary, args.frr, clean, sweep)
        leave_tables(run.folder, clean, triggered, boundaries[args.boundary], sweep)
        entropy_histogram(run.folder / "entropy.png", clean.entropies, triggered.entropies, calibration.mean(),
                          calibration.std(), boundaries)
        frr_curves(run.folder / "frr_sweep.png", sweep)
        run.finish(evaluate(suspect.model, suspect.test), model=suspect.model, parent=args.checkpoint,
                   data=suspect.defender, method={
                       "name": "STRIP", "superimpose": args.superimpose, "overlays": overlays,
                       "boundary": args.boundary, "boundaries": boundaries, **figures, "frr_sweep": sweep})


if __name__ == "__main__":
    main()
