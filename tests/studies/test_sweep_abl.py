import csv
import json

import numpy as np
import pytest
from helpers.paths import HALF
from PIL import Image

from engine.cells import as_flags
from studies import sweep_abl
from studies.sweep_abl import COLUMNS, draw, main, make_row

SMALL = ["--dataset", "digits", *HALF, "--width", "4", "--batch-size", "256", "--epochs", "1", "--isolation-epochs",
         "1", "--unlearn-epochs", "1"]


def share(value):
    return {"value": value, "interval": [0, 1], "n": 10}


RESULTS = {"acc": share(0.8), "asr": share(0.1), "method": {
    "precision": share(0.9), "recall": None, "filtered": {"acc": share(0.7), "asr": share(0.6)},
    "unlearning_epochs": 4}}


def test_a_row_holds_the_three_models_and_what_was_isolated():
    row = make_row({"poison_rate": 0.1, "seed": 0, "isolation_epochs": 20, "isolation_rate": 0.01},
                   {"acc": share(0.75), "asr": share(1.0)}, RESULTS)
    assert [row[name] for name in COLUMNS] == [0.1, 20, 0.01, 0, 0.9, None, 0.75, 1.0, 0.7, 0.6, 0.8, 0.1, 4]


def test_a_picture_is_drawn_of_every_axis_that_has_several_values(tmp_path):
    rows = [make_row({"poison_rate": poison, "seed": 0, "isolation_epochs": 20, "isolation_rate": rate},
                     {"acc": share(0.75), "asr": share(1.0)}, RESULTS)
            for poison in (0.1, 0.5) for rate in (0.01, 0.05, 0.1)]
    draw(tmp_path, rows)
    assert {path.name for path in tmp_path.iterdir()} == {"poison_rate.png", "isolation_rate.png"}
    assert np.asarray(Image.open(tmp_path / "isolation_rate.png").convert("L")).std() > 5


def test_the_curves_of_a_picture_are_the_models_without_a_defense_after_leaving_out_and_after_abl(
        tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(sweep_abl, "spread_curves", lambda path, panels, *words: drawn.update({path.name: panels}))
    rows = [make_row({"poison_rate": 0.1, "seed": 0, "isolation_epochs": 20, "isolation_rate": rate},
                     {"acc": share(0.75), "asr": share(1.0)}, RESULTS) for rate in (0.01, 0.1)]
    draw(tmp_path, [*rows, {**rows[0], "isolation_epochs": 30}])
    assert drawn["isolation_rate.png"] == [
        {"ASR, none": [(0.01, 1.0), (0.1, 1.0)], "ASR, filtered": [(0.01, 0.6), (0.1, 0.6)],
         "ASR, ABL": [(0.01, 0.1), (0.1, 0.1)]},
        {"ACC, none": [(0.01, 0.75), (0.1, 0.75)], "ACC, filtered": [(0.01, 0.7), (0.1, 0.7)],
         "ACC, ABL": [(0.01, 0.8), (0.1, 0.8)]}]


def test_flags_say_what_they_were_given():
    assert as_flags({"flip": False, "milestones": [3, 5], "lr": 0.1, "clb_dir": None, "flooding": False},
                    ("flooding",)) == ["--no-flip", "--milestones", 3, 5, "--lr", 0.1]
    assert as_flags({"flooding": True, "milestones": []}, ("flooding",)) == ["--flooding", "--milestones"]


@pytest.mark.long
def test_a_second_call_runs_only_what_is_not_there_and_a_failed_cell_is_named(tmp_path, refused):
    flags = [*SMALL, "--isolation-rates", "0.01", "0.05", "--flooding", "--no-flip", "--output-dir", str(tmp_path)]
    main(flags)
    folder = tmp_path / "poison-0.1/seed-0"
    (folder / "isolation-0.05-after-1/results.json").unlink()
    kept = [folder / name / "results.json" for name in ("none", "isolation-0.01-after-1")]
    before = [path.stat().st_mtime_ns for path in kept]
    main(flags)
    assert [path.stat().st_mtime_ns for path in kept] == before
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [row["isolation_rate"] for row in rows] == ["0.01", "0.05"]
    none = json.loads((folder / "none/results.json").read_text())
    assert float(rows[0]["none_acc"]) == none["acc"]["value"]
    used = json.loads((folder / "isolation-0.01-after-1/config.json").read_text())["arguments"]
    assert used["flooding"] and not used["flip"] and used["poison_rate"] == 0.1
    (folder / "isolation-0.01-after-1/results.json").write_text("{")
    assert "1 of 2 cells failed: poison-0.1/seed-0, isolation rate 0.01 after 1 epochs" in refused(main, *flags)
    assert "holds a cell made with epochs 1" in refused(main, *flags, "--epochs", "2")
    config = folder / "none/config.json"
    config.write_text(config.read_text().replace('"inputs": "', '"inputs": "0'))
    assert "trained on other images" in refused(main, *flags)


def test_what_is_refused(refused):
    assert "--poison-rates: has no effect with --poison-type benign" in refused(
        main, "--poison-type", "benign", "--poison-rates", "0.1")
    assert "--unlearn-lr: has no effect with --unlearn-epochs 0" in refused(
        main, "--unlearn-epochs", "0", "--unlearn-lr", "0.1")
