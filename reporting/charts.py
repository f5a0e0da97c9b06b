"""The report's pictures: those that runs left, and those that show several runs."""
import io
import math
from dataclasses import replace
from textwrap import fill

from matplotlib.figure import Figure
from PIL import Image

from common.errors import UserError
from common.untrusted.images import read_picture
from engine.drawing.bars import entropy_bars
from engine.drawing.canvas import save_png
from engine.drawing.curves import known_shares
from reporting.document import Picture
from reporting.effects import mean
from reporting.found import FINISHED
from reporting.groups import NONE

MAX_PICTURE, MAX_SIDE = 16 * 2**20, 6000  # bytes and pixels that a page has room for


def picture_of(path, caption, wide=False):
    """A PNG file as a Picture; None if it is missing or cannot be shown on a page."""
    try:
        image = read_picture(path, ["PNG"], MAX_PICTURE, MAX_SIDE).convert("RGB")
    except UserError:
        return None
    clean = io.BytesIO()  # drawn anew: what else the file holds stays out of the page
    image.quantize(256, dither=Image.Dither.NONE).save(clean, "PNG", optimize=True)
    return Picture(clean.getvalue(), caption, wide)


def pictures_of(runs, name, what):
    """The PNG of this name that each of the runs left, where it left one; `what` is what it shows."""
    found = [picture_of(run.folder / name, f"{run.name}: {what}") for run in runs if run.state == FINISHED]
    return list(filter(None, found))


def grids_of(runs, name, what):
    """The same of rows of images, which are shown large enough to look at each image."""
    return [replace(picture, wide=True, is_grid=True) for picture in pictures_of(runs, name, what)]


def drawn(figure, caption, wide=False):
    """A matplotlib figure as a Picture."""
    content = io.BytesIO()
    save_png(content, figure, metadata={"Software": None})
    return Picture(content.getvalue(), caption, wide)


def training_curves_of(runs):
    """ACC and ASR over the epochs of several attacks, eight to a Picture."""
    known = [run for run in runs if run.rows]
    return [panel(known[start:start + 8]) for start in range(0, len(known), 8)]


def panel(runs):
    """The curves of up to eight attacks side by side."""
    columns = min(4, len(runs))
    lines = math.ceil(len(runs) / columns)
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.1 * lines + 0.3), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for axis, run in zip(axes, runs, strict=False):
        axis.plot(*known_shares(run.rows, "clean_acc"), "o-", markersize=2, label="ACC")
        axis.plot(*known_shares(run.rows, "poison_acc"), "s-", markersize=2, label="ASR")
        axis.set(ylim=(-2, 102))
        axis.set_title(run.name, fontsize=8, parse_math=False)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    for axis in axes[len(runs):]:
        axis.set_axis_off()
    axes[0].legend(fontsize=7)
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel("% of test images", fontsize=8)
    return drawn(figure, f"ACC and ASR over the epochs of training: {', '.join(run.name for run in runs)}", wide=True)


def strip_bars(runs):
    """Mean entropies of clean and triggered images, side by side: a list of one Picture, or of none."""
    known = [run for run in runs if (run.method.get("mean_entropy") or {}).get("triggered") is not None]
    if not known:
        return []
    figure = entropy_bars([run.name.removesuffix("/strip").replace("/", "/\n") for run in known],
                          [run.method["mean_entropy"] for run in known])
    return [drawn(figure, "Mean entropy under STRIP; the higher the triggered bar, the harder to tell", wide=True)]


def losses_of(runs):
    """The loss curves that trainings with --track-losses left, as Pictures."""
    return pictures_of(runs, "losses.png", "losses of clean and of poisoned training images")


def published_map(rows, columns, texts, asr):
    """A table of texts {(row, column): text}, colored by {(row, column): ASR in %}, as a Picture."""
    figure = Figure(figsize=(1.5 * len(columns) + 1.8, 0.5 * len(rows) + 0.9), layout="constrained")
    axis = figure.subplots()
    colors = [[asr.get((row, column), math.nan) for column in columns] for row in rows]
    axis.imshow(colors, cmap="RdYlGn_r", vmin=0, vmax=100, aspect="auto", alpha=0.75)
    for (row, column), text in texts.items():
        axis.text(columns.index(column), rows.index(row), text, ha="center", va="center", fontsize=7)
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.tick_params(length=0)
    return drawn(figure, "ASR / CA-9 in %, colored by ASR; in brackets the published ASR / CA", wide=True)


def isolation_curves(panels):
    """ASR and ACC over ABL's isolation rate, for [(title, [run])], side by side: a list of one Picture, or of none."""
    if not panels:
        return []
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3 * columns + 1.4, 2.7 * lines + 0.5), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for axis, (title, runs) in zip(axes, panels, strict=False):
        for label, style, name, part in (("ACC", "o-", "acc", None), ("ASR", "s-", "asr", None),
                                         ("ASR, isolated images left out alone", "^--", "asr", "filtered")):
            points = {}
            for run in runs:
                value = run.share(name, (run.method.get(part) or {}) if part else None)
                points.setdefault(100 * run.arguments["isolation_rate"], []).append(100 * value)
            axis.plot(sorted(points), [mean(points[rate]) for rate in sorted(points)], style, markersize=3, label=label)
        axis.set(ylim=(-2, 102), xlim=(0, None))
        axis.set_title(fill(title, 40), fontsize=8, parse_math=False)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    for axis in axes[len(panels):]:
        axis.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=7)
    figure.supxlabel("isolated, % of the training images", fontsize=8)
    figure.supylabel("% of test images", fontsize=8)
    return [drawn(figure, "ACC and ASR after ABL over the share of the training images that it isolates", wide=True)]


def attack_map(effects):
    """ACC and ASR of every attack under every defense, as a colored map: a list of one Picture, or of none."""
    table = {}
    for effect in effects:  # of several settings the one with the most runs, otherwise the first
        own = table.setdefault(effect.attack, {})
        if effect.kind not in own or len(effect.runs) > len(own[effect.kind].runs):
            own[effect.kind] = effect
    defended = {attack: own for attack, own in table.items() if len(own) > 1}
    if not defended:
        return []
    names = sorted({name for own in defended.values() for name in own}, key=lambda name: (name != NONE, name))
    figure = Figure(figsize=(1.15 * len(names) + 1.6, 0.42 * len(defended) + 1.2), layout="constrained")
    axis = figure.subplots()
    asr = [[own[name].after[1] if name in own else math.nan for name in names] for own in defended.values()]
    axis.imshow(asr, cmap="RdYlGn_r", vmin=0, vmax=100, aspect="auto", alpha=0.75)
    for row, own in enumerate(defended.values()):
        for column, name in enumerate(names):
            if name in own:
                axis.text(column, row, "{:.1f} / {:.1f}".format(*own[name].after), ha="center", va="center", fontsize=8)
    axis.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names], fontsize=8, parse_math=False)
    axis.set_yticks(range(len(defended)), list(defended), fontsize=8, parse_math=False)
    axis.tick_params(length=0)
    axis.set_title("ACC / ASR in %, colored by ASR", fontsize=9)
    return [drawn(figure, "Every attack under every defense that was run on it; of a defense with several settings the "
                  "one with the most runs, otherwise the first by path. The table has all.", wide=True)]
