"""What python -m workflow hands to Snakemake, and what it leaves before."""
import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from helpers.paths import ROOT
from helpers.workflow import TINY

from common.errors import UserError
from common.locks import lock_folder
from workflow.__main__ import hold, main
from workflow.request import unpack
from workflow.steps import Plan


@pytest.fixture
def called(tmp_path, monkeypatch):
    """called(words): the command line that takes the place of such a call."""
    (tmp_path / "snakemake").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    taken = []
    monkeypatch.setattr(os, "execv", lambda path, words: taken.append(words))

    def call(*words):
        main(list(map(str, words)))
        return taken.pop()
    return call


@pytest.fixture
def tiny(tmp_path):
    """The file of a matrix that writes into `tmp_path`/out."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "output": str(tmp_path / "out")}))
    return tmp_path / "tiny.yaml"


def test_what_is_asked_for_and_flags_behind_two_dashes_go_to_snakemake(called, tiny):
    words = called("matrix", tiny, "--no-gpu", "--", "-n", "--cores", "3")
    assert words[words.index("--nolock") + 1:-2] == ["-n", "--cores", "3"]
    assert words[words.index("--workflow-profile") + 1] == str(ROOT / "workflow/profiles/laptop")
    assert unpack(words[-1].removeprefix("request=")) == {
        "task": "matrix", "matrix": str(tiny), "data_dir": None, "gpu": False}


def test_a_dry_run_leaves_nothing_and_another_one_takes_the_folder(called, tiny, tmp_path):
    for flag in ("-n", "--dry-run", "--dryrun"):
        called("matrix", tiny, "--", flag)
        assert not (tmp_path / "out").exists()
    called("matrix", tiny)
    with pytest.raises(UserError, match="another is under way there"):
        lock_folder(tmp_path / "out", "another")


def test_what_an_audit_is_of_is_written_before_its_first_step(called, tmp_path, monkeypatch):
    plan = Plan(str(tmp_path / "out"), "Audit", stamp=("audit.json", ["weights", "images"]))
    monkeypatch.setattr("workflow.__main__.read_plan", lambda request: plan)
    called("audit", "model.th", "images", "--", "-n")
    assert not (tmp_path / "out").exists()
    called("audit", "model.th", "images")
    assert json.loads((tmp_path / "out/audit.json").read_text()) == ["weights", "images"]


def test_snakemake_keeps_the_folder_whose_place_it_takes(tmp_path, monkeypatch):
    locks = []
    monkeypatch.setattr("workflow.__main__.lock_folder", lambda *args: locks.append(lock_folder(*args)) or locks[-1])
    hold(tmp_path / "out")
    assert os.get_inheritable(locks[0])
    os.close(locks[0])


def test_a_machine_without_snakemake_is_told_what_brings_it_before_anything_is_written(called, tiny, tmp_path, refused):
    (tmp_path / "snakemake").unlink()
    assert "pip install -r requirements-workflow.txt brings it" in refused(main, "matrix", tiny)
    assert not (tmp_path / "out").exists() and Path(ROOT / "requirements-workflow.txt").exists()
