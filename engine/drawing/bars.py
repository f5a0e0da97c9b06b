"""Distributions, and a figure for each class or run."""
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.drawing.canvas import new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def entropy_histogram(path: Path, clean: np.ndarray, triggered: np.ndarray, mean: float, sd: float,
                      boundaries: dict[str, float]) -> None:
    """Entropies in bits of clean and triggered images, the normal (mean, sd) fitted to clean ones, and the boundaries.
    """
    from scipy.stats import norm
    figure = new_figure(6.4, 3.8)
    axis = figure.subplots()
    top = max(np.max(clean), np.max(triggered, initial=0), 1e-3)
    bins = np.linspace(0, 1.02 * top, 61)
    for values, label, color in ((clean, "clean", "tab:blue"), (triggered, "triggered", "tab:red")):
        if len(values):
            axis.hist(values, bins, weights=np.full(len(values), 100 / len(values)), alpha=0.55, label=label,
                      color=color)
    places = np.linspace(0, bins[-1], 400)
    axis.plot(places, 100 * (bins[1] - bins[0]) * norm.pdf(places, mean, sd or 1e-9), color="tab:blue", linewidth=1,
              label="normal fitted to the calibration")
    for (name, value), style in zip(boundaries.items(), ("--", "-"), strict=True):
        axis.axvline(value, color="0.25", linestyle=style, linewidth=1, label=f"{name} boundary {value:.3f}")
    axis.set(xlabel="entropy in bits, mean over overlays", ylabel="% of the images")
    axis.legend(fontsize=8)
    write_figure(path, figure)


def entropy_bars(names: Sequence[str], rows: Sequence[dict]) -> "Figure":
    """A figure of mean entropies of clean and triggered images. rows: dicts of both, in bits, None if unknown."""
    figure = new_figure(max(5, 1.3 * len(names)), 3.6)
    axis, places = figure.subplots(), np.arange(len(names))
    for shift, key, color in ((-0.2, "clean", "tab:blue"), (0.2, "triggered", "tab:red")):
        values = [math.nan if row.get(key) is None else row[key] for row in rows]
        axis.bar_label(axis.bar(places + shift, values, 0.38, label=key, color=color, alpha=0.75), fmt="%.2f",
                       fontsize=7)
    axis.set(ylabel="mean entropy in bits")
    axis.set_xticks(places, names, fontsize=8, parse_math=False)
    axis.margins(y=0.2)
    axis.legend(fontsize=8, ncols=2, loc="upper center")
    return figure


def norm_bars(path: Path, classes: Sequence[str], norms: np.ndarray, bound: Sequence[float]) -> None:
    """L1 norms of reversed masks: a bar for each label's mean over seeds, a dot for each seed.

    norms: (seeds, labels), inf if no trigger was found. bound: (seeds,), the norm below which a seed flags a label.
    """
    norms, places = np.where(np.isfinite(norms), norms, np.nan), np.arange(len(classes))
    figure = new_figure(max(5, 0.7 * len(classes)), 3.8)
    axis = figure.subplots()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a label without a trigger in any seed has no mean
        axis.bar(places, np.nanmean(norms, axis=0), color="0.75")
    for own, low in zip(norms, bound, strict=True):
        axis.plot(places, own, "o", markersize=3.5)
        axis.axhline(low, color=axis.lines[-1].get_color(), linestyle="--", linewidth=0.8)
    axis.set(ylabel="L1 norm of the reversed mask", title="dashed: below it a seed flags a label")
    axis.set_xticks(places, classes, rotation=45, ha="right", fontsize=8, parse_math=False)
    write_figure(path, figure)


def margin_bars(path: Path, classes: Sequence[str], margins: Sequence[np.ndarray], verdict: dict) -> None:
    """Margins that were reached: a bar for each class's largest, a dot for each start.

    margins: (starts,) of each class. verdict: its "p_value", None if unknown, and "targets", whose bars are red.
    """
    places = np.arange(len(classes))
    figure = new_figure(min(max(5, 0.7 * len(classes)), 40), 3.8)
    axis = figure.subplots()
    axis.bar(places, [own.max() for own in margins],
             color=["tab:red" if place in verdict["targets"] else "0.75" for place in places])
    for place, own in zip(places, margins, strict=True):
        axis.plot(np.full(len(own), place), own, "o", color="tab:blue", markersize=2, alpha=0.6)
    said = "no p-value" if verdict["p_value"] is None else f"p-value {verdict['p_value']:.2g}"
    axis.set(ylabel="logit less the largest other", title=f"largest margin of each class, {said}")
    axis.set_xticks(places, classes, rotation=45, ha="right", fontsize=8, parse_math=False)
    write_figure(path, figure)
