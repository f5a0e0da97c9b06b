"""Kill a script at random moments, go on each time, and compare its end with an unbroken run's, bit for bit.

    python tests/helpers/killing.py --kills 20
    python tests/helpers/killing.py --kills 20 --script defenses.abl

Runs on handwritten digits in a temporary folder. Beside it a reader opens every file of the run again and again, and
counts those that are not whole. Exit status 0 if weights, masks, tables, log and metrics are the same (times aside) and
the reader never met half a file.
"""
import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # as in conftest.py: these networks are so narrow that PyTorch's threads crash
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from engine.catalogue import BY_MODULE, SCRIPTS  # noqa: E402
from helpers.comparing import READ_WITH, compare  # noqa: E402 -- from the repository's root, wherever this is called
from helpers.runs import DIGITS, TRAIN_MODEL, filled  # noqa: E402

RESUME, ANEW, SAME = "--resume", "--overwrite", ""  # what the next call has: it goes on, starts anew, or is the same
SAYS = {RESUME: "gone on with", ANEW: "started anew", SAME: "called again"}
KILLED = [script.module for script in SCRIPTS if script.lasting]  # the others end too soon


def words(script, made, folder, *more):
    """The command of a run that lasts; made: {name: path} of what it reads."""
    flags = filled(made, [*DIGITS, *script.reads.split(), *script.lasting.split()])
    return [sys.executable, *script.words(), *flags, "--output-dir", str(folder), "--device", "cpu", *more]


def finish(command):
    """Run a command to its end; its output. Raises SystemExit if it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: status {done.returncode}: {done.stderr}")
    return done.stdout


class Reader(threading.Thread):
    """Opens every file of a folder again and again; `torn` is what was not whole when it was read, `read` how many."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.torn, self.read, self.stopped = folder, [], 0, threading.Event()

    def run(self):
        while not self.stopped.is_set():
            for path in list(self.folder.rglob("*")) if self.folder.exists() else ():
                if path.suffix in READ_WITH and not path.name.startswith("."):
                    self.look(path)
            time.sleep(0.01)

    def look(self, path):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return  # gone since it was listed
        self.read += 1
        try:
            READ_WITH[path.suffix](content)
        except Exception as error:
            self.torn.append(f"{path.name}: {error}")


def is_writing(folder):
    """The names of the temporary files in a folder: what is being written, or was when a process was killed."""
    return {path.name for path in folder.rglob(".*.tmp")}


def kill_after(process, folder, seconds, in_write):
    """Kill a process after some seconds; in_write: once it writes a file after them. Whether it lived so long.

    Who writes is in the temporary file's name. That is killed first: of a sweep it is a child, which would end its
    write while the sweep is dying.
    """
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        before = is_writing(folder)
        while in_write and process.poll() is None and is_writing(folder) <= before:
            time.sleep(0.0002)
        for name in is_writing(folder) - before if in_write else ():
            with suppress(ProcessLookupError):
                os.kill(int(name.split(".")[-2]), signal.SIGKILL)
        process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def killed_again_and_again(script, made, folder, kills, start, work):
    """Kill the script `kills` times after a random while, every other time within a write, then let it finish.

    start, work: seconds until a run begins, and from there to its end. One that is gone on with is killed soon, so that
    it does not end before all kills; one that starts anew is killed anywhere. Returns (how many kills hit a living
    process, how many left a temporary file, so hit a write).
    """
    hits, half = 0, set()
    for attempt in range(3 * kills):
        process = subprocess.Popen(words(script, made, folder, *next_call(script, folder)), cwd=ROOT,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        later = random.uniform(0, work if script.again == ANEW else 2 * work / kills)
        hits += kill_after(process, folder, start * 0.9 + later, in_write=attempt % 2)
        half |= is_writing(folder)
        if hits == kills or (process.returncode == 0 and script.again != ANEW):
            break
    finish(words(script, made, folder, *next_call(script, folder)))
    return hits, len(half)


def next_call(script, folder):
    """What the same call has in addition once its folder is there."""
    return [script.again] if script.again and folder.exists() else []


def make_model(folder):
    """Train what the scripts read; returns {name: path}."""
    finish([sys.executable, "train_backdoor.py", *DIGITS, *TRAIN_MODEL, "--output-dir", str(folder)])
    return {"model": folder / "model_last.th", "trigger": folder / "trigger_info.th"}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--script", choices=KILLED, default="train_backdoor")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_args(argv)


def break_and_compare(script, kills, scratch):
    """(kills, kills within a write, the Reader, what differs) of an unbroken and a killed run beneath `scratch`."""
    made = make_model(scratch / "model") if "{model}" in script.reads else {}
    started = time.time()
    finish(words(script, made, scratch / "whole/run"))
    begun = min(path.stat().st_mtime for path in scratch.glob("whole/run/**/config.json"))
    start, work = begun - started, time.time() - begun
    reader = Reader(scratch / "broken/run")
    reader.start()
    hits, in_writes = killed_again_and_again(script, made, scratch / "broken/run", kills, start, work)
    reader.stopped.set()
    reader.join()
    return hits, in_writes, reader, compare(scratch / "whole/run", scratch / "broken/run")


def main(argv=None):
    args = parse_args(argv)
    random.seed(args.seed)
    script = BY_MODULE[args.script]
    with tempfile.TemporaryDirectory() as scratch:
        hits, in_writes, reader, differing = break_and_compare(script, args.kills, Path(scratch))
    print(f"{args.script}: {hits} kills, {in_writes} of them within a write; "
          f"{SAYS[script.again]} each time; {reader.read} files read meanwhile, "
          f"{len(reader.torn)} of them torn; {'; '.join(differing) or 'the same to the bit'}")
    for torn in reader.torn[:5]:
        print(f"  {torn}")
    if not hits or not reader.read:
        raise SystemExit("nothing was killed, or nothing read: this shows nothing")
    raise SystemExit(bool(differing or reader.torn))


if __name__ == "__main__":
    main()
