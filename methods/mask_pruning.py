"""Pruning by masks: how many of the neurons with the lowest masks go, chosen on held-out clean images.

ANP (Wu & Wang, 2021) and RNP (Li et al., 2023) differ in how they make the masks and share what follows. A neuron is a
channel of a batch norm, named (layer, channel).
"""
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from engine.measuring.progress import progress
from engine.measuring.scores import Evaluation, Score, last_within

Masks = Sequence[tuple[str, int, float]]  # (layer, channel, mask value) of every neuron
Measure = Callable[[nn.Module], tuple[Evaluation, Score]]  # figures on the test images, and on held-out clean ones
AfterPruning = Callable[[nn.Module], nn.Module]  # what is measured in place of a pruned model
LARGER_DROPS = (0.03, 0.05, 0.1)
log = logging.getLogger("backdoor")


@dataclass(frozen=True)
class Row:
    """The model with the `count` lowest masks pruned; the last of them is `neuron`, (layer, channel, mask value)."""

    count: int
    neuron: tuple
    threshold: float | None
    test: Evaluation
    held_out: Score


def norm_layers(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """{name: layer} of the model's batch norms."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)}


def prune_first(model: nn.Module, weights: dict[str, torch.Tensor], ranks: dict[str, torch.Tensor],
                count: int) -> None:
    """Prune the neurons of rank below `count` in place and give the others back the scale in `weights`."""
    for name, layer in norm_layers(model).items():
        layer.weight.data = torch.where(ranks[name] < count, 0, weights[name])


def rank_neurons(model: nn.Module, mask_values: Masks) -> tuple[dict[str, torch.Tensor], list[tuple]]:
    """({layer: rank (C,) of each channel by mask value}, [neurons in that order]); equal values in the file's order."""
    order = sorted(mask_values, key=lambda row: row[2])
    layers = norm_layers(model)
    ranks = {name: torch.zeros(layer.num_features, dtype=torch.int64) for name, layer in layers.items()}
    for rank, (layer, index, _) in enumerate(order):
        ranks[layer][index] = rank
    return {name: rank.to(layers[name].weight.device) for name, rank in ranks.items()}, order


def prune_lowest(model: nn.Module, mask_values: Masks, count: int) -> None:
    """Prune the `count` neurons with the lowest masks in place."""
    ranks, _ = rank_neurons(model, mask_values)
    prune_first(model, {name: layer.weight.detach() for name, layer in norm_layers(model).items()}, ranks, count)


def evaluate_by_threshold(model: nn.Module, mask_values: Masks, thresholds: Sequence[float], measure: Measure,
                          after_pruning: AfterPruning | None = None) -> list[Row]:
    """Prune all neurons with a mask value of at most each of the rising `thresholds`. Returns [Row].

    measure: model -> (Evaluation, held-out Score), called again only where more neurons fall. after_pruning: pruned
    model -> the one that is measured; by default itself. The first row is the model as it is (threshold None). `model`
    is left with the last threshold's neurons pruned.
    """
    values = np.sort([value for _, _, value in mask_values])
    counts = np.searchsorted(values, thresholds, side="right")
    return sweep_points(model, mask_values, zip(counts.tolist(), thresholds, strict=True), measure, after_pruning)


def sweep_points(model: nn.Module, mask_values: Masks, points: Iterable[tuple[int, float | None]],
                 measure: Measure, after_pruning: AfterPruning | None = None) -> list[Row]:
    """Prune the first neurons for each of the rising points (count, threshold or None); see `evaluate_by_threshold`.
    """
    ranks, order = rank_neurons(model, mask_values)
    weights = {name: layer.weight.detach().clone() for name, layer in norm_layers(model).items()}
    rows = [Row(0, (None, None, None), None, *measure(model))]
    log.info("No \t Layer Name \t Neuron Idx \t Mask \t Threshold \t PoisonACC \t CleanACC \t HeldOutACC")
    log_row(rows[0])
    for count, threshold in progress(list(points), "prune"):
        if count == rows[-1].count:
            test, held_out = rows[-1].test, rows[-1].held_out
        else:
            prune_first(model, weights, ranks, count)
            test, held_out = measure(after_pruning(model) if after_pruning else model)
        neuron = order[count - 1] if count else (None, None, None)
        rows.append(Row(count, neuron, threshold, test, held_out))
        log_row(rows[-1])
    return rows


def log_row(row: Row) -> None:
    """The row as a line of the log, which also has the last mask value and the threshold."""
    words = [row.count, *row.neuron, row.threshold]
    if row.test:
        words += [f"{found.accuracy.value:.4f}" for found in (row.test.triggered, row.test.clean, row.held_out)]
    log.info(" \t ".join(map(str, words)))


def choose(rows: Sequence[Row], max_drop: float) -> Row:
    """The last row that loses at most `max_drop` of held-out accuracy against the first: the defender's choice."""
    return rows[last_within([row.held_out.accuracy.value for row in rows], max_drop)]


def larger_drops(rows: Sequence[Row], max_drop: float) -> list[tuple[float, Row]]:
    """[(drop, what `choose` would take)] of LARGER_DROPS above max_drop, where that is more than the one before."""
    found, last = [], choose(rows, max_drop)
    for drop in LARGER_DROPS:
        row = choose(rows, drop)
        if drop > max_drop and row.count > last.count:
            found.append((drop, row))
            last = row
    return found


def make_choice(rows: Sequence[Row], max_drop: float) -> Row:
    """What `choose` takes, with lines in the log: that row, then what larger drops would take, or where none of
    LARGER_DROPS takes any neuron, the first row that does."""
    chosen, larger = choose(rows, max_drop), larger_drops(rows, max_drop)
    log_choice("chosen on held-out images", chosen)
    for drop, row in larger:
        log_choice(f"--max-drop {drop:g} would choose", row)
    least = next((row for row in rows if row.count), None)
    if least and not chosen.count and not larger:
        log_choice("nothing is pruned; the least that could be", least)
    return chosen


def log_choice(name: str, row: Row) -> None:
    """One line of the log: what a row is, and its figures."""
    threshold = "" if row.threshold is None else f", threshold {row.threshold}"
    shares = [found.accuracy.value for found in (row.test.triggered, row.test.clean, row.held_out)]
    log.info("%s: %d neurons pruned%s, ASR %.4f, ACC %.4f, held-out ACC %.4f", name, row.count, threshold, *shares)


def as_dict(row: Row) -> dict:
    """The row as results.json has it."""
    layer, index, value = row.neuron
    return {"pruned": row.count, "threshold": row.threshold, "last_layer": layer, "last_channel": index,
            "last_mask": value, **row.test.figures(), "held_out_acc": row.held_out.accuracy.as_dict()}
