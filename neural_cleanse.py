"""Neural Cleanse: rebuild the smallest trigger of every label, flag the one that is far too small, and unlearn it.

    python neural_cleanse.py detect --checkpoint output/badnets/model_last.th

Wang et al. (2019). A backdoor is a short cut: few pixels send every image to its target. detect reads a model and the
defender's clean images (and the trigger beside the model, if there is one, to compare with) and writes into
output/badnets/neural-cleanse/: reversed_trigger_<label>.th, norms.csv, norms.png, reversed_triggers.png, output.log,
config.json and results.json. unlearn then fine-tunes the model on clean images, a fifth of them stamped with what
detect flagged but rightly labelled, and writes model_last.th into output/badnets/unlearn-reversed/.
"""
import json
import logging
import math
from pathlib import Path

import numpy as np
import torch
from scipy.stats import median_abs_deviation

from data.batches import Batches
from data.datasets import ImageSet
from data.files import UserError, hash_file, write_table
from data.poison_cifar import stamp_all, stamp_share
from engine import flags
from engine.checkpoint import load_trigger, save_model, save_trigger
from engine.command import command
from engine.figures import norm_bars, trigger_grid
from engine.repair import fine_tune
from engine.run import Run
from engine.suspect import default_folder, find_trigger, load_suspect
from engine.training import evaluate, evaluation_batches, score
from engine.trigger_search import as_trigger, reverse_triggers

COLUMNS = ("seed", "label", "class", "norm", "index", "flagged", "success", "steps")
BOUND = 2.0  # anomaly index above which a label is flagged
log = logging.getLogger("backdoor")


def anomaly_indices(norms):
    """(index of each norm, which are flagged): distance from the median in normal-consistent MADs, flagged if it is
    above BOUND on the left. A norm that is infinite (no trigger found) has index nan and takes no part.

    Raises UserError for fewer than three norms, whose outliers have no meaning.
    """
    norms = np.asarray(norms, dtype=np.float64)
    found = norms[np.isfinite(norms)]
    if np.isnan(norms).any() or len(found) < 3:
        raise UserError(f"the outlier test needs the norms of at least 3 labels, got {len(found)}")
    spread = median_abs_deviation(found, scale="normal")
    distance = np.where(np.isfinite(norms), norms - np.median(found), np.nan)
    indices = np.abs(distance) / spread if spread > 0 else 0 * distance
    return indices, (distance < 0) & (indices > BOUND)


def lowest_unflagged(norms):
    """The norm below which a label is flagged: the median of those found less BOUND normal-consistent MADs."""
    found = np.asarray(norms)[np.isfinite(norms)]
    return float(np.median(found) - BOUND * median_abs_deviation(found, scale="normal"))


def overlap(found, true):
    """IoU of the pixels that each trigger covers by more than half of its own most; and the share of `found`'s mask
    that lies on the true one's pixels."""
    covered = [trigger.mask[..., 0] > trigger.mask.max() / 2 for trigger in (found, true)]
    inside = found.mask[..., 0][true.mask[..., 0] > 0].sum() / max(found.mask.sum(), 1e-12)
    return {"iou": float((covered[0] & covered[1]).sum() / (covered[0] | covered[1]).sum()),
            "inside": float(inside)}


def check_clean_images(defender):
    """UserError unless there are three labels, and clean images of every one."""
    if defender.num_classes < 3:
        raise UserError(f"{defender.num_classes} classes: the outlier test has no meaning for fewer than 3 labels")
    missing = sorted(set(range(defender.num_classes)) - set(defender.targets.tolist()))
    if missing:
        raise UserError(f"no clean image of the class {defender.classes[missing[0]]} among the defender's "
                        f"{len(defender)}: Neural Cleanse needs some of every class")


def describe_seed(seed, searches, indices, flagged, classes):
    """Log what a seed found, and return its rows of norms.csv."""
    rows = []
    for search, index, is_flagged in zip(searches, indices, flagged, strict=True):
        found = math.isfinite(search.norm)
        rows.append({"seed": seed, "label": search.label, "class": classes[search.label],
                     "norm": search.norm if found else None, "index": float(index) if found else None,
                     "flagged": int(is_flagged), "success": search.success if found else None, "steps": search.steps})
        what = f"norm {search.norm:.2f}, index {index:.2f}" if found else "no trigger found within the budget"
        log.info("seed %d, label %d (%s): %s, %d steps%s", seed, search.label, classes[search.label], what,
                 search.steps, ", flagged" if is_flagged else "")
    return rows


def judge(by_seed):
    """[label] that more than half of the seeds flag; `by_seed` is a bool (seeds, labels)."""
    return np.flatnonzero(np.mean(by_seed, axis=0) > 0.5).tolist()


def smallest(by_seed):
    """{label: the Search of smallest norm over the seeds}, of the labels that any seed found a trigger for."""
    best = {}
    for search in (search for searches in by_seed for search in searches if math.isfinite(search.norm)):
        if search.label not in best or search.norm < best[search.label].norm:
            best[search.label] = search
    return best


def reversed_figures(model, test, trigger, true):
    """What results.json says of a reversed trigger: its norm, its own ASR on the test images (which needs no true
    trigger), and how it lies over the true one, None where that is not known."""
    clean = ImageSet(test.clean.images.cpu().numpy(), test.clean.labels.cpu().numpy())
    own = score(model, evaluation_batches(stamp_all(clean, trigger), test.clean.images.device)).accuracy
    return {"label": trigger.target, "norm": float(trigger.mask.sum()), "asr_of_reversed_trigger": own.as_dict(),
            "overlap": true and overlap(trigger, true)}


def flagged_triggers(args):
    """The triggers that --reversed-trigger names, or that detect flagged. Raises UserError where there are none."""
    files = args.reversed_trigger
    if files is None:
        folder = Path(default_folder(args.checkpoint, "neural-cleanse"))
        try:
            targets = json.loads((folder / "results.json").read_text())["method"]["targets"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{folder}: no finished run of detect; name a --reversed-trigger") from None
        if not targets:
            raise UserError(f"{folder}: detect flagged no label, so there is nothing to unlearn; name a "
                            "--reversed-trigger to do it all the same")
        files = [folder / f"reversed_trigger_{target}.th" for target in targets]
    return [load_trigger(file) for file in files]


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="detect|unlearn")
    detect = tasks.add_parser("detect", docstring=__doc__, help="rebuild every label's trigger and flag outliers")
    unlearn = tasks.add_parser("unlearn", docstring=__doc__, help="fine-tune the trigger away")
    for task in (detect, unlearn):
        flags.add_suspect_flags(task)
        flags.add_data_flags(task)
    group = detect.add_argument_group("search")
    group.add_argument("--seeds", type=flags.integer(1), default=3, help="searches; most of them decide")
    group.add_argument("--budget", type=flags.integer(1), default=300, help="largest number of steps for each label")
    group.add_argument("--batches", type=flags.integer(1), default=8, help="batches of clean images in a step")
    group.add_argument("--batch-size", type=flags.integer(1), default=32, help="clean images for each label at a time")
    group.add_argument("--success", type=flags.fraction, default=0.99,
                       help="share of a step's images that must reach the label")
    group.add_argument("--patience", type=flags.integer(1), default=25,
                       help="steps without a smaller norm after which a label is done")
    group.add_argument("--lr", type=flags.positive, default=0.1, help="learning rate of Adam")
    flags.add_run_flags(detect, "neural-cleanse/ beneath the model's run")
    group = unlearn.add_argument_group("patch")
    group.add_argument("--patch-with", choices=("reversed", "original", "clean"), default="reversed",
                       help="what is stamped on a share of the images: what detect flagged, the true trigger (as a "
                            "control), or nothing (as another)")
    group.add_argument("--reversed-trigger", metavar="FILE.th", nargs="+",
                       help="what to unlearn (default: what detect left in neural-cleanse/ and flagged)")
    group.add_argument("--stamp-share", type=flags.fraction, default=0.2, help="share of the images that is stamped")
    flags.add_sgd_flags(unlearn, 1, 0.01)
    flags.add_augmentation_flags(unlearn)
    flags.add_run_flags(unlearn, "unlearn-<patch>/ beneath the model's run", resumable=True)
    args = parser.parse_args(argv)
    if args.task == "unlearn" and args.reversed_trigger and args.patch_with != "reversed":
        unlearn.error(f"--reversed-trigger: means nothing for --patch-with {args.patch_with}")
    name = "neural-cleanse" if args.task == "detect" else f"unlearn-{args.patch_with}"
    args.output_dir = args.output_dir or default_folder(args.checkpoint, name)
    return args


def detect(args):
    reversed_before = [path.name for path in Path(args.output_dir).glob("reversed_trigger_*.th")]
    with Run(args, ("norms.csv", "norms.png", "reversed_triggers.png"), reversed_before) as run:
        suspect, test, defender = load_suspect(args.checkpoint, args.trigger_info, args.dataset, args.data_dir,
                                               run.device)
        check_clean_images(defender)
        model, classes, true = suspect.model, defender.classes, find_trigger(args.checkpoint, args.trigger_info)

        run.begin()
        by_seed, rows, flags_by_seed = [], [], []
        for seed in range(args.seed, args.seed + args.seeds):
            generator = torch.Generator().manual_seed(seed)
            batches = Batches(defender, args.batch_size, run.device, generator, draws=args.batch_size * args.batches)
            searches = reverse_triggers(model, batches, range(len(classes)), args.budget, args.success, args.patience,
                                        args.lr, generator)
            indices, flagged = anomaly_indices([search.norm for search in searches])
            rows += describe_seed(seed, searches, indices, flagged, classes)
            by_seed.append(searches)
            flags_by_seed.append(flagged)
        targets, best = judge(flags_by_seed), smallest(by_seed)
        triggers = {label: as_trigger(search) for label, search in best.items()}
        for label, trigger in triggers.items():
            save_trigger(run.folder / f"reversed_trigger_{label}.th", trigger)
        log.info("verdict: %s", f"infected, target {', '.join(f'{label} ({classes[label]})' for label in targets)}"
                 if targets else "clean")
        write_table(run.folder / "norms.csv", COLUMNS, rows)
        norms = [[search.norm for search in searches] for searches in by_seed]
        norm_bars(run.folder / "norms.png", classes, norms, list(map(lowest_unflagged, norms)))
        closest = targets or [min(best, key=lambda label: best[label].norm)]
        found = [reversed_figures(model, test, triggers[label], true) for label in closest]
        for figures in found:
            log.info("reversed trigger of label %d: norm %.2f, its own ASR %.4f%s", figures["label"], figures["norm"],
                     figures["asr_of_reversed_trigger"]["value"], "" if true is None else
                     ", IoU with the true one {iou:.2f}, {inside:.2f} of its mask inside".format(**figures["overlap"]))
        trigger_grid(run.folder / "reversed_triggers.png", [
            *((f"{label}: {classes[label]}\nL1 {best[label].norm:.1f}", triggers[label]) for label in sorted(triggers)),
            *([(f"true ({true.target})\nL1 {float((true.mask * true.alpha).sum()):.1f}", true)] if true else [])])
        run.finish(**evaluate(model, test).figures(), parent=args.checkpoint, dataset=defender.name,
                   width=model.spec["width"], seed=args.seed, method={
                       "name": "Neural Cleanse", "infected": bool(targets), "targets": targets,
                       "flagged_by_seed": [np.flatnonzero(flagged).tolist() for flagged in flags_by_seed],
                       "reversed": found, "norms": rows})


def unlearn(args):
    with Run(args, ("model_last.th",)) as run:
        suspect, test, defender = load_suspect(args.checkpoint, args.trigger_info, args.dataset, args.data_dir,
                                               run.device)
        model, true, triggers = suspect.model, find_trigger(args.checkpoint, args.trigger_info), []
        if args.patch_with == "reversed":
            triggers = flagged_triggers(args)
        elif args.patch_with == "original":
            if true is None:
                raise UserError("--patch-with original: no trigger is known; name one with --trigger-info")
            triggers = [true]
        patched = stamp_share(defender, triggers, args.stamp_share, args.seed)
        batches = Batches(patched, args.batch_size, run.device, run.generator, args.crop_padding, args.flip)
        optimizer = torch.optim.SGD(model.parameters(), args.lr, args.momentum, weight_decay=args.weight_decay)
        amp = run.device.type == "cuda" if args.amp is None else args.amp

        run.begin(f"{hash_file(args.checkpoint)} {patched.fingerprint()}")
        log.info("%d clean images, %d of them stamped under their own label", len(patched), patched.poisoned.sum())
        before = evaluate(model, test)
        log.info("before: ASR %.4f, ACC %.4f", before.triggered.accuracy.value, before.clean.accuracy.value)
        after = fine_tune(run, model, batches, test, optimizer, args.epochs, amp)
        save_model(run.folder / "model_last.th", model, vars(args), after.figures(), suspect.classes)
        run.finish(**after.figures(), parent=args.checkpoint, dataset=defender.name, width=model.spec["width"],
                   epochs=args.epochs, seed=args.seed, method={
                       "name": "unlearning", "patch_with": args.patch_with, "before": before.figures(),
                       "images": len(patched), "stamped": int(patched.poisoned.sum())})


@command
def main(argv=None):
    args = parse_args(argv)
    {"detect": detect, "unlearn": unlearn}[args.task](args)


if __name__ == "__main__":
    main()
