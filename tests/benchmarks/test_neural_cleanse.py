import re

import pytest

from benchmarks.neural_cleanse import main
from engine.weights.checkpoint import save_model
from models import build_model

pytestmark = pytest.mark.slow


def test_both_sides_find_the_same_norms(tmp_path, capsys):
    save_model(tmp_path / "model.th", build_model("resnet18", 2, 3), {}, {}, tuple("abc"))
    main(["--checkpoint", str(tmp_path / "model.th"), "--labels", "2", "--budget", "3", "--batches", "1",
          "--batch-size", "4", "--success", "0"])
    _, ratio, *labels, apart = capsys.readouterr().out.splitlines()
    assert re.search(r"2 labels, 3 steps .* s plain .* s here +\d+\.\d\dx$", ratio)
    assert re.fullmatch(r"norms differ by at most \d+\.\d%", apart) and len(labels) == 2
    for line in labels:
        plain, here = map(float, re.findall(r"norm (\S+) plain, (\S+) here", line)[0])
        assert plain == pytest.approx(here, rel=0.01) and 0 < plain < 1024
