"""The pictures that scripts write."""
import math
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from common.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
CELL, IMAGE, LABEL = 200, 186, 42  # of image_grid, in dots: from one image to the next, an image, the rows' labels
SMALLEST = 9  # letters, in dots
MAX_RATE_LINES = 4  # of training_curves; a rate that changes more often gets its own curve


def new_figure(width: float, height: float) -> "Figure":
    """A matplotlib figure of this size in inches. matplotlib is imported here, so that scripts start without it."""
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained")


def write_figure(path: Path, figure: "Figure") -> None:
    """Write a matplotlib figure as PNG, whole or not at all."""
    with atomic_file(path) as file:
        save_png(file, figure)


def save_png(file: BinaryIO, figure: "Figure", **options) -> None:
    """Write a matplotlib figure as PNG to an open binary file; options: further ones of savefig."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a class name in letters that the font lacks
        figure.savefig(file, format="png", dpi=DPI, **options)


def image_grid(path: Path, rows: Sequence[tuple[str, np.ndarray]], titles: Sequence[str]) -> None:
    """Rows of images, one below the other: `rows` is [(label of one line, uint8 (K, H, W, 3))], `titles` K texts above
    the columns.

    Pasted and lettered by Pillow: matplotlib takes ten times as long for a pair of axes an image.
    """
    titles = [title.replace("\t", " ") for title in titles]
    top = 12 + 18 * max(title.count("\n") + 1 for title in titles)
    page = Image.new("RGB", (LABEL + CELL * len(titles), top + CELL * len(rows)), "white")
    for line, (label, images) in enumerate(rows):
        middle = top + CELL * line + IMAGE // 2
        page.paste(turned(label, IMAGE), (8, middle - IMAGE // 2))
        for column, image in enumerate(images):
            page.paste(framed(image, IMAGE), (LABEL + CELL * column, top + CELL * line))
    pen, font = ImageDraw.Draw(page), fitting((line for title in titles for line in title.split("\n")), CELL - 6, 17)
    for column, title in enumerate(titles):
        pen.multiline_text((LABEL + CELL * column + IMAGE // 2, top - 6), title, "black", font, anchor="md",
                           align="center")
    with atomic_file(path) as file:
        page.save(file, format="PNG", dpi=(DPI, DPI))


@cache
def lettering(size: int) -> ImageFont.FreeTypeFont:
    """The letters of all pictures, which matplotlib brings with it; size: in dots."""
    import matplotlib
    # The other layout engine, for scripts that are written from right to left, fails on some machines.
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size,
                              layout_engine=ImageFont.Layout.BASIC)


def fitting(texts: Iterable[str], width: int, largest: int) -> ImageFont.FreeTypeFont:
    """Letters in which all of `texts` are at most `width` dots wide, but not smaller than one can read."""
    texts = list(texts)
    return next((font for font in map(lettering, range(largest, SMALLEST, -1))
                 if all(font.getlength(text) <= width for text in texts)), lettering(SMALLEST))


def turned(label: str, height: int) -> Image.Image:
    """A text on one line that is read from below, in smaller letters if it would be longer than `height` dots."""
    font, strip = fitting([label], height - 2, 19), Image.new("RGB", (height, 28), "white")
    ImageDraw.Draw(strip).text((height // 2, 14), label, "black", font, anchor="mm")
    return strip.rotate(90, expand=True)


def framed(image: np.ndarray, side: int) -> Image.Image:
    """An image uint8 (H, W, 3) enlarged until its longer side has `side` dots, with a gray line around it: white pixels
    at the edge are not the page."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    enlarged = Image.fromarray(image).resize((round(width * scale), round(height * scale)), Image.Resampling.NEAREST)
    return ImageOps.expand(ImageOps.crop(enlarged, 1), 1, "gray")


def enlarge(change: np.ndarray) -> np.ndarray:
    """A change of pixels, int (n, H, W, 3), scaled into a picture: gray where nothing changed, up to black or white
    elsewhere."""
    return (128 + change * (127 / max(np.abs(change).max(), 1))).round().astype(np.uint8)


def known_shares(rows: Sequence[dict], key: str) -> tuple[list[int], list[float]]:
    """([epoch], [share in %]) of the rows of metrics.jsonl whose `key` is known, for a line through tested epochs only.
    """
    known = [row for row in rows if row.get(key) is not None]
    return [row["epoch"] for row in known], [100 * row[key] for row in known]


def training_curves(path: Path, metrics: Sequence[dict], title: str) -> None:
    """ACC and ASR over the epochs that were tested; `metrics` are the rows of metrics.jsonl."""
    epochs = [row["epoch"] for row in metrics]
    figure = new_figure(6, 3.6)
    axis = figure.subplots()
    for key, label, style in (("clean_acc", "ACC", "o-"), ("poison_acc", "ASR", "s-")):
        axis.plot(*known_shares(metrics, key), style, markersize=3.5, label=label)
    changes = [(before, after) for before, after in pairwise(metrics) if after["lr"] != before["lr"]]
    if len(changes) > MAX_RATE_LINES:
        rates = axis.twinx()
        rates.plot(epochs, [row["lr"] for row in metrics], ":", color="0.4")
        rates.set_ylabel("learning rate (dotted)", color="0.4")
        rates.set_ylim(bottom=0)
        changes = []
    for before, after in changes:
        middle = (before["epoch"] + after["epoch"]) / 2
        axis.axvline(middle, color="0.8", linewidth=1, zorder=0)
        axis.text(middle, 103, f"lr {after['lr']:g}", fontsize=7, color="0.4", ha="center")
    axis.set(xlabel="epoch", ylabel="% of test images", ylim=(-2, 102))
    axis.set_title(title, pad=16, fontsize=10, parse_math=False)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    axis.legend(loc="center right")  # where neither curve ends
    write_figure(path, figure)


def loss_curves(path: Path, rows: Sequence[dict], title: str) -> None:
    """Training losses over epochs: means, with bands between quantiles. rows: those of train_backdoor.loss_rows."""
    figure = new_figure(6, 3.6)
    axis = figure.subplots()
    for name, color in (("clean", "tab:blue"), ("poisoned", "tab:red")):
        own = [row for row in rows if row["images"] == name]
        epochs = [row["epoch"] for row in own]
        for low, high, alpha in (("q05", "q95", 0.12), ("q25", "q75", 0.25)):
            axis.fill_between(epochs, [row[low] for row in own], [row[high] for row in own], color=color, alpha=alpha,
                              linewidth=0, label=f"{name}, {int(low[1:])} to {int(high[1:])} %" if own else None)
        axis.plot(epochs, [row["mean"] for row in own], "o-", color=color, markersize=3.5,
                  label=f"{name}, mean" if own else None)
    axis.set(xlabel="epoch", ylabel="cross-entropy of training images", ylim=(0, None))
    axis.set_title(title, fontsize=10, parse_math=False)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=7)
    write_figure(path, figure)


def pruning_curve(path: Path, rows: Sequence[dict], chosen: dict, axis_name: str, label: str) -> None:
    """ACC, ASR and held-out accuracy over a pruning sweep. rows and chosen are dicts in the form of results.json.

    axis_name: the entry of a row that the sweep varies. label: the axis's label.
    """
    figure = new_figure(6, 3.6)
    axis = figure.subplots()
    swept = [row for row in rows if row[axis_name] is not None]
    dot = 3.5 if len(swept) < 50 else 0
    for key, name, style in (("acc", "ACC", "o-"), ("asr", "ASR", "s-"), ("held_out_acc", "held-out ACC", "--")):
        if swept[0][key]:
            axis.plot([row[axis_name] for row in swept], [100 * row[key]["value"] for row in swept], style,
                      markersize=dot, label=name)
    if chosen[axis_name] is not None:
        axis.axvline(chosen[axis_name], color="0.5", linewidth=1, zorder=0, label="kept")
    axis.set(xlabel=label, ylabel="%", ylim=(-2, 102))
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    write_figure(path, figure)


def spread_curves(path: Path, panels: Sequence[dict], x_name: str, title: str) -> None:
    """Panels side by side, each {name: [(x, share)]}: the mean at each x, with a band from the lowest to the highest
    value."""
    figure = new_figure(5.4 * len(panels), 3.6)
    for axis, curves in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for (name, points), marker in zip(curves.items(), cycle("os^vD*"), strict=False):
            places = sorted({x for x, _ in points})
            values = [[100 * y for x, y in points if x == place] for place in places]
            line, = axis.plot(places, [sum(group) / len(group) for group in values], f"{marker}-", markersize=3.5,
                              label=name)
            axis.fill_between(places, list(map(min, values)), list(map(max, values)), alpha=0.2, color=line.get_color())
        axis.set(xlabel=x_name, ylabel="% of test images", ylim=(-2, 102))
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7)
    write_figure(path, figure)


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


def frr_curves(path: Path, rows: Sequence[dict]) -> None:
    """The FRR and FAR that result for each requested FRR. rows: those of methods.strip.sweep_frr."""
    figure = new_figure(6, 3.6)
    axis = figure.subplots()
    for name, marker in (("empirical", "o"), ("normal", "s")):
        own = [row for row in rows if row["boundary"] == name]
        for key, style in (("far", "-"), ("frr", ":")):
            if own[0][key] is not None:
                axis.plot([100 * row["frr_asked"] for row in own], [100 * row[key] for row in own], f"{marker}{style}",
                          markersize=3.5, label=f"{key.upper()}, {name} boundary")
    axis.set(xlabel="FRR asked for, %", ylabel="%", xscale="log", ylim=(-2, 102))
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    write_figure(path, figure)


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


def trigger_grid(path: Path, columns: Sequence[tuple]) -> None:
    """Masks, patterns and their products, one row each; `columns` is [(title, PatternTrigger)]."""
    rows = {"mask": [], "pattern": [], "mask x pattern": []}
    for _, trigger in columns:
        shape = (*trigger.mask.shape[:2], 3)
        mask, pattern = (np.broadcast_to(part, shape) for part in (trigger.mask * trigger.alpha, trigger.pattern))
        for images, values in zip(rows.values(), (255 * mask, pattern, mask * pattern), strict=True):
            images.append(np.rint(values).astype(np.uint8))
    image_grid(path, [(name, np.stack(images)) for name, images in rows.items()], [title for title, _ in columns])


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
