"""One seed, one answer: every script that is run twice leaves the same files, and others with another seed.

On a GPU: TEST_DEVICE=cuda pytest -m long tests/reliability/test_same_seed.py
"""
import sys

import pytest
from helpers.comparing import compare
from helpers.killing import finish
from helpers.paths import DEVICE
from helpers.runs import RUNS, filled, short_words

from engine.catalogue import BY_MODULE

pytestmark = pytest.mark.long


@pytest.mark.parametrize("module", RUNS)
def test_one_seed_one_answer(module, made, tmp_path):
    script = BY_MODULE[module]

    def run(folder, *more):
        finish([sys.executable, *script.words(), *filled(made, short_words(module)), *more, "--device", DEVICE,
                "--deterministic", "--output-dir", str(tmp_path / folder)])
    run("first")
    run("again")
    assert compare(tmp_path / "first", tmp_path / "again") == []
    if script.draws and not script.is_sweep:  # which has a number of seeds
        run("other", "--seed", "1")
        assert compare(tmp_path / "first", tmp_path / "other", aside={"seed"})
