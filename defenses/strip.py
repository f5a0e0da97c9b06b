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
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.files import hash_file, write_table
from data.batches import to_pixels
from data.image_folder import find_files
from engine import flags, machine
from engine.checkpoint import load_model
from engine.command import command
from engine.evaluation import Proportion, check_outputs, evaluate, evaluation_batch, predict
from engine.figures import entropy_histogram, frr_curves
from engine.inputs import default_folder, inputs_of, load_suspect
from engine.progress import progress
from engine.run import Run
from methods.screening import Calibration, read_calibration, screen, write_calibration
from models.folding import folded

LEAVES = ("strip.json", "overlays.npy", "verdicts.csv", "frr_sweep.csv", "entropy.png", "frr_sweep.png")
FRRS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
WHOLE_BATCHES = ("cuda",)  # devices on which an entropy would depend on the size of its batch
MAX_POOL = 1000  # images kept as overlays, 3 MB; more would not change the mean over 100 of them
SCREENING = {"checkpoint", "images", "calibration_file", "frr", "boundary", "device"}  # what counts with --images
VERDICT_COLUMNS = ("images", "index", "entropy", "called", "rejected")
log = logging.getLogger("backdoor")


def superimpose(images, overlays, how):
    """Two batches of pixels in [0, 1], (B, 3, 32, 32), as one: their sum cut off at 1 (sum-clip), or their average."""
    return (images + overlays).clamp_(max=1) if how == "sum-clip" else (images + overlays) / 2


def entropy_bits(logits):
    """Entropy in bits (B,) of the softmax of logits (B, classes): from 0 to log2(classes)."""
    log_p = F.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1) / math.log(2)


def pair_batches(count, size, device):
    """The numbers of `count` pairs, int64 on `device`, in batches of `size`. On a GPU the last batch is filled up with
    the first pairs: cuDNN's algorithm, and with it the rounding of an entropy, may depend on how many go through."""
    numbers = math.ceil(count / size) * size if torch.device(device).type in WHOLE_BATCHES else count
    return (torch.arange(numbers, device=device) % count).split(size)


@torch.inference_mode()
def strip_entropy(model, images, pool, draws, how):
    """Mean entropy (N,) of each image under its overlays: the mean of entropies, not that of the mean prediction.

    images: uint8 (N, 32, 32, 3). pool: uint8 (M, 32, 32, 3). draws: int64 (N, n), which of the pool lie over each
    image. Superimposed a batch at a time, so that no more than one batch of the N * n is ever in memory. Raises
    UserError for outputs that are NaN.
    """
    model, entropies = folded(model), []
    draws = torch.as_tensor(draws, device=images.device)
    pairs = pair_batches(draws.numel(), evaluation_batch(images.device), images.device)
    for rows in progress(pairs, "strip"):
        under, over = images[rows // draws.shape[1]], pool[draws.view(-1)[rows]]
        logits = model(superimpose(to_pixels(under), to_pixels(over), how))
        entropies.append(entropy_bits(logits))
    return check_outputs(torch.cat(entropies)[:draws.numel()]).view(draws.shape).double().mean(1).cpu().numpy()


def draw_overlays(images, pool, count, seed):
    """int64 (N, count): different images of `pool` for each of `images`, both uint8 (N, 32, 32, 3), never itself.

    The draws follow from the image and the seed, so that a verdict does not depend on what else is inspected.
    """
    names = np.array([zlib.crc32(overlay.tobytes()) for overlay in pool])
    draws = np.empty((len(images), count), dtype=np.int64)
    for row, image in zip(draws, images, strict=True):
        name = zlib.crc32(image.tobytes())
        row[:] = np.random.default_rng([seed, name]).choice(np.flatnonzero(names != name), count, replace=False)
    return draws


def find_boundaries(entropies, frr):
    """The entropies that a share `frr` of clean images is not above: by a fitted normal, and by the empirical quantile.

    The normal one (the paper's) may fall below 0, where it rejects nothing: the left tail is not normal.
    """
    from scipy.stats import norm  # half a second, which no script's start should take
    return {"normal": float(np.mean(entropies) + np.std(entropies) * norm.ppf(frr)),
            "empirical": float(np.quantile(entropies, frr, method="inverted_cdf"))}


def rejected(entropies, boundary):
    """Proportion of the inputs that are turned away: the FRR of clean ones, 1 - FAR of triggered ones."""
    return Proportion(int((np.asarray(entropies) <= boundary).sum()), len(entropies))


def accepted(entropies, boundary):
    """Proportion of the inputs that pass: the FAR of triggered ones."""
    found = rejected(entropies, boundary)
    return Proportion(found.n - found.hits, found.n)


def auroc(clean, triggered):
    """P(a triggered input has less entropy than a clean one), a tie counting half; None without triggered ones."""
    if not len(triggered):
        return None
    from sklearn.metrics import roc_auc_score  # a second, likewise
    is_triggered = np.repeat([0, 1], [len(clean), len(triggered)])
    return float(roc_auc_score(is_triggered, -np.concatenate([clean, triggered])))


def sweep_frr(calibration, clean, triggered, successful, frrs=FRRS):
    """A row for each FRR that might be asked for and each boundary: the FRR it really gives, and the FARs."""
    return [{"frr_asked": frr, "boundary": name, "entropy": boundary, "frr": rejected(clean, boundary).value,
             "far": or_none(accepted(triggered, boundary)),
             "far_successful": or_none(accepted(successful, boundary))}
            for frr in sorted(frrs) for name, boundary in find_boundaries(calibration, frr).items()]


def or_none(share):
    """The value of a Proportion, None where nothing was counted."""
    return share.value if share.n else None


def or_nan(value):
    """What the log says where results.json has null."""
    return math.nan if value is None else value


@dataclass(frozen=True)
class Strip:
    """A model with the clean images that are laid over its inputs: uint8 pool (M, 32, 32, 3), `overlays` of them."""

    model: torch.nn.Module
    pool: np.ndarray
    overlays: int
    superimpose: str
    seed: int
    device: torch.device

    def __post_init__(self):
        if self.overlays >= len(self.pool):
            raise UserError(f"--overlays {self.overlays}: expected fewer than the {len(self.pool)} different clean "
                            "images that do not calibrate; a smaller --calibration leaves more")

    def entropies(self, images):
        """float64 (N,) for uint8 images (N, 32, 32, 3)."""
        draws = draw_overlays(images, self.pool, self.overlays, self.seed)
        images, pool = (torch.from_numpy(array).to(self.device) for array in (images, self.pool))
        return strip_entropy(self.model, images, pool, draws, self.superimpose)


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


def report(figures, boundaries, decides, frr, clean, sweep):
    """The figures as lines of the log."""
    calibration, *others = map(or_nan, figures["mean_entropy"].values())
    log.info("mean entropy in bits: calibration %.4f (sd %.4f), clean %.4f, triggered %.4f", calibration,
             figures["sd_calibration"], *others)
    for name, boundary in boundaries.items():
        log.info("%s boundary %.4f%s: FRR %.4f on fresh clean images (asked: %g)%s", name, boundary,
                 ", below 0, so that it rejects nothing" if boundary < 0 else "",
                 rejected(clean.entropies, boundary).value, frr, "; it decides" if name == decides else "")
    log.info("Asked \t Boundary \t Entropy \t FRR \t FAR \t FAR of successful")
    for row in sweep:
        log.info("%g \t %s \t %.4f \t %.4f \t %.4f \t %.4f", *map(or_nan, row.values()))
    shares = (figures[name] and figures[name]["value"] for name in ("frr", "far", "far_successful"))
    log.info("FRR %.4f, FAR %.4f, FAR of the successful %.4f, AUROC %.4f", *map(or_nan, (*shares, figures["auroc"])))


def split_calibration(defender, count=None):
    """(calibration images, images to lay over others) of the defender's, uint8, the latter without repetitions.

    count: of the former; None is 2,000, or half of them. Raises UserError where `count` leaves no others.
    """
    count = count or min(2000, len(defender) // 2)
    if count >= len(defender):
        raise UserError(f"--calibration {count}: expected fewer than the defender's {len(defender)} images, since the "
                        "others are laid over them")
    others = defender.data[count:count + MAX_POOL]
    _, first = np.unique(others.reshape(len(others), -1), axis=0, return_index=True)
    return defender.data[:count], others[np.sort(first)]


def screen_images(args):
    """Screen --images by a stored calibration; returns the exit status."""
    stored = read_calibration(args.calibration_file, args.checkpoint)
    device = machine.find_device(args.device)
    strip = Strip(load_model(args.checkpoint, device).model, stored.pool, stored.overlays, stored.superimpose,
                  stored.seed, device)
    boundary = find_boundaries(stored.entropies, args.frr or stored.frr)[args.boundary or stored.boundary]
    return screen(find_files(args.images), strip.entropies, boundary, strip.pool.shape[1])


def places_in(test):
    """[(Batches, where each of its images stands in the test set)] of clean and triggered EvalSets."""
    labels = test.clean.labels.cpu().numpy()
    triggered = np.flatnonzero(labels != test.triggered.labels[0].item()) if test.triggered else None
    return (test.clean, np.arange(len(labels))), (test.triggered, triggered)


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
                       help="share of clean inputs that may be turned away")
    group.add_argument("--boundary", choices=("empirical", "normal"), default="empirical",
                       help="what the boundary is: the quantile of the calibration's entropies, or that of the normal "
                            "fitted to them, the paper's")
    group.add_argument("--inspect", type=flags.integer(1), default=2000,
                       help="clean test images, and triggered ones, to count on")
    group = parser.add_argument_group("screening")
    group.add_argument("--images", metavar="FOLDER|FILE", help="screen these by a stored calibration")
    group.add_argument("--calibration-file", metavar="strip.json",
                       help="(default: strip/strip.json beneath the model's run)")
    flags.add_run_flags(parser, "strip/ beneath the model's run")
    args = parser.parse_args(argv)
    folder = args.output_dir or default_folder(args.checkpoint, "strip")
    if args.images is None:
        parser.refuse(argv, ["calibration_file"], "without --images")
        args.output_dir = folder
    else:
        parser.refuse(argv, sorted(vars(args).keys() - SCREENING), "with --images, which goes by a stored calibration")
        args.calibration_file = args.calibration_file or str(Path(folder) / "strip.json")
        for name in {"frr", "boundary"} - parser.given(argv):
            setattr(args, name, None)  # as it was calibrated
    return args


@command
def main(argv=None):
    args = parse_args(argv)
    if args.images is not None:
        raise SystemExit(screen_images(args))
    with Run(args, LEAVES) as run:
        suspect, test, defender = load_suspect(args.checkpoint, args.trigger_info, args.dataset, args.data_dir,
                                               run.device)
        held_out, pool = split_calibration(defender, args.calibration)
        overlays = args.overlays or min(100, len(pool) - 1)
        strip = Strip(suspect.model, pool, overlays, args.superimpose, args.seed, run.device)

        run.begin(inputs_of(args.checkpoint, defender))
        log.info("%d clean images calibrate; %d of %d others lie over each image", len(held_out), overlays, len(pool))
        calibration = strip.entropies(held_out)
        boundaries = find_boundaries(calibration, args.frr)
        write_calibration(run.folder, Calibration(
            hash_file(args.checkpoint), overlays, args.superimpose, args.seed, args.frr, args.boundary,
            calibration.tolist(), pool))
        if args.frr * len(held_out) < 1:
            log.info("notice: %d images have no quantile at FRR %g; the least entropy is the boundary", len(held_out),
                     args.frr)

        clean, triggered = (Inspection.of(strip, batches, places, args.inspect, run.generator)
                            for batches, places in places_in(test))
        boundary = boundaries[args.boundary]
        figures = summarize(calibration, boundary, clean, triggered)
        sweep = sweep_frr(calibration, clean.entropies, triggered.entropies, triggered.successful, {*FRRS, args.frr})
        report(figures, boundaries, args.boundary, args.frr, clean, sweep)
        verdicts = clean.rows("clean", boundary) + triggered.rows("triggered", boundary)
        write_table(run.folder / "verdicts.csv", VERDICT_COLUMNS, verdicts)
        write_table(run.folder / "frr_sweep.csv", list(sweep[0]), sweep)
        entropy_histogram(run.folder / "entropy.png", clean.entropies, triggered.entropies, calibration.mean(),
                          calibration.std(), boundaries)
        frr_curves(run.folder / "frr_sweep.png", sweep)
        run.finish(**evaluate(suspect.model, test).figures(), parent=args.checkpoint, dataset=defender.name,
                   width=suspect.model.spec["width"], seed=args.seed,
                   method={"name": "STRIP", "superimpose": args.superimpose, "overlays": overlays,
                           "boundary": args.boundary, "boundaries": boundaries, **figures, "frr_sweep": sweep})


if __name__ == "__main__":
    main()
