import errno
import os
import threading

import pytest

from common import locks
from common.locks import alone_in, lock_folder


def test_whoever_comes_second_waits_until_the_first_has_gone(tmp_path):
    lock, entered = lock_folder(tmp_path, "another run"), threading.Event()

    def second():
        with alone_in(tmp_path):
            entered.set()
    threading.Thread(target=second, daemon=True).start()
    assert not entered.wait(0.1)
    os.close(lock)
    assert entered.wait(10)


def test_a_folder_is_free_again_once_whoever_was_alone_in_it_has_failed(tmp_path):
    with pytest.raises(RuntimeError), alone_in(tmp_path):
        raise RuntimeError
    os.close(lock_folder(tmp_path, "another run"))


def test_where_a_file_system_has_no_locks_nothing_is_locked_and_nothing_is_refused(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    monkeypatch.setattr(locks.fcntl, "flock", none)
    os.close(lock_folder(tmp_path, "another run"))
    with alone_in(tmp_path):
        pass
