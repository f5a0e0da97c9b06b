import json
import math

import numpy as np
import pytest
from helpers.reporting import share
from matplotlib.colors import to_rgb

from data.triggers import PatternTrigger
from engine.drawing import bars, curves, grids
from reporting import charts
from reporting.found import find_runs


@pytest.fixture
def rows():
    """Five epochs, of which the second and the last were tested."""
    known = {2: (0.5, 0.7), 5: (1.0, 0.9)}
    return [{"epoch": epoch, "lr": 0.1, "poison_acc": known.get(epoch, (None, None))[0],
             "clean_acc": known.get(epoch, (None, None))[1]} for epoch in range(1, 6)]


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures that would be written."""
    found = []
    for module in (bars, curves):
        monkeypatch.setattr(module, "write_figure", lambda path, figure: found.append(figure))
    return found


def band(collection):
    """(lowest, highest) value of a band."""
    box = collection.get_paths()[0].get_extents()
    return box.y0, box.y1


def lines_of(axis):
    return {line.get_label(): [list(values) for values in line.get_data()] for line in axis.lines}


def test_a_line_goes_through_the_epochs_that_were_tested(rows, tmp_path, drawn):
    curves.training_curves(tmp_path / "curves.png", rows, "title")
    lines = lines_of(drawn[0].axes[0])
    assert lines == {"ACC": [[2, 5], [70, 90]], "ASR": [[2, 5], [50, 100]]}
    assert not any(math.isnan(value) for axes in lines.values() for values in axes for value in values)


def test_without_a_trigger_there_is_no_asr_to_draw(rows, tmp_path):
    unknown = [{**row, "poison_acc": None} for row in rows]
    assert curves.known_shares(unknown, "poison_acc") == ([], [])
    curves.training_curves(tmp_path / "curves.png", unknown, "title")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_the_reports_curves_go_through_the_same_epochs(rows, tmp_path, monkeypatch):
    folder = tmp_path / "badnets"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"script": "train_backdoor.py", "arguments": {}, "seed": 0}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = []
    monkeypatch.setattr(charts, "drawn", lambda figure, *args, **options: drawn.append(figure))
    charts.training_curves_of(find_runs(tmp_path))
    assert lines_of(drawn[0].axes[0]) == {"ACC": [[2, 5], [70, 90]], "ASR": [[2, 5], [50, 100]]}


def test_a_learning_rate_stands_between_the_epochs_where_it_begins(rows, tmp_path, drawn):
    later = [{**row, "lr": 0.01 if row["epoch"] > 3 else 0.1} for row in rows]
    curves.training_curves(tmp_path / "curves.png", later, "title")
    assert [(text.get_text(), text.get_position()[0]) for text in drawn[0].axes[0].texts] == [("lr 0.01", 3.5)]


def test_a_pruning_curve_has_each_figure_over_what_was_pruned_and_a_line_at_what_is_kept(tmp_path, drawn):
    swept = [{"pruned": count, "acc": share(acc), "asr": share(asr), "held_out_acc": share(held_out)}
             for count, acc, asr, held_out in ((0, 0.75, 1, 0.5), (8, 0.5, 0.25, 0.125))]
    curves.pruning_curve(tmp_path / "curve.png", swept, swept[1], "pruned", "neurons")
    assert lines_of(drawn[0].axes[0]) == {
        "ACC": [[0, 8], [75, 50]], "ASR": [[0, 8], [100, 25]], "held-out ACC": [[0, 8], [50, 12.5]],
        "kept": [[8, 8], [0, 1]]}


def test_a_point_of_several_seeds_is_their_mean_in_a_band_from_the_lowest_to_the_highest(tmp_path, drawn):
    curves.spread_curves(tmp_path / "curve.png", [{"ASR": [(0.5, 0.25), (0.5, 0.5), (0.5, 0.75)]}], "alpha", "title")
    axis, = drawn[0].axes
    assert lines_of(axis) == {"ASR": [[0.5], [50]]} and band(axis.collections[0]) == (25, 75)


def test_false_rejections_and_acceptances_are_two_lines_for_each_boundary(tmp_path, drawn):
    swept = [{"boundary": name, "frr_asked": 0.5, "frr": frr, "far": far}
             for name, frr, far in (("empirical", 0.25, 0.75), ("normal", 0.125, 1))]
    curves.frr_curves(tmp_path / "curve.png", swept)
    assert lines_of(drawn[0].axes[0]) == {
        "FAR, empirical boundary": [[50], [75]], "FRR, empirical boundary": [[50], [25]],
        "FAR, normal boundary": [[50], [100]], "FRR, normal boundary": [[50], [12.5]]}


def test_a_bar_is_the_mean_of_a_labels_norms_and_a_dashed_line_each_seeds_bound(tmp_path, drawn):
    bars.norm_bars(tmp_path / "norms.png", ("cat", "dog"), np.array([[10, 4], [20, np.inf]]), (3, 6))
    axis, = drawn[0].axes
    assert [bar.get_height() for bar in axis.patches] == [15, 4]
    assert [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"] == [3, 6]


def test_the_bar_of_a_suspected_class_alone_is_red_and_as_high_as_its_largest_margin(tmp_path, drawn):
    margins = [np.array([1.0, 3.0]), np.array([9.0, 2.0])]
    bars.margin_bars(tmp_path / "margins.png", ("cat", "dog"), margins, {"p_value": 0.01, "targets": [1]})
    patches = drawn[0].axes[0].patches
    assert [bar.get_height() for bar in patches] == [3, 9]
    assert [bar.get_facecolor()[:3] for bar in patches] == [to_rgb("0.75"), to_rgb("tab:red")]


def test_losses_of_clean_and_of_poisoned_images_are_two_lines_in_bands_of_their_own(tmp_path, drawn):
    losses = [{"epoch": 1, "images": name, "mean": mean, "q05": mean - 0.5, "q25": mean - 0.25, "q75": mean + 0.25,
               "q95": mean + 0.5} for name, mean in (("clean", 2), ("poisoned", 1))]
    curves.loss_curves(tmp_path / "losses.png", losses, "title")
    axis, = drawn[0].axes
    assert lines_of(axis) == {"clean, mean": [[1], [2]], "poisoned, mean": [[1], [1]]}
    assert {shown.get_label(): band(shown) for shown in axis.collections} == {
        "clean, 5 to 95 %": (1.5, 2.5), "clean, 25 to 75 %": (1.75, 2.25),
        "poisoned, 5 to 95 %": (0.5, 1.5), "poisoned, 25 to 75 %": (0.75, 1.25)}


def test_the_bars_of_entropies_are_percent_of_the_images_of_their_own_kind(tmp_path, drawn):
    bars.entropy_histogram(tmp_path / "entropy.png", np.array([1.0, 1.1, 1.2, 2.0]), np.array([0.1, 0.2]), 1.3, 0.4,
                              {"empirical": 0.5, "normal": 0.25})
    axis, = drawn[0].axes
    assert [sum(bar.get_height() for bar in bars) for bars in axis.containers] == pytest.approx([100, 100])
    assert {name: places[0] for name, places in lines_of(axis).items() if "boundary" in name} == {
        "empirical boundary 0.500": [0.5, 0.5], "normal boundary 0.250": [0.25, 0.25]}


def test_mean_entropies_of_clean_and_of_triggered_images_stand_side_by_side():
    clean, triggered = bars.entropy_bars(("a", "b"), [{"clean": 1.5, "triggered": 0.25}, {"clean": 2}]
                                            ).axes[0].containers
    assert [bar.get_height() for bar in clean] == [1.5, 2] and triggered[0].get_height() == 0.25
    assert math.isnan(triggered[1].get_height()) and clean[0].get_x() < triggered[0].get_x()


def test_the_picture_of_a_mask_is_as_gray_as_its_trigger_is_opaque(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(grids, "image_grid", lambda path, rows, titles: shown.update(rows))
    trigger = PatternTrigger(np.full((4, 4, 3), 200.0), np.eye(4)[..., None], 0.4, 0)
    grids.trigger_grid(tmp_path / "triggers.png", [("found", trigger)])
    assert {name: sorted(set(images.ravel())) for name, images in shown.items()} == {
        "mask": [0, 102], "pattern": [200], "mask x pattern": [0, 80]}
