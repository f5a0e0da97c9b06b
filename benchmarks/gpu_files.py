"""Where benchmarks/gpu.py works and what it brings home: memory, the images, the card's use, one archive."""
import os
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from common.files import atomic_file
from common.locks import lock_folder
from common.untrusted.archives import unpack_tar
from data.datasets import load_splits

MEMORY = Path("/dev/shm")
ROOM = 20e9  # bytes that must be free there: images, and some 40 runs with weights and saved states of 90 MB
TEXTS = (".json", ".jsonl", ".log", ".txt", ".csv")
PICTURES = (".png",)
QUERY = ("nvidia-smi", "--query-gpu=timestamp,utilization.gpu,memory.used,power.draw",
         "--format=csv,noheader,nounits", "--loop=1")


def has_room():
    """Whether there is a file system in memory with ROOM for all runs."""
    try:
        return shutil.disk_usage(MEMORY).free >= ROOM
    except OSError:
        return False


def place_in_memory(name):
    """A path of this name in memory, free, in a folder that nobody else can read."""
    return Path(tempfile.mkdtemp(prefix="backdoor-gpu-", dir=MEMORY)) / name


def leads_to_memory(path):
    """Whether `path` is a link to a folder in memory, which may be gone. A user's own links lead elsewhere."""
    return path.is_symlink() and MEMORY in path.readlink().parents


@contextmanager
def held(folder):
    """Have the folder for this process alone. Raises UserError if another call works on it."""
    lock = lock_folder(folder, "another call")
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def worked_on_in_memory(folder, wanted):
    """Until the end, `folder` is a link to its copy in memory: small files and saved states wait for no disk there.

    Afterwards it is a folder on the disk again. A killed process leaves the link, with which the next call goes on.
    After a reboot the link leads nowhere, and the next call takes the folder as it was before. Without `wanted`, the
    folder is made where there is none. Raises UserError if another call works on it.
    """
    folder = Path(folder)
    restore(folder)
    if not wanted and not folder.is_symlink():
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        if folder.exists():
            locks.enter_context(held(folder))
        if wanted and not folder.is_symlink():
            take_to_memory(folder)
            locks.enter_context(held(folder))  # the copy, for calls that find the link
        try:
            yield
        finally:
            if leads_to_memory(folder):
                bring_home(folder)


def beside(folder, what):
    """A hidden name beside `folder`: where it waits `on-disk` for its copy in memory, or that comes `home`."""
    return folder.with_name(f".{folder.name}.{what}")


def restore(folder):
    """Mend what a process that was killed, or a reboot, left of a folder in memory."""
    if leads_to_memory(folder) and not folder.exists():
        folder.unlink()
    for left in (beside(folder, "home"), beside(folder, "on-disk")):  # the newer one first
        if left.exists() and not os.path.lexists(folder):
            left.rename(folder)
        if left.exists() and not folder.is_symlink():
            shutil.rmtree(left)


def take_to_memory(folder):
    """Put a link to a copy in memory in the folder's place; the folder itself, if there is one, waits beside it."""
    memory = place_in_memory(folder.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        shutil.copytree(folder, memory)
        folder.rename(beside(folder, "on-disk"))
    else:
        memory.mkdir()
    folder.symlink_to(memory, target_is_directory=True)


def bring_home(folder):
    """Put a copy on the disk in the place of the link to memory, and remove what is no longer needed."""
    memory, home, copying = folder.resolve(), beside(folder, "home"), beside(folder, "copying")
    for left in (home, copying):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(memory, copying)
    copying.rename(home)  # a name that only a whole copy has
    folder.unlink()
    home.rename(folder)
    for left in (beside(folder, "on-disk"), memory.parent):
        shutil.rmtree(left, ignore_errors=True)


def unpack(archive, data_dir, in_memory):
    """Unpack images (train/ and test/ at its top) into `data_dir`, unless something is there already.

    in_memory: `data_dir` becomes a link to a folder in memory, which is gone with the next reboot.
    """
    data_dir = Path(data_dir)
    if data_dir.is_dir() and any(data_dir.iterdir()):
        return
    if leads_to_memory(data_dir):  # which was emptied
        data_dir.unlink()
    target = place_in_memory(data_dir.name) if in_memory else data_dir
    unpack_tar(archive, target)
    if in_memory:
        with suppress(FileNotFoundError):
            data_dir.rmdir()  # an empty one
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        data_dir.symlink_to(target, target_is_directory=True)


def decode(data_dir):
    """Read the images once, so that every later script finds them decoded; returns the sizes of the three sets."""
    return [len(part) for part in load_splits("cifar10", data_dir)]


class CardWatch:
    """Writes the card's use into a CSV file, a line a second, where nvidia-smi is; a context manager."""

    def __init__(self, path):
        self.path, self.process = Path(path), None

    def __enter__(self):
        if shutil.which(QUERY[0]):
            card = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
            with open(self.path, "a") as file:  # of a second call after the first one's
                self.process = subprocess.Popen([*QUERY, f"--id={card}"], stdout=file, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *error):
        if self.process:
            self.process.terminate()
            self.process.wait()

    def busy(self):
        """The share of the last ten seconds in which the card worked, in per cent; None where that is not known."""
        try:
            rows = self.path.read_text().splitlines()[-11:-1]  # the last line may be half written
            return sum(float(row.split(",")[1]) for row in rows) / len(rows)
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            return None


def is_kept(path, suffixes):
    """Whether a file goes into the archive: logs, tables, results, pictures and triggers, no weights and no images."""
    is_trigger = "trigger" in path.name and path.suffix == ".th" and TEXTS[0] in suffixes
    return not path.name.startswith(".") and (path.suffix in suffixes or is_trigger)


def write_archive(path, folder, suffixes):
    """Write the files of `folder` that have these suffixes into the .tar.xz `path`."""
    with atomic_file(path) as file, tarfile.open(fileobj=file, mode="w:xz", preset=3) as tar:
        for found in sorted(folder.rglob("*")):
            if found.is_file() and is_kept(found, suffixes):
                tar.add(found, Path(folder.name) / found.relative_to(folder))


def pack(path, folder, most):
    """Pack what `folder` holds into the .tar.xz `path`; returns the paths written.

    Where that has more than `most` bytes, the pictures go into an archive of their own beside it.
    """
    path, folder = Path(path), Path(folder)
    write_archive(path, folder, (*TEXTS, *PICTURES))
    if path.stat().st_size <= most:
        return [path]
    pictures = path.with_name(f"{path.name.removesuffix('.tar.xz')}-pictures.tar.xz")
    write_archive(path, folder, TEXTS)
    write_archive(pictures, folder, PICTURES)
    return [path, pictures]
