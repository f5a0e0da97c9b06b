"""A matrix that is done in a minute, and how the tests start Snakemake on one."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers.paths import HIDDEN, ROOT

SNAKEMAKE = Path(sys.executable).with_name("snakemake")
NEEDS_SNAKEMAKE = pytest.mark.skipif(
    not SNAKEMAKE.exists(), reason="needs Snakemake (pip install -r requirements-workflow.txt)")
TINY = {"seeds": [0], "data": {"dataset": "digits"}, "attacks": {"badnets": {"poison_rate": 0.2}},
        "training": {"width": 4, "batch_size": 256, "epochs": 1, "milestones": []},
        "defenses": {"fine-tuning": {"val_frac": 0.05, "epochs": 1}, "pruning": {"val_frac": 0.05}}}


def start_snakemake(folder, profile, *flags, **changes):
    """Start the workflow on TINY with changes, writing into `folder`/out; `flags` go to Snakemake."""
    matrix = folder / "tiny.yaml"
    matrix.write_text(yaml.safe_dump({**TINY, "output": str(folder / "out"), **changes}))
    return subprocess.Popen(
        [sys.executable, "-m", "workflow", "matrix", matrix, "--profile", profile, "--", *flags], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **HIDDEN, "OMP_NUM_THREADS": "1"})
