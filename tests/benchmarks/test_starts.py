import subprocess

import pytest

from benchmarks import starts

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_help_takes_less_than_pytorch_s_import_which_is_part_of_a_script_s(capsys):
    starts.main(["train_backdoor.py", "--rounds", "1"])
    heading, *_, row = capsys.readouterr().out.splitlines()
    alone = float(heading.split()[-1])
    quick, whole, own = (float(cell) for cell in row.strip("|").split("|")[1:])
    assert quick < 0.7 * alone and whole > 0.9 * alone
    assert own == pytest.approx(whole - alone, abs=0.02)


def test_a_script_that_cannot_start_is_an_error():
    with pytest.raises(subprocess.CalledProcessError):
        starts.cpu_seconds(["-c", "raise SystemExit(1)"])
