import pytest
import torch

from common.errors import UserError
from engine.command_line.command import command
from engine.command_line.parser import Parser


def test_a_name_of_any_length_is_a_short_line(capsys):
    @command
    def main(argv=None):
        raise UserError(f"model.th: begins\n {'x' * 10**6} and ends")
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and len(error) < 2200
    assert "model.th: begins" in error and error.endswith("and ends\n")


@pytest.mark.parametrize(("flags", "advice"), [
    (["--batch-size", "--width"], "a smaller --batch-size, or --device cpu"),
    (["--starts"], "a smaller --starts, or --device cpu"), (["--seed"], "--device cpu")])
def test_a_full_gpu_is_one_line_with_what_to_do(flags, advice, capsys):
    @command
    def main(argv=None):
        parser = Parser("")
        for flag in flags:
            parser.add_argument(flag)
        parser.parse_args([])
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB.\nIt would help to ...")
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(said) == 1
    assert said[0].endswith(f"Tried to allocate 8 GiB.; choose {advice}")
