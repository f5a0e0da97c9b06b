"""Spectral signatures: find poisoned training images by the direction in which the features of their class vary most.

    python -m defenses.spectral_signatures --poison-type badnets

Tran et al., 2018. Of the penultimate features of each class, centered, the top right singular vector is taken; the
images with the largest squared projections on it are suspected, 1.5 times as many as are expected to be poisoned. Reads
a data set, which it poisons as train_backdoor.py does, and a model that was trained on it. Writes into
output/badnets/spectral-signatures/: suspected.npy (indices into the training images, for --leave-out), classes.csv,
output.log, config.json and results.json.
"""
import argparse

import numpy as np

from engine.command_line import flags
from engine.command_line.command import command
from engine.defending.inspection import SUSPECTED, TABLE, class_row, leave_findings, load_inspected, parse_inspection
from engine.runs.run import Run
from methods.features import features_of

REMOVED = 1.5  # times the expected number, as in the paper's Algorithm 1


def spectral_scores(features, center=True):
    """(scores (n,) of features (n, D), the share of their variance that lies along the direction, 0 for none).

    The direction is the top right singular vector of the centered features; a score is the squared projection on it of
    the centered features (the paper's Algorithm 1), or without `center` of the features as they are (the authors'
    code). The former is large on both sides of the mean, and so says little where half of a class is poisoned.
    """
    centered = features - features.mean(0)
    _, values, directions = np.linalg.svd(centered, full_matrices=False)
    total = float(np.square(values).sum())
    projected = (centered if center else features) @ directions[0]
    return np.square(projected), float(values[0] ** 2 / total) if total else 0.0


def largest(scores, share):
    """Places int64 of the round(1.5 * share * n) largest of `scores` (n,), the largest first."""
    return np.argsort(-scores, kind="stable")[:round(REMOVED * share * len(scores))]


def inspect(images, features, share, center=True):
    """(rows of classes.csv, suspected int64 (n,)) of an ImageSet and its features float64 (N, D), class by class."""
    rows, suspected = [], []
    for label in np.unique(images.targets).tolist():
        own = np.flatnonzero(images.targets == label)
        scores, along = spectral_scores(features[own], center)
        chosen = own[largest(scores, share)]
        rows.append(class_row(images, label, chosen, {"variance_along": along}))
        suspected.append(chosen)
    return rows, np.concatenate(suspected)


def add_own(group):
    group.add_argument("--expected-share", type=flags.number(0.001, 0.66, "a share from 0.001 to 0.66"), default=0.1,
                       help="upper bound of the poisoned share of a class; 1.5 times as many images of every class are "
                            "suspected")
    group.add_argument("--center", action=argparse.BooleanOptionalAction, default=True,
                       help="project the centered features, as in the paper; the authors' code projects the features "
                            "as they are")


def parse_args(argv=None):
    return parse_inspection(__doc__, "spectral-signatures", add_own, argv)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, (SUSPECTED, TABLE)) as run:
        inspected = load_inspected(args, run)

        run.begin(inspected)
        features = features_of(inspected.model, inspected.images, run.device).double().cpu().numpy()
        rows, suspected = inspect(inspected.images, features, args.expected_share, args.center)

        leave_findings(run, inspected, "spectral signatures", rows, suspected, expected_share=args.expected_share,
                       center=args.center)


if __name__ == "__main__":
    main()
