"""One seed, one answer: every script that is run twice leaves the same files, and others with another seed.

On a GPU: TEST_DEVICE=cuda pytest -m long tests/reliability/test_same_seed.py
"""
import sys

import pytest
from helpers.paths import DEVICE
from reliability.kill import ROOT, compare, finish
from reliability.short_runs import SCRIPTS, SEEDLESS, filled

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", SCRIPTS)
def test_one_seed_one_answer(name, made, tmp_path):
    module, words = SCRIPTS[name]

    def run(folder, *more):
        finish([sys.executable, str(ROOT / f"{module}.py"), *filled(made, words), *more, "--device", DEVICE,
                "--deterministic", "--output-dir", str(tmp_path / folder)])
    run("first")
    run("again")
    assert compare(tmp_path / "first", tmp_path / "again") == []
    if name not in SEEDLESS and not name.startswith("sweep"):  # which has a number of seeds
        run("other", "--seed", "1")
        assert [line for line in compare(tmp_path / "first", tmp_path / "other") if "results.json" not in line]
