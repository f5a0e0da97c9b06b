import pytest

from data.files import UserError
from engine.command import command


def test_a_name_of_any_length_is_a_short_line(capsys):
    @command
    def main(argv=None):
        raise UserError(f"model.th: begins\n {'x' * 10**6} and ends")
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and len(error) < 2200
    assert "model.th: begins" in error and error.endswith("and ends\n")
