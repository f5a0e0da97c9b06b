"""A disk that is full or read-only ends every script in one line, with what was there before still whole."""
import errno
import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.comparing import compare
from helpers.in_process import stay
from helpers.paths import SMALL
from helpers.runs import RUNS, filled, main_of, short_words
from PIL import Image

from common import files
from engine.catalogue import BY_MODULE
from engine.rows import REPORT

pytestmark = pytest.mark.long
ALL = list(BY_MODULE)
WHOLE = [*RUNS, *(module for module in ALL if BY_MODULE[module].kind == REPORT)]  # their folder is whole or not there


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


def called_again(module, folder):
    """The words that a call needs after one that failed."""
    again = BY_MODULE[module].again
    return [again] if again and folder.exists() else []


@pytest.fixture
def short_run(made, monkeypatch):
    """short_run(module, folder): a short run of a script in this process, a sweep's cells included."""
    stay(monkeypatch)

    def run(module, folder, *words):
        main_of(module)([*filled(made, short_words(module)), "--output-dir", str(folder), *words])
    return run


def watch_writes(patch, at_write):
    """Call at_write(number of the write, name of the file) before each file is whole on the disk."""
    real, written = os.fsync, itertools.count(1)

    def watched(descriptor):
        number, path = next(written), Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        at_write(number, re.sub(r"^\.(.*)\.\d+\.tmp$", r"\1", path.name))
        real(descriptor)
    patch.setattr(files.os, "fsync", watched)


def first_and_last(names):
    """Numbers, from 1, of the first and of the last write of every file; between them a run is as it was before."""
    return sorted({*{name: number for number, name in reversed([*enumerate(names, 1)])}.values(),
                   *{name: number for number, name in enumerate(names, 1)}.values()})


@pytest.mark.parametrize("module", WHOLE)
def test_a_full_disk_at_every_file_that_is_written_is_one_line(module, short_run, tmp_path, monkeypatch, capsys):
    names = []
    with monkeypatch.context() as patch:
        watch_writes(patch, lambda number, name: names.append(name))
        short_run(module, tmp_path / "whole")
    left = {path.name for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    assert set(names) >= left - {"output.log"}  # which is written to line by line
    for failing in first_and_last(names):
        def fill(number, name, failing=failing):
            if number == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        folder = tmp_path / str(failing)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            watch_writes(patch, fill)
            with pytest.raises(SystemExit) as stopped:
                short_run(module, folder)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and "Traceback" not in error
        if not BY_MODULE[module].is_sweep:  # whose cells have lines of their own here, being called in this process
            assert error.count("\n") == 1
            assert f"{names[failing - 1]}: cannot be written: No space left on device" in error
            assert not (folder / "results.json").exists()
        check_whole(tmp_path)
        short_run(module, folder, *called_again(module, folder))  # once there is room, it goes on
        if BY_MODULE[module].leaves_run:
            assert compare(tmp_path / "whole", folder) == []


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
@pytest.mark.parametrize("module", ALL)
def test_a_disk_with_room_for_a_part_of_what_a_run_leaves(module, share, short_run, small_disk, tmp_path, capsys):
    short_run(module, tmp_path / "whole")
    size = max(1, int(share * blocks(tmp_path / "whole")))
    subprocess.run(["mount", "-o", f"remount,size={4 * size}k", small_disk], check=True)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        short_run(module, small_disk / "run")
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "No space left on device" in error and "Traceback" not in error, error
    check_whole(small_disk)
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    short_run(module, small_disk / "run", *called_again(module, small_disk / "run"))
    if BY_MODULE[module].leaves_run:
        assert compare(tmp_path / "whole", small_disk / "run") == []


def test_a_real_full_disk(small_disk, script):
    done = script("train_backdoor.py", *SMALL, "--poison-rate", "0.1", "--output-dir", small_disk / "run", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "No space left on device" in done.stderr
    check_whole(small_disk)


@pytest.mark.parametrize("module", ALL)
def test_a_read_only_disk(module, short_run, small_disk, capsys):
    (small_disk / "before.json").write_text("{}")
    (small_disk / "run").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        short_run(module, small_disk / "run")
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "Read-only file system" in error and "Traceback" not in error, error
    assert not BY_MODULE[module].again or error.count("\n") == 1  # without: it calls other scripts, which say so too
    assert sorted(path.name for path in small_disk.rglob("*")) == ["before.json", "run"]
