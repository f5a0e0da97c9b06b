"""A disk that is full or read-only ends every script in one line, with what was there before still whole."""
import errno
import importlib
import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.paths import SMALL
from PIL import Image
from reliability.kill import compare
from reliability.short_runs import SCRIPTS, filled

from common import files
from common.errors import UserError

pytestmark = pytest.mark.long
STATELESS = {  # scripts that leave no run: they are called again as they were
    "report": ("report", ["{runs}"]),
    "compare-strip": ("compare_strip", ["{strip}"]),
    "export": ("export_clean_images", ["--dataset", "digits"]),
}
GO_ON = {"train", "abl", "pruning-aware", "anp", "fine-prune", "encoder"}  # with --resume
AGAIN = {"sweep-anp", "sweep-abl", *STATELESS}  # the same call; all others start anew with --overwrite


def check_whole(folder):
    """Every file in `folder` is whole, and no temporary one is left."""
    for path in folder.rglob("*"):
        assert not path.name.endswith(".tmp"), path
        if path.suffix == ".th":
            torch.load(path, weights_only=False)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".png":
            Image.open(path).load()


def called_again(name, folder):
    """The words that a call needs after one that failed."""
    if name in AGAIN or not folder.exists():
        return []
    return ["--resume"] if name in GO_ON else ["--overwrite"]


@pytest.fixture
def short_run(made, tmp_path, monkeypatch):
    """short_run(name, folder, *words): a short run of a script in this process, a sweep's cells included."""
    def run(name, folder, *words):
        module, usual = (SCRIPTS | STATELESS)[name]
        importlib.import_module(module).main([*filled(made, usual), "--output-dir", str(folder), *words])

    def call(script, *arguments):
        try:
            importlib.import_module(script[:-3]).main(list(map(str, arguments)))
        except SystemExit as stopped:
            if stopped.code:
                raise UserError("the cell failed") from None
    for sweep in ("sweep_anp", "sweep_abl"):
        monkeypatch.setattr(importlib.import_module(sweep), "call", call)
    made["runs"] = made["model"].parent.parent
    made["strip"] = tmp_path / "strip"
    run("strip", made["strip"])
    return run


@pytest.mark.parametrize("name", [*SCRIPTS, "report", "compare-strip"])  # which has its folder whole or not at all
def test_a_full_disk_at_every_file_that_is_written_is_one_line(name, short_run, tmp_path, monkeypatch, capsys):
    real = os.fsync
    short_run(name, tmp_path / "whole")
    left = {path.name for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    failed = set()
    for failing in itertools.count(1):
        written = itertools.count(1)

        def fill(descriptor, written=written, failing=failing):
            if next(written) == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", fill)
            folder = tmp_path / str(failing)
            capsys.readouterr()
            try:
                short_run(name, folder)
            except SystemExit as stopped:
                assert stopped.code == 2
            else:  # it ended well: every file of a run has failed once
                break
        error = capsys.readouterr().err
        assert "Traceback" not in error
        failed |= {Path(path).name for path in re.findall(r"(\S+): cannot be written: No space left on device", error)}
        if not name.startswith("sweep"):  # whose cells have lines of their own here, being called in this process
            assert error.count("\n") == 1
            assert not (folder / "results.json").exists()
        check_whole(tmp_path)
        short_run(name, folder, *called_again(name, folder))  # once there is room, it goes on
        if name not in STATELESS:
            assert compare(tmp_path / "whole", folder) == []
        assert failing < 60, "more files than a run has"
    assert failed >= left - {"output.log"}  # which is written to line by line


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB; returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or not shutil.which("mount") or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs root and mount, to make a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def blocks(folder):
    """How many blocks of 4 kB the files of a folder take."""
    return sum(-(-path.stat().st_size // 4096) for path in Path(folder).rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("name", [*SCRIPTS, *STATELESS])
def test_a_disk_with_room_for_a_part_of_what_a_run_leaves(name, share, short_run, small_disk, tmp_path, capsys):
    short_run(name, tmp_path / "whole")
    size = max(1, int(share * blocks(tmp_path / "whole")))
    subprocess.run(["mount", "-o", f"remount,size={4 * size}k", small_disk], check=True)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        short_run(name, small_disk / "run")
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "No space left on device" in error and "Traceback" not in error, error
    check_whole(small_disk)
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    short_run(name, small_disk / "run", *called_again(name, small_disk / "run"))
    if name not in STATELESS:
        assert compare(tmp_path / "whole", small_disk / "run") == []


def test_a_real_full_disk(small_disk, script):
    done = script("train_backdoor.py", *SMALL, "--poison-rate", "0.1", "--output-dir", small_disk / "run", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "No space left on device" in done.stderr
    check_whole(small_disk)


@pytest.mark.parametrize("name", [*SCRIPTS, *STATELESS])
def test_a_read_only_disk(name, short_run, small_disk, capsys):
    (small_disk / "before.json").write_text("{}")
    (small_disk / "run").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        short_run(name, small_disk / "run")
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "Read-only file system" in error and "Traceback" not in error, error
    assert name.startswith("sweep") or error.count("\n") == 1
    assert sorted(path.name for path in small_disk.rglob("*")) == ["before.json", "run"]
