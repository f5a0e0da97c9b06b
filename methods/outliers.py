"""Which label's trigger is far too small: Neural Cleanse's outlier test over the norms of all labels."""
import math
from collections.abc import Sequence

import numpy as np

from common.errors import UserError

BOUND = 2.0  # anomaly index above which a label is flagged


def anomaly_indices(norms: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """(index of each norm, which are flagged): its distance from the median in normal-consistent MADs, flagged if that
    is above BOUND on the left.

    A norm that is infinite, of a label for which no trigger was found, takes no part and has index nan; with fewer than
    three others all have, and nothing is flagged. Raises UserError for fewer than three labels, whose outliers have no
    meaning, and for nan.
    """
    norms = np.asarray(norms, dtype=np.float64)
    if len(norms) < 3:
        raise UserError(f"the outlier test needs at least 3 labels, got {len(norms)}")
    if np.isnan(norms).any():
        raise UserError("expected norms that are numbers, got NaN")
    median, mad = center(norms)
    distance = np.where(np.isfinite(norms), norms - median, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):  # a MAD of 0 makes the index of any other norm infinite
        indices = np.where(distance == 0, 0, np.abs(distance) / mad)
    return indices, (distance < 0) & (indices > BOUND)


def center(norms: Sequence[float]) -> tuple[float, float]:
    """(median, normal-consistent MAD) of the norms that are finite; nan for fewer than three of them."""
    found = np.asarray(norms, dtype=np.float64)[np.isfinite(norms)]
    if len(found) < 3:
        return math.nan, math.nan
    from scipy.stats import median_abs_deviation  # half a second, which no script's start should take
    return float(np.median(found)), float(median_abs_deviation(found, scale="normal"))


def flagging_bound(norms: Sequence[float]) -> float:
    """The norm below which a label is flagged; nan where nothing can be."""
    median, mad = center(norms)
    return median - BOUND * mad


def majority_labels(by_seed: Sequence[np.ndarray]) -> list[int]:
    """[label] that more than half of the seeds flag; `by_seed` is a bool (seeds, labels)."""
    return np.flatnonzero(np.mean(by_seed, axis=0) > 0.5).tolist()
