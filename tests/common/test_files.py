import errno
import hashlib
import os

import numpy as np
import pytest

from common.errors import UserError
from common.files import atomic_file, atomic_folder, hash_file, write_array, write_json


def test_a_file_is_there_only_once_it_is_whole(tmp_path):
    path = tmp_path / "model.th"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["model.th"]


def test_an_error_halfway_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "model.th"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.th"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"model\.th: cannot be written: No space left"), \
            atomic_file(tmp_path / "model.th") as file:
        file.write(b"new")
    assert not os.listdir(tmp_path)


def test_a_folder_is_there_only_once_it_is_whole(tmp_path):
    (tmp_path / "clean").mkdir()
    with atomic_folder(tmp_path / "clean") as folder:
        (folder / "0.png").write_bytes(b"new")
        assert not os.listdir(tmp_path / "clean")
    assert os.listdir(tmp_path) == ["clean"] and os.listdir(tmp_path / "clean") == ["0.png"]


@pytest.mark.parametrize("error, seen", [(OSError(errno.ENOSPC, "No space left"), UserError),
                                         (KeyboardInterrupt(), KeyboardInterrupt)])
def test_an_error_halfway_leaves_no_folder(tmp_path, error, seen):
    with pytest.raises(seen), atomic_folder(tmp_path / "clean") as folder:
        (folder / "0.png").write_bytes(b"half")
        raise error
    assert not os.listdir(tmp_path)


def test_a_folder_that_has_been_filled_meanwhile_is_left_as_it_is(tmp_path):
    with pytest.raises(UserError, match="clean: cannot be written"), atomic_folder(tmp_path / "clean"):
        (tmp_path / "clean").mkdir()
        (tmp_path / "clean/mine.png").write_bytes(b"mine")
    assert os.listdir(tmp_path) == ["clean"] and os.listdir(tmp_path / "clean") == ["mine.png"]


def test_the_hash_of_a_file_is_of_all_of_its_content(tmp_path):
    content = bytes(range(256)) * 2**13
    (tmp_path / "model.th").write_bytes(content)
    assert hash_file(tmp_path / "model.th") == hashlib.sha256(content).hexdigest()


def test_what_is_no_plain_value_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"acc": float("nan")})
    with pytest.raises(ValueError, match="allow_pickle"):
        write_array(tmp_path / "a.npy", np.array([{}]))
    assert not os.listdir(tmp_path)


def test_what_a_killed_process_of_the_same_number_left_is_in_nobodys_way(tmp_path):
    (tmp_path / f".model.th.{os.getpid()}.tmp").write_bytes(b"half")
    (tmp_path / f".clean.{os.getpid()}.tmp").mkdir()
    (tmp_path / f".clean.{os.getpid()}.tmp/half.png").write_bytes(b"half")
    with atomic_file(tmp_path / "model.th") as file:
        file.write(b"new")
    with atomic_folder(tmp_path / "clean") as folder:
        (folder / "0.png").write_bytes(b"new")
    assert sorted(os.listdir(tmp_path)) == ["clean", "model.th"] and os.listdir(tmp_path / "clean") == ["0.png"]


def test_a_folder_is_made_with_those_above_it(tmp_path):
    with atomic_folder(tmp_path / "data/clean"):
        pass
    assert (tmp_path / "data/clean").is_dir()
