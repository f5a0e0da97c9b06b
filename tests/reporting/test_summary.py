import json

import pytest

from common.errors import UserError
from reporting.summary import EXPLAINED, summary


def test_it_names_the_figures_and_every_file(small_run):
    text = "\n".join(summary(small_run))
    assert "of 360 images" in text and "of 324 images" in text and "ASR" in text
    for path in small_run.iterdir():
        assert path.name in text and path.name in EXPLAINED


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


def test_the_further_figures_of_a_scripts_row_have_a_line_each(tree):
    folder = tree.run("input-aware", "attacks.input_aware", method={"cross_acc": 0.8816})
    lines = summary(folder)
    assert "  cross accuracy, %: 88.16" in lines and not any("pixels" in line for line in lines)
