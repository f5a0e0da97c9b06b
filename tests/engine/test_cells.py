import json
from functools import partial

import pytest

from common.errors import UserError
from engine.cells import call, check_folder, finished, name_failed, run_cells


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


def test_a_cell_that_names_no_inputs_is_finished_whatever_the_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"arguments": {}, "inputs": None}))
    (tmp_path / "results.json").write_text("{}")
    assert finished(tmp_path, {}, "weights")


@pytest.mark.parametrize("name, content", [("config.json", "{}"), ("config.json", "[]"), ("results.json", "{")])
def test_a_damaged_cell_is_called_so_in_one_line(tmp_path, name, content):
    (tmp_path / "config.json").write_text(json.dumps({"arguments": {}, "inputs": "weights images"}))
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="damaged; remove the folder to make it again"):
        finished(tmp_path, {}, "weights")


def test_a_cell_that_fails_is_named_with_its_reason_and_does_not_stop_the_others(tmp_path):
    def fail():
        raise UserError("the loss became nan")
    rows, failed = run_cells(tmp_path / "sweep.csv", ("alpha",), {"alpha 1": fail, "alpha 2": lambda: [{"alpha": 2}]})
    assert rows == [{"alpha": 2}]
    with pytest.raises(UserError, match=r"^1 of 2 cells failed: alpha 1: the loss became nan$"):
        name_failed(failed, 2)
    name_failed([], 2)


def test_a_folder_with_a_run_of_its_own_that_has_not_ended_is_no_place_for_a_sweep(tmp_path):
    check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run; name another --output-dir for the sweep"):
        check_folder(tmp_path)
