import csv
import json

import numpy as np
from PIL import Image

from compare_strip import main, short_names


def leave(folder, clean, triggered, far):
    folder.mkdir(parents=True)
    method = {"mean_entropy": {"calibration": clean, "clean": clean, "triggered": triggered},
              "frr": {"value": 0.01}, "far": far and {"value": far}, "auroc": far and 0.9}
    (folder / "results.json").write_text(json.dumps({"method": method}))
    return str(folder)


def test_a_line_and_two_bars_for_each_run(tmp_path, capsys):
    runs = [leave(tmp_path / "badnets/strip", 1.2, 0.4, 0.3), leave(tmp_path / "unknown/strip", 1.1, None, None)]
    main([*runs, "--output-dir", str(tmp_path / "out")])
    rows = list(csv.DictReader((tmp_path / "out/comparison.csv").open()))
    assert [row["triggered"] for row in rows] == ["0.4", ""] and rows[0]["far"] == "0.3"
    assert np.asarray(Image.open(tmp_path / "out/comparison.png").convert("L")).std() > 5
    out = capsys.readouterr().out
    assert "far 0.3000" in out and "triggered nan" in out


def test_names_are_what_tells_the_folders_apart():
    assert short_names(["output/badnets/strip", "output/blend/strip"]) == ["badnets", "blend"]
    assert short_names(["output/badnets/strip"]) == ["output/badnets/strip"]


def test_what_is_no_strip_run_is_refused(tmp_path, small_run, refused):
    assert "no such file" in refused(main, tmp_path / "nothing")
    assert "not what detect_strip.py leaves" in refused(main, small_run)
