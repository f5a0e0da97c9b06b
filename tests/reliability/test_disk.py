"""A disk that is full or read-only ends a run in one line, with what was there before still whole."""
import errno
import itertools
import json
import os
import shutil
import subprocess

import pytest
import torch
from conftest import SMALL
from PIL import Image

from data import files
from train_backdoor import main

pytestmark = pytest.mark.long


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


def test_a_full_disk_at_every_file_that_is_written_is_one_line(tmp_path, monkeypatch, refused):
    real = os.fsync
    for failing in itertools.count(1):
        written = itertools.count(1)

        def fill(descriptor, written=written, failing=failing):
            if next(written) == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)
        monkeypatch.setattr(files.os, "fsync", fill)
        folder = tmp_path / str(failing)
        arguments = [*SMALL, "--poison-rate", "0.1", "--output-dir", str(folder)]
        assert failing < 30, "more files than a run has"
        try:
            error = refused(main, *arguments)
        except pytest.fail.Exception:  # it ended well: every file of a run has failed once
            break
        assert "cannot be written: No space left on device" in error
        assert not (folder / "results.json").exists()
        check_whole(folder)
        monkeypatch.setattr(files.os, "fsync", real)
        if (folder / "resume.th").exists():  # once there is room, it goes on
            main([*arguments, "--resume"])
            assert (folder / "results.json").exists()
    assert failing > 8


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


def test_a_real_full_disk(small_disk, script):
    done = script("train_backdoor.py", *SMALL, "--poison-rate", "0.1", "--output-dir", small_disk / "run", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "No space left on device" in done.stderr
    check_whole(small_disk)


def test_a_read_only_disk(small_disk, script):
    (small_disk / "before.json").write_text("{}")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = script("train_backdoor.py", *SMALL, "--poison-rate", "0.1", "--output-dir", small_disk / "run", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "Read-only file system" in done.stderr
    check_whole(small_disk)
