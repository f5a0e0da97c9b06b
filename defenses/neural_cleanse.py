"""Neural Cleanse: rebuild the smallest trigger of every label, and flag the one that is far too small.

    python -m defenses.neural_cleanse --checkpoint output/badnets/model_last.th

Wang et al. (2019). A backdoor is a short cut: few pixels send every image to its target. Reads a model and the
defender's clean images (and the trigger beside the model, if there is one, to compare with). Writes into
output/badnets/neural-cleanse/: reversed_trigger_<label>.th, which defenses.unlearn_trigger unlearns and every defense
takes as --trigger-info, norms.csv, norms.png, reversed_triggers.png, output.log, config.json and results.json.
"""
import logging
import math
from pathlib import Path

import numpy as np
import torch

from common.files import write_table
from data.batches import Batches
from engine.command_line import flags
from engine.command_line.aim_flags import called
from engine.command_line.command import command
from engine.defending.suspect import asr_of, beneath_model, load_suspect
from engine.drawing.bars import norm_bars
from engine.drawing.grids import trigger_grid
from engine.measuring.evaluation import evaluate
from engine.runs import machine
from engine.runs.run import Run
from engine.weights.checkpoint import save_trigger
from methods.outliers import anomaly_indices, flagging_bound, majority_labels
from methods.trigger_search import LR, PATIENCE, SUCCESS, as_trigger, check_clean_images, reverse_triggers, smallest

LEAVES = ("norms.csv", "norms.png", "reversed_triggers.png")
COLUMNS = ("seed", "label", "class", "norm", "index", "flagged", "success", "steps")
log = logging.getLogger("backdoor")


def overlap(found, true):
    """IoU of the pixels that each trigger covers by more than half of its own most; and the share of `found`'s mask
    that lies on the true one's pixels."""
    covered = [trigger.mask[..., 0] > trigger.mask.max() / 2 for trigger in (found, true)]
    inside = found.mask[..., 0][true.mask[..., 0] > 0].sum() / max(found.mask.sum(), 1e-12)
    return {"iou": float((covered[0] & covered[1]).sum() / (covered[0] | covered[1]).sum()),
            "inside": float(inside)}


def record_seed(seed, searches, indices, flagged, classes):
    """Log what a seed found, and return its rows of norms.csv."""
    rows = []
    for search, index, is_flagged in zip(searches, indices, flagged, strict=True):
        found = math.isfinite(search.norm)
        rows.append({"seed": seed, "label": search.label, "class": classes[search.label],
                     "norm": search.norm if found else None, "index": float(index) if np.isfinite(index) else None,
                     "flagged": int(is_flagged), "success": search.success if found else None, "steps": search.steps})
        what = f"norm {search.norm:.2f}, index {index:.2f}" if found else "no trigger found within the budget"
        log.info("seed %d, label %s: %s, %d steps%s", seed, called(search.label, classes), what, search.steps,
                 ", flagged" if is_flagged else "")
    bound = flagging_bound([search.norm for search in searches])
    if math.isnan(bound):
        log.info("seed %d: no verdict, triggers were found for fewer than 3 labels; a larger --budget may help", seed)
    elif bound <= 0:
        log.info("seed %d: no norm could be flagged, since the norms lie too far apart (bound %.2f)", seed, bound)
    return rows


def label_summary(rows, label):
    """A label over all seeds: how many flag it, and the lowest and highest norm and index, None where there is none."""
    own = [row for row in rows if row["label"] == label]
    ranges = {name: [row[name] for row in own if row[name] is not None] for name in ("norm", "index")}
    return {"label": label, "class": own[0]["class"], "seeds": len(own), "flagged_in": sum(r["flagged"] for r in own),
            **{name: [min(values), max(values)] if values else None for name, values in ranges.items()}}


def log_verdict(targets, infected, labels, best, classes):
    """Log the verdict, none where `infected` is None; and how steady it is, for the labels that any seed flagged and
    the one of smallest norm."""
    named = ", ".join(called(label["label"], classes) for label in labels if label["label"] in targets)
    verdicts = {True: f"infected, target {named}", False: "clean", None: "none, since most searches could flag nothing"}
    log.info("verdict: %s", verdicts[infected])
    closest = min(best, key=lambda label: best[label].norm, default=None)
    for label in labels:
        if label["flagged_in"] or label["label"] == closest:
            norm, index = ("-".join(f"{end:.2f}" for end in label[name]) if label[name] else "nan"
                           for name in ("norm", "index"))
            log.info("label %s: flagged in %d of %d seeds, norm %s, index %s", called(label["label"], classes),
                     label["flagged_in"], label["seeds"], norm, index)


def reversed_figures(model, test, trigger, true):
    """What results.json says of a reversed trigger: its norm, its own ASR on the test images (which needs no true
    trigger), and how it lies over the true one, None where that is not known, has another target or lies everywhere."""
    comparable = true is not None and true.target == trigger.target and not (true.mask > 0).all()
    return {"label": trigger.target, "norm": float(trigger.mask.sum()),
            "asr_of_reversed_trigger": asr_of(model, test, trigger),
            "overlap": overlap(trigger, true) if comparable else None}


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    flags.add_suspect_flags(parser)
    flags.add_data_flags(parser)
    group = parser.add_argument_group("search")
    group.add_argument("--seeds", type=flags.integer(1), default=3,
                       help="number of searches, of which the majority decides")
    group.add_argument("--budget", type=flags.integer(1), default=300, help="largest number of steps for each label")
    group.add_argument("--batches", type=flags.integer(1), default=4, help="batches of clean images in a step")
    group.add_argument("--batch-size", type=flags.integer(1), default=32, help="clean images for each label at a time")
    group.add_argument("--success", type=flags.number(0.01, 1, "a share in [0.01, 1]"), default=SUCCESS,
                       help="share of a step's images that must reach the label")
    group.add_argument("--patience", type=flags.integer(1), default=PATIENCE,
                       help="steps without a smaller norm after which a label is done")
    group.add_argument("--lr", type=flags.positive, default=LR, help="learning rate of Adam")
    flags.add_run_flags(parser, beneath_model("neural-cleanse"))
    return parser.parse_args(argv)


def search(run, args, model, defender):
    """Search a trigger of every label for each seed. Returns ([[Search]] of seeds and labels, the rows of norms.csv,
    which the run is left with, and which are flagged, bool (seeds, labels))."""
    machine.set_cudnn_benchmark(False)  # labels that are done leave the batch, so that it takes up to ten sizes
    by_seed, rows, flagged_by_seed = [], [], []
    for seed in range(args.seed, args.seed + args.seeds):
        generator = torch.Generator().manual_seed(seed)
        batches = Batches(defender, args.batch_size, run.device, generator)
        searches = reverse_triggers(model, batches, args.batches, range(defender.num_classes), args.budget,
                                    args.success, args.patience, args.lr, generator)
        indices, flagged = anomaly_indices([search.norm for search in searches])
        rows += record_seed(seed, searches, indices, flagged, defender.classes)
        write_table(run.folder / "norms.csv", COLUMNS, rows)
        by_seed.append(searches)
        flagged_by_seed.append(flagged)
    return by_seed, rows, flagged_by_seed


def verdict(targets, bounds):
    """Whether the model is infected: None where at most half of the seeds could flag anything, by their `bounds`."""
    if targets:
        return True
    able = sum(bound > 0 for bound in bounds)  # no norm is below a bound that is nan or negative
    return False if able > len(bounds) / 2 else None


def method_of(targets, infected, labels, bounds, flagged_by_seed, found, rows):
    """What results.json says of the method."""
    return {"name": "Neural Cleanse", "infected": infected, "searches_able_to_flag": sum(bound > 0 for bound in bounds),
            "targets": targets, "labels": labels,
            "flagged_by_seed": [np.flatnonzero(flagged).tolist() for flagged in flagged_by_seed],
            "seeds_with_a_flag": sum(bool(flagged.any()) for flagged in flagged_by_seed), "reversed": found,
            "norms": rows}


def log_reversed(figures):
    """What reversed_figures found, as a line of the log."""
    overlap = ""
    if figures["overlap"] is not None:
        overlap = ", IoU with the true one {iou:.2f}, {inside:.2f} of its mask inside".format(**figures["overlap"])
    log.info("reversed trigger of label %d: norm %.2f, its own ASR %.4f%s", figures["label"], figures["norm"],
             figures["asr_of_reversed_trigger"]["value"], overlap)


def leave_triggers(folder, best, true, classes):
    """Write the reversed triggers, {label: Search}, and a picture of them beside the true one; {label: trigger}."""
    triggers = {label: as_trigger(found) for label, found in best.items()}
    for label, trigger in triggers.items():
        save_trigger(folder / f"reversed_trigger_{label}.th", trigger)
    columns = [(f"{label}: {classes[label]}\nL1 {best[label].norm:.1f}", trigger)
               for label, trigger in sorted(triggers.items())]
    if true is not None:
        to = "all-to-all" if true.target is None else f"to {true.target}"
        columns.append((f"true, {to}\nL1 {float((true.mask * true.alpha).sum()):.1f}", true))
    trigger_grid(folder / "reversed_triggers.png", columns)
    return triggers


@command
def main(argv=None):
    args = parse_args(argv)
    reversed_before = [path.name for path in Path(args.output_dir).glob("reversed_trigger_[0-9]*.th")]
    with Run(args, LEAVES, reversed_before) as run:
        suspect = load_suspect(args, run)
        check_clean_images(suspect.defender)
        classes = suspect.defender.classes
        # A trigger that differs from image to image has no mask to compare with.
        true = None if suspect.trigger is None else suspect.trigger.as_pattern()

        run.begin(suspect)
        by_seed, rows, flagged = search(run, args, suspect.model, suspect.defender)
        norms = [[found.norm for found in searches] for searches in by_seed]
        bounds = [flagging_bound(own) for own in norms]
        targets, best = majority_labels(flagged), smallest(by_seed)
        infected, labels = verdict(targets, bounds), [label_summary(rows, label) for label in range(len(classes))]
        log_verdict(targets, infected, labels, best, classes)

        triggers = leave_triggers(run.folder, best, true, classes)
        norm_bars(run.folder / "norms.png", classes, norms, bounds)
        closest = targets or sorted(best, key=lambda label: best[label].norm)[:1]
        found = [reversed_figures(suspect.model, suspect.test, triggers[label], true) for label in closest]
        for figures in found:
            log_reversed(figures)
        run.finish(evaluate(suspect.model, suspect.test), model=suspect.model, parent=args.checkpoint,
                   data=suspect.defender, method=method_of(targets, infected, labels, bounds, flagged, found, rows))


if __name__ == "__main__":
    main()
