"""The Slurm profile on a real cluster of one node: a job that is killed is done by the next call."""
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from helpers.workflow import NEEDS_SNAKEMAKE, start_snakemake

CLUSTER = Path(__file__).with_name("slurm_cluster.sh")
MISSING = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name)]
pytestmark = [
    pytest.mark.long, NEEDS_SNAKEMAKE,
    pytest.mark.skipif(bool(MISSING), reason=f"needs Debian's slurm-wlm and munge; missing: {', '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start a cluster")]


@pytest.fixture
def cluster():
    subprocess.run([CLUSTER, "start"], check=True)
    yield
    subprocess.run([CLUSTER, "stop"], check=True)


def snakemake(folder):
    return start_snakemake(folder, "slurm", "--latency-wait", "10", "--default-resources", "slurm_account=root",
                           "slurm_partition=main", "mem_mb=1500", "runtime=30")


def test_a_job_that_was_killed_is_done_by_the_next_call(cluster, tmp_path):
    out = tmp_path / "out"
    process, first = snakemake(tmp_path), out / "badnets/seed-0"
    while not first.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    subprocess.run("squeue -h -o %i | xargs scancel --signal=KILL --full", shell=True, check=True)
    text, _ = process.communicate(timeout=300)
    assert process.returncode != 0 and "not finished: badnets, seed 0" in text, text
    process = snakemake(tmp_path)
    text, _ = process.communicate(timeout=500)
    assert process.returncode == 0, text
    assert (out / "report.pdf").exists()
    (tmp_path / "local").mkdir()
    local = start_snakemake(tmp_path / "local", "laptop", "--cores", "1")
    text, _ = local.communicate(timeout=300)
    assert local.returncode == 0, text
    there, here = figures(out), figures(tmp_path / "local/out")
    assert len(there) == 3 and there == here  # the same table, wherever and however often it was called


def figures(out):
    """{run: its ACC and ASR} of all runs beneath a folder."""
    results = {path: json.loads(path.read_text()) for path in out.rglob("results.json")}
    return {path.relative_to(out): (own["acc"], own["asr"]) for path, own in results.items()}
