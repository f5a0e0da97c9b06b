"""Kill a script at random moments, go on each time, and compare its end with an unbroken run's, bit for bit.

    python tests/reliability/kill.py --kills 20
    python tests/reliability/kill.py --kills 20 --script abl

Runs on handwritten digits in a temporary folder. Beside it a reader opens every file of the run again and again, and
counts those that are not whole. Exit status 0 if weights, masks, tables, log and metrics are the same (times aside) and
the reader never met half a file.
"""
import argparse
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

DIGITS = ["--dataset", "digits"]
TRAIN = [*DIGITS, "--width", "4", "--batch-size", "32", "--poison-rate", "0.2", "--crop-padding", "2"]
SUSPECT = [*DIGITS, "--checkpoint", "{model}"]
RESUME, ANEW, SAME = "--resume", "--overwrite", None  # what goes on with it, starts it anew, or the same call again
SAYS = {RESUME: "gone on with", ANEW: "started anew", SAME: "called again"}
# What is killed: script, flags, and what the next call says.
SCRIPTS = {
    "train": ("train_backdoor.py", [*TRAIN, "--epochs", "12"], RESUME),
    "abl": ("defenses.abl", [*TRAIN, "--isolation-epochs", "4", "--epochs", "4", "--unlearn-epochs", "3",
                             "--isolation-rate", "0.05", "--max-drop", "1"], RESUME),
    "pruning-aware": ("attacks.pruning_aware", [*TRAIN, "--clean-epochs", "4", "--epochs", "4"], RESUME),
    "anp": ("generate_mask.py", [*SUSPECT, "--val-frac", "0.05", "--nb-iter", "60", "--print-every", "5",
                                 "--batch-size", "32"], RESUME),
    "fine-prune": ("defenses.fine_prune", [*SUSPECT, "--val-frac", "0.05", "--epochs", "12", "--batch-size", "8"], RESUME),
    "craft": ("generate_clb_attack.py", [*SUSPECT, "--poison-rate", "0.5", "--iterations", "60"], ANEW),
    "neural-cleanse": ("defenses.neural_cleanse", [*SUSPECT, "--seeds", "1", "--budget", "12", "--batches", "1"],
                       ANEW),
    "encoder": ("attacks.issba_encoder", [*SUSPECT, "--bits", "4", "--width", "4", "--epochs", "4", "--batch-size",
                                              "32", "--min-psnr", "0", "--min-bit-accuracy", "0"], RESUME),
    "anp-sweep": ("studies.sweep_anp", [*SUSPECT, "--val-frac", "0.05", "--nb-iter", "40", "--print-every", "5",
                                   "--batch-size", "32", "--alphas", "0.2", "0.8", "--seeds", "1"], SAME),
    "abl-sweep": ("studies.sweep_abl", [*TRAIN[:-4], "--crop-padding", "2", "--poison-rates", "0.2", "--isolation-rates",
                                   "0.05", "0.1", "--isolation-epochs", "3", "--epochs", "2", "--unlearn-epochs", "1",
                                   "--max-drop", "1", "--seeds", "1"], SAME),
}
TIMES = {"time", "seconds", "peak_memory_mb", "peak_device_memory_mb", "started", "resumed"}  # what no two runs share
READ_WITH = {".th": lambda content: torch.load(io.BytesIO(content), weights_only=False),
             ".json": json.loads, ".jsonl": lambda content: [json.loads(line) for line in content.splitlines()],
             ".png": lambda content: Image.open(io.BytesIO(content)).load(),
             ".npy": lambda content: np.load(io.BytesIO(content), allow_pickle=False)}


def words(script, flags, folder, model, *more):
    name, *task = script.split()
    return [sys.executable, str(ROOT / name), *task, *(flag.replace("{model}", str(model)) for flag in flags),
            "--output-dir", str(folder), "--device", "cpu", *more]


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


def killed_again_and_again(script, flags, folder, model, kills, start, work, next_call):
    """Kill the script `kills` times after a random while, every other time within a write, then let it finish.

    start, work: seconds until a run begins, and from there to its end. One that is gone on with is killed soon, so that
    it does not end before all kills; one that starts anew is killed anywhere. Returns (how many kills hit a living
    process, how many left a temporary file, so hit a write).
    """
    hits, half = 0, set()
    for attempt in range(3 * kills):
        again = [next_call] if next_call and folder.exists() else []
        process = subprocess.Popen(words(script, flags, folder, model, *again), cwd=ROOT, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        later = random.uniform(0, work if next_call == ANEW else 2 * work / kills)
        hits += kill_after(process, folder, start * 0.9 + later, in_write=attempt % 2)
        half |= is_writing(folder)
        if hits == kills or (process.returncode == 0 and next_call != ANEW):
            break
    again = [next_call] if next_call and folder.exists() else []
    finish(words(script, flags, folder, model, *again))
    return hits, len(half)


def plain(value, aside=frozenset()):
    """A value without times and the keys `aside`, and with arrays as bytes, to compare."""
    if isinstance(value, dict):
        return {key: plain(entry, aside) for key, entry in value.items()
                if key not in TIMES | {"args", "output_dir"} | aside}
    if isinstance(value, (list, tuple)):
        return [plain(entry, aside) for entry in value]
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    return (str(value.dtype), value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def log_lines(path):
    """The log without what tells when: dates, the Time column, arguments, and what a start says again."""
    lines = [re.sub(r"^\[.*?\] - ", "", line) for line in path.read_text().splitlines()]
    lines = [re.sub(r"^(\d+ \t [\d.]+ \t )[\d.]+", r"\1", line) for line in lines]
    again = ("Namespace(", "resumed after", "finished;", "stopped with")
    return list(dict.fromkeys(line for line in lines if not line.startswith(again)))  # in order, said once


def compare(one, other, aside=frozenset()):
    """What differs between the folders of two runs, the keys `aside` not looked at."""
    names = [{path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
             for folder in (one, other)]
    differing = [f"only one has {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        paths, suffix = (one / name, other / name), Path(name).suffix
        if Path(name).name == "config.json":
            continue
        if suffix in (".png", ".npz", ".csv"):
            same = paths[0].read_bytes() == paths[1].read_bytes()
        elif suffix in READ_WITH:
            same = len({repr(plain(READ_WITH[suffix](path.read_bytes()), aside)) for path in paths}) == 1
        else:
            same = log_lines(paths[0]) == log_lines(paths[1])
        differing += [] if same else [f"{name} differs"]
    return differing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--script", choices=SCRIPTS, default="train")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    random.seed(args.seed)
    script, flags, next_call = SCRIPTS[args.script]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        if "{model}" in flags:
            finish(words("train_backdoor.py", [*TRAIN, "--epochs", "3"], scratch / "model", None))
        model = scratch / "model/model_last.th"
        started = time.time()
        finish(words(script, flags, scratch / "whole/run", model))
        begun = min(path.stat().st_mtime for path in scratch.glob("whole/run/**/config.json"))
        start, work = begun - started, time.time() - begun
        reader = Reader(scratch / "broken/run")
        reader.start()
        hits, in_writes = killed_again_and_again(script, flags, scratch / "broken/run", model, args.kills, start,
                                                 work, next_call)
        reader.stopped.set()
        reader.join()
        differing = compare(scratch / "whole/run", scratch / "broken/run")
    print(f"{args.script}: {hits} kills, {in_writes} of them within a write; "
          f"{SAYS[next_call]} each time; {reader.read} files read meanwhile, "
          f"{len(reader.torn)} of them torn; {'; '.join(differing) or 'the same to the bit'}")
    for torn in reader.torn[:5]:
        print(f"  {torn}")
    if not hits or not reader.read:
        raise SystemExit("nothing was killed, or nothing read: this shows nothing")
    raise SystemExit(bool(differing or reader.torn))


if __name__ == "__main__":
    main()
