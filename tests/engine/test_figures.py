import json
import math

import pytest

from engine.runs import figures
from reporting import charts
from reporting.found import find_runs


@pytest.fixture
def rows():
    """Five epochs, of which the second and the last were tested."""
    known = {2: (0.5, 0.7), 5: (1.0, 0.9)}
    return [{"epoch": epoch, "lr": 0.1, "poison_acc": known.get(epoch, (None, None))[0],
             "clean_acc": known.get(epoch, (None, None))[1]} for epoch in range(1, 6)]


def lines_of(axis):
    return {line.get_label(): [list(values) for values in line.get_data()] for line in axis.lines}


def test_a_line_goes_through_the_epochs_that_were_tested(rows, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "write_figure", lambda path, figure: drawn.append(figure))
    figures.training_curves(tmp_path / "curves.png", rows, "title")
    lines = lines_of(drawn[0].axes[0])
    assert lines == {"ACC": [[2, 5], [70, 90]], "ASR": [[2, 5], [50, 100]]}
    assert not any(math.isnan(value) for axes in lines.values() for values in axes for value in values)


def test_without_a_trigger_there_is_no_asr_to_draw(rows, tmp_path):
    unknown = [{**row, "poison_acc": None} for row in rows]
    assert figures.known_shares(unknown, "poison_acc") == ([], [])
    figures.training_curves(tmp_path / "curves.png", unknown, "title")
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
