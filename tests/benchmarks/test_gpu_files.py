"""benchmarks/gpu.py: folders in memory, the images' archive, the card's use, what is packed."""
import os
import tarfile

import pytest

from benchmarks import gpu_files
from common.errors import UserError


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """The folder that stands for memory."""
    monkeypatch.setattr(gpu_files, "MEMORY", tmp_path / "memory")
    (tmp_path / "memory").mkdir()
    return tmp_path / "memory"


def test_a_folder_is_worked_on_in_memory_and_is_on_the_disk_afterwards(tmp_path, memory):
    folder = tmp_path / "runs/gpu"
    for number in (1, 2):
        with gpu_files.worked_on_in_memory(folder, True):
            assert folder.is_symlink() and memory in folder.resolve().parents
            (folder / f"file-{number}").touch()
            with pytest.raises(UserError, match="another call"), gpu_files.worked_on_in_memory(folder, True):
                raise AssertionError("two at once")
        assert not folder.is_symlink() and len(list(folder.iterdir())) == number
        assert not list(memory.iterdir()) and list(folder.parent.iterdir()) == [folder]
    assert folder.stat().st_mode == folder.parent.stat().st_mode  # others may read it as they may read its parent


def test_without_memory_the_folder_itself_is_worked_on(tmp_path, memory):
    with gpu_files.worked_on_in_memory(tmp_path / "runs/gpu", False):
        (tmp_path / "runs/gpu/file").touch()
        assert not (tmp_path / "runs/gpu").is_symlink()
    assert (tmp_path / "runs/gpu/file").exists() and not list(memory.iterdir())


@pytest.mark.parametrize("wanted", [True, False])
def test_a_killed_call_is_gone_on_with_from_memory_and_after_a_reboot_from_the_disk(tmp_path, memory, wanted):
    folder = tmp_path / "gpu"
    folder.mkdir()
    (folder / "old").touch()
    gpu_files.take_to_memory(folder)  # and then the process is killed
    (folder / "new").touch()
    with gpu_files.worked_on_in_memory(folder, wanted):
        assert {path.name for path in folder.iterdir()} == {"old", "new"}
    assert not folder.is_symlink()
    gpu_files.take_to_memory(folder)
    (folder / "newer").touch()
    for path in memory.iterdir():  # a reboot
        path.rename(tmp_path / "gone")
    with gpu_files.worked_on_in_memory(folder, wanted):
        assert {path.name for path in folder.iterdir()} == {"old", "new"}
    assert {path.name for path in folder.iterdir()} == {"old", "new"} and not list(tmp_path.glob(".gpu*"))


@pytest.mark.parametrize("left", ["on-disk", "home", "copying"])
def test_what_a_kill_at_the_very_end_left_is_removed(tmp_path, memory, left):
    for name, content in (("gpu", "finished"), (f".gpu.{left}", "older")):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).touch()
    with gpu_files.worked_on_in_memory(tmp_path / "gpu", True):
        pass
    assert [path.name for path in (tmp_path / "gpu").iterdir()] == ["finished"] and not list(tmp_path.glob(".gpu*"))


def test_a_whole_copy_that_had_come_home_is_taken_rather_than_the_older_folder(tmp_path, memory):
    for name in ("home", "on-disk"):
        (tmp_path / f".gpu.{name}").mkdir()
        (tmp_path / f".gpu.{name}" / name).touch()
    with gpu_files.worked_on_in_memory(tmp_path / "gpu", True):
        assert [path.name for path in (tmp_path / "gpu").iterdir()] == ["home"]
    assert not list(tmp_path.glob(".gpu*"))


def test_a_users_own_link_is_left_as_it_is(tmp_path, memory):
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "gpu").symlink_to(tmp_path / "large-disk")
    with gpu_files.worked_on_in_memory(tmp_path / "gpu", True):
        (tmp_path / "gpu/file").touch()
    assert (tmp_path / "gpu").is_symlink() and (tmp_path / "large-disk/file").exists()


@pytest.fixture
def archive(image_folder, tmp_path):
    """A .tar.xz of a small image folder."""
    with tarfile.open(tmp_path / "images.tar.xz", "w:xz") as tar:
        tar.add(image_folder(count=12), ".")
    return tmp_path / "images.tar.xz"


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_archive_is_unpacked_once_and_keeps_the_folders_name(archive, memory, tmp_path, in_memory):
    folder = tmp_path / "data/my-images"
    gpu_files.unpack(archive, folder, in_memory)
    assert folder.is_symlink() == in_memory and folder.resolve().name == "my-images"
    assert gpu_files.decode(folder) == [22, 2, 24]
    archive.unlink()
    gpu_files.unpack(archive, folder, in_memory)  # nothing is read again


def test_an_archive_that_is_cut_off_leaves_no_images(archive, tmp_path):
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(UserError, match="not a tar archive of images"):
        gpu_files.unpack(archive, tmp_path / "images", False)
    assert not (tmp_path / "images").exists()


def test_the_packed_archive_has_logs_and_pictures_and_no_weights_and_splits_where_it_is_large(tmp_path):
    run = tmp_path / "gpu/badnets"
    run.mkdir(parents=True)
    for name in ("model_last.th", "resume.th", "encoder.th", "data.npy", "trigger.npz", ".results.json.1.tmp",
                 "results.json", "output.log", "trigger_info.th"):
        (run / name).write_text("x")
    (run / "curves.png").write_bytes(os.urandom(50_000))

    def names(path):
        with tarfile.open(path) as tar:
            return {name.removeprefix("gpu/badnets/") for name in tar.getnames()}
    texts = {"results.json", "output.log", "trigger_info.th"}
    whole, = gpu_files.pack(tmp_path / "a.tar.xz", tmp_path / "gpu", 10**6)
    assert names(whole) == texts | {"curves.png"}
    small, pictures = gpu_files.pack(tmp_path / "a.tar.xz", tmp_path / "gpu", 10_000)
    assert names(small) == texts and names(pictures) == {"curves.png"} and small.stat().st_size <= 10_000
    assert pictures.name == "a-pictures.tar.xz"


def test_the_cards_use_is_the_mean_of_the_last_ten_whole_lines(tmp_path):
    watch = gpu_files.CardWatch(tmp_path / "card.csv")
    assert watch.busy() is None
    rows = [f"2026/01/01, {share}, 900, 300.0" for share in (0, 0, *[40] * 5, *[80] * 5)]
    watch.path.write_text("\n".join([*rows, "2026/01/01, 1"]))
    assert watch.busy() == 60
