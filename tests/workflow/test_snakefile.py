"""The workflow under Snakemake: what is killed is gone on with, what fails leaves the others going."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from helpers.paths import ROOT
from helpers.workflow import NEEDS_SNAKEMAKE, start_snakemake

pytestmark = [pytest.mark.long, NEEDS_SNAKEMAKE]


@pytest.fixture
def start(tmp_path):
    """Start Snakemake on TINY with changes; returns the process and the folder of the matrix."""
    return lambda **changes: (start_snakemake(tmp_path, "laptop", "--cores", "1", **changes), tmp_path / "out")


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
    """More images than the defender has: that is seen only once the data is there."""
    for _ in range(2):  # the report that the first call leaves does not pass for the end
        process, out = start(defenses={"fine-tuning": {"val_frac": 0.2}, "pruning": {"val_frac": 0.05}})
        text, _ = process.communicate(timeout=280)
        assert process.returncode != 0 and "not finished: fine-tuning on badnets, seed 0" in text
    assert (out / "badnets/seed-0/prune/results.json").exists() and (out / "report.html").exists()


def test_a_mistake_in_the_matrix_starts_nothing(start):
    process, out = start(attacks={"magic": {}})
    text, _ = process.communicate(timeout=100)
    assert process.returncode != 0 and "no such attack: 'magic'" in text and not out.exists()


@pytest.fixture
def audited(small_run, image_folder, tmp_path):
    """Audit small_run with little to do and `settings` changed; returns the finished process and the audit's folder."""
    def audit(**settings):
        little = {"nc-detect": {"seeds": 1, "budget": 1, "batches": 1}, "strip": {"overlays": 2},
                  "neuron-noise": {"val_frac": 0.05, "epsilons": [0.1], "seeds": 1, "steps": 1},
                  "audit": {"starts": 1, "steps": 2, "searches": 1, "budget": 1},
                  "anp-masks": {"val_frac": 0.05, "nb_iter": 1}, "anp": {"val_frac": 0.05},
                  "fine-pruning": {"epochs": 1}}
        (tmp_path / "little.yaml").write_text(yaml.safe_dump({**little, **settings}))
        images = image_folder(tuple(map(str, range(10))), count=8, name="clean images") / "train"
        done = subprocess.run(
            [sys.executable, "-m", "workflow", "audit", small_run / "model_last.th", images, "--settings",
             tmp_path / "little.yaml", "--output-dir", tmp_path / "the audit", "--", "--cores", "1"], cwd=ROOT,
            capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=280)
        return done, tmp_path / "the audit"
    return audit


def test_an_audit_ends_with_a_verdict_that_knows_no_trigger(audited):
    done, folder = audited()
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((folder / "verdict/results.json").read_text())
    assert results["method"]["missing"] == [] and results["asr"] is None
    assert [row["name"] for row in results["method"]["repaired"]] == ["as it is", "ANP", "Fine-Pruning", "unlearning"]
    page = (folder / "report.html").read_text()
    assert page.index("Verdict") < page.index("What lies here")
    for name in ("neural-cleanse", "audit", "neuron-noise", "strip", "anp/pruned", "fine-prune",
                 "unlearn-reversed"):
        assert "no trigger is known" in (folder / name / "output.log").read_text(), name


def test_an_audit_whose_step_fails_is_judged_by_the_others(audited):
    done, folder = audited(strip={"overlays": 1000})
    assert done.returncode != 0 and "not finished: strip" in done.stderr
    assert json.loads((folder / "verdict/results.json").read_text())["method"]["missing"] == ["strip"]
    assert "Not finished, and so not weighed: strip" in (folder / "report.html").read_text()
