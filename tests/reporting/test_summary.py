import importlib
import inspect
import json
import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

from common.errors import UserError
from engine.catalogue import BY_MODULE
from reporting.summary import EXPLAINED, summary


def test_it_names_the_figures_and_every_file(small_run):
    text = "\n".join(summary(small_run))
    assert "of 360 images" in text and "of 324 images" in text and "ASR" in text
    for path in small_run.iterdir():
        assert path.name in text and path.name in EXPLAINED


def files_left():
    """Names of the files that the scripts say they leave: the constants of that name, and what is given to Run."""
    found = set()
    for name in BY_MODULE:
        module = importlib.import_module(name)
        for constant in vars(module):
            if constant.endswith("LEAVES"):
                found.update(getattr(module, constant))
        for call in re.findall(r"with Run\(args, (.*)\) as run", inspect.getsource(module)):
            found.update(re.findall(r'"([a-z_]+\.[a-z]+)"', call))
    return found


def test_every_file_that_a_script_leaves_is_explained_here_and_in_the_page():
    left, page = files_left(), (ROOT / "docs/files.md").read_text()
    assert {"second.th", "channels.csv", "teacher.th", "losses.png", "data.npy"} <= left
    assert left - set(EXPLAINED) == set()
    assert [name for name in sorted(left) if f"`{Path(name).stem}." not in page] == []


def test_an_unfinished_run_is_said_to_be_one(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        summary(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"script": "a", "dataset": "b", "seconds": "c", "device": 1}',
                                     '{"script": 1, "dataset": 1, "seconds": 1, "device": 1, "acc": {"value": "x"}}'])
def test_damaged_results_are_said_to_be_none(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results\.json: not a result"):
        summary(tmp_path)


@pytest.mark.parametrize("missing", ["dataset", "device", "acc", "asr", "method", "width"])
def test_a_finished_run_that_lacks_an_entry_is_told_by_what_is_there(tree, missing):
    folder = tree.run("compared", "compare_strip.py")
    results = json.loads((folder / "results.json").read_text())
    del results[missing]
    (folder / "results.json").write_text(json.dumps(results))
    lines = summary(folder)
    assert lines[0] == f"{folder}: compare_strip.py{'' if missing == 'dataset' else ' on cifar10'}, 10 s" + (
        "" if missing == "device" else " on CPU")
    assert sum("images" in line for line in lines) == (2 if missing in ("acc", "asr") else 3)
    assert any("results.json" in line for line in lines)


def test_a_share_and_its_interval_are_in_percent_and_a_file_in_thousands_of_bytes(tree):
    folder = tree.run("badnets", asr=0.5)
    (folder / "model_last.th").write_bytes(bytes(2500))
    lines = summary(folder)
    assert "  ASR          50.00 %   [49.00, 51.00]   of 9000 images" in lines
    assert "  model_last.th                 2.5 kB   the weights after it" in lines


def test_the_further_figures_of_a_scripts_row_have_a_line_each(tree):
    folder = tree.run("input-aware", "attacks.input_aware", method={"cross_acc": 0.8816})
    lines = summary(folder)
    assert "  cross accuracy, %: 88.16" in lines and not any("pixels" in line for line in lines)
