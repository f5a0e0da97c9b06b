import pytest

from common.errors import UserError
from engine.cells import call

pytestmark = pytest.mark.slow


def test_a_cell_s_script_is_found_from_any_folder_and_its_last_line_is_the_error(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    call("prune_network", "--help")
    assert "prune_network" in capfd.readouterr().out
    with pytest.raises(UserError, match="unrecognized arguments: --color red"):
        call("prune_network", "--color", "red")
