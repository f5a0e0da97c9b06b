"""Activation clustering: find poisoned training images by two clusters in the features of their class.

    python -m defenses.activation_clustering --poison-type badnets

Chen et al., 2018. A model gives poisoned images and images of the target class one label for different reasons, so
their penultimate features form two clusters. The features of each class are reduced to ten components and parted by
2-means; the smaller cluster is suspected where it is small enough and well apart. Reads a data set, which it poisons as
train_backdoor.py does, and a model that was trained on it. Writes into output/badnets/activation-clustering/:
suspected.npy (indices into the training images, for --leave-out), classes.csv, output.log, config.json and
results.json.
"""
import logging
import warnings

import numpy as np

from engine.command_line import flags
from engine.command_line.command import command
from engine.defending.inspection import SUSPECTED, TABLE, class_row, leave_findings, load_inspected, parse_inspection
from engine.runs.run import Run
from methods.features import features_of

STEPS = 1000  # of ICA, at most
FEWEST = 4  # images of a class in which clusters are looked for
SCORED = 10_000  # images at most, by which a silhouette is computed: its cost grows with their square
log = logging.getLogger("backdoor")


def reduce_features(features, method, components, seed=0):
    """(float64 (n, k) of features (n, D): `components` of ICA or PCA, or as many as the features' rank; whether it
    converged).

    ICA's components have unit variance each, so that a rare one counts as much as any other; PCA's keep theirs.
    """
    from sklearn.decomposition import PCA, FastICA  # takes a second
    from sklearn.exceptions import ConvergenceWarning
    count = min(components, int(np.linalg.matrix_rank(features - features.mean(0))))
    if method == "pca" or not count:
        return PCA(count, random_state=seed).fit_transform(features), True
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ConvergenceWarning)
        reduced = FastICA(count, whiten="unit-variance", max_iter=STEPS, random_state=seed).fit_transform(features)
    return reduced, not any(issubclass(one.category, ConvergenceWarning) for one in told)


def part(points, seed=0):
    """(bool (n,) of the smaller of the two clusters of points (n, k), their mean silhouette from -1 to 1)."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score
    clusters = KMeans(2, n_init=10, random_state=seed).fit_predict(points)
    smaller = clusters == np.argmin(np.bincount(clusters))
    scored = np.random.RandomState(seed).permutation(len(points))[:SCORED]  # a silhouette takes all distances
    if len(np.unique(clusters[scored])) < 2:  # so few that the sample has none of them
        scored = np.concatenate([scored, np.flatnonzero(smaller)])
    return smaller, float(silhouette_score(points[scored], clusters[scored]))


def cluster(features, reduce, components, seed=0):
    """(bool (n,) of the smaller cluster of a class's features (n, D), silhouette, whether ICA converged); none of them
    and 0 where there are too few. reduce, components: as reduce_features takes them."""
    if len(np.unique(features, axis=0)) < FEWEST:
        return np.zeros(len(features), dtype=bool), 0.0, True
    points, converged = reduce_features(features, reduce, components, seed)
    return *part(points, seed), converged


def is_suspicious(share, silhouette, max_share, min_silhouette):
    """Whether a class whose smaller cluster has this share, with this silhouette, is taken for poisoned."""
    return 0 < share <= max_share and silhouette >= min_silhouette


def inspect(images, features, reducing, bounds):
    """(rows of classes.csv, suspected int64 (n,)) of an ImageSet and its features float64 (N, D), class by class.

    reducing: what cluster takes after the features. bounds: what is_suspicious takes after the silhouette.
    """
    rows, suspected, unfinished = [], [], []
    for label in np.unique(images.targets).tolist():
        own = np.flatnonzero(images.targets == label)
        smaller, silhouette, converged = cluster(features[own], *reducing)
        share = float(smaller.mean())
        chosen = own[smaller & is_suspicious(share, silhouette, *bounds)]
        rows.append(class_row(images, label, chosen, {"smaller_share": share, "silhouette": silhouette}))
        suspected.append(chosen)
        unfinished += [] if converged else [images.classes[label]]
    if unfinished:
        log.info("ICA did not converge in %d steps on %d classes (%s), and its last step counts", STEPS,
                 len(unfinished), ", ".join(unfinished[:10]) + (", ..." if unfinished[10:] else ""))
    return rows, np.concatenate(suspected)


def add_own(group):
    group.add_argument("--reduce", choices=("pca", "ica"), default="pca",
                       help="how features are reduced: to principal components, as in the authors' toolbox, or to "
                            "independent ones, as in the paper, whose clusters lie less far apart")
    group.add_argument("--components", type=flags.integer(1), default=10, help="components that are kept")
    group.add_argument("--max-share", type=flags.number(0, 0.5, "a share from 0 to 0.5"), default=0.35,
                       help="share of its class up to which the smaller cluster is suspected; 0.5 for any")
    group.add_argument("--min-silhouette", type=flags.number(-1, 1, "a silhouette from -1 to 1"), default=0.1,
                       help="silhouette from which on two clusters count as apart; -1 for any")


def parse_args(argv=None):
    return parse_inspection(__doc__, "activation-clustering", add_own, argv)


@command
def main(argv=None):
    args = parse_args(argv)
    with Run(args, (SUSPECTED, TABLE)) as run:
        inspected = load_inspected(args, run)

        run.begin(inspected)
        features = features_of(inspected.model, inspected.images, run.device).double().cpu().numpy()
        rows, suspected = inspect(inspected.images, features, (args.reduce, args.components, args.seed),
                                  (args.max_share, args.min_silhouette))

        leave_findings(run, inspected, "activation clustering", rows, suspected, reduce=args.reduce,
                       components=args.components, max_share=args.max_share, min_silhouette=args.min_silhouette,
                       flagged=[row["label"] for row in rows if row["suspected"]])


if __name__ == "__main__":
    main()
