"""Figures over epochs, thresholds and rates."""
from collections.abc import Sequence
from itertools import cycle, pairwise
from pathlib import Path

from engine.drawing.canvas import new_figure, write_figure

MAX_RATE_LINES = 4  # of training_curves; a rate that changes more often gets its own curve


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
