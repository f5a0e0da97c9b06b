import json
from functools import partial

import pytest

from common.errors import UserError
from engine.cells import call, finished, run_cells


@pytest.mark.slow
def test_a_cell_s_script_is_found_from_any_folder_and_its_last_line_is_the_error(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    call("prune_network", "--help")
    assert "prune_network" in capfd.readouterr().out
    with pytest.raises(UserError, match="unrecognized arguments: --color red"):
        call("prune_network", "--color", "red")


def test_a_table_has_the_finished_cells_while_the_next_one_runs(tmp_path):
    table, seen = tmp_path / "sweep.csv", []

    def run(alpha):
        seen.append(table.read_text().split() if table.exists() else None)
        return [{"alpha": alpha}]
    assert run_cells(table, ("alpha",), {f"alpha {alpha}": partial(run, alpha) for alpha in (1, 2)}) == (
        [{"alpha": 1}, {"alpha": 2}], [])
    assert seen == [None, ["alpha", "1"]] and table.read_text().split() == ["alpha", "1", "2"]


def test_a_flag_that_is_newer_than_a_cell_was_not_given_there(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"arguments": {"lr": 0.1}, "inputs": "weights images"}))
    (tmp_path / "results.json").write_text("{}")
    assert finished(tmp_path, {"lr": 0.1, "flooding": None}, "weights")
    for wanted in ({"lr": 0.2}, {"lr": 0.1, "flooding": True}):
        with pytest.raises(UserError, match="holds a cell made with"):
            finished(tmp_path, wanted, "weights")
    with pytest.raises(UserError, match="from other weights"):
        finished(tmp_path, {"lr": 0.1}, "others")
