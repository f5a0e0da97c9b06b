"""The workflow under Snakemake: what is killed is gone on with, what fails leaves the others going."""
import shutil
import signal
import time

import pytest
from conftest import ROOT
from workflow_helpers import NEEDS_SNAKEMAKE, start_snakemake

pytestmark = [pytest.mark.long, NEEDS_SNAKEMAKE]


@pytest.fixture
def start(tmp_path):
    """Start Snakemake on TINY with changes; returns the process and the folder of the matrix."""
    yield lambda **changes: (start_snakemake(tmp_path, "laptop", "--cores", "1", **changes), tmp_path / "out")
    shutil.rmtree(ROOT / ".snakemake/locks", ignore_errors=True)


def test_killed_and_started_again_it_runs_nothing_twice_and_ends_with_the_report(start):
    process, out = start()
    first, second = out / "badnets/seed-0/results.json", out / "badnets/seed-0/prune/results.json"
    while not [*first.parent.glob("*/config.json")]:  # so that Snakemake has noted that the first step is finished
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = first.stat().st_mtime_ns
    process, _ = start()
    text, _ = process.communicate(timeout=280)
    assert process.returncode == 0, text
    assert first.stat().st_mtime_ns == before and second.exists() and (out / "report.pdf").exists()


def test_a_cell_that_fails_leaves_the_others_going_and_is_named(start):
    """One epoch at width 4 learns no backdoor, so that Neural Cleanse flags nothing that could be unlearned."""
    process, out = start(defences={"nc-unlearning": {}, "pruning": {"val_frac": 0.05}},
                         prepare={"nc-detect": {"seeds": 1, "budget": 1, "batches": 1}})
    text, _ = process.communicate(timeout=280)
    assert process.returncode != 0 and "not finished: nc-unlearning on badnets, seed 0" in text
    assert (out / "badnets/seed-0/prune/results.json").exists() and (out / "report.html").exists()


def test_a_mistake_in_the_matrix_starts_nothing(start):
    process, out = start(attacks={"magic": {}})
    text, _ = process.communicate(timeout=100)
    assert process.returncode != 0 and "no such attack: magic" in text and not out.exists()
