"""A script's run: its output folder, log, device, seed, progress that survives a kill, and result."""
import functools
import json
import logging
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from logging.handlers import MemoryHandler
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision

from data.files import UserError, write_json
from engine import checkpoint

ROOT = Path(__file__).resolve().parent.parent
HEADER = "Epoch \t lr \t Time \t TrainLoss \t TrainACC \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC"
ROW = "%d \t %.3f \t %.1f \t %.4f \t %.4f \t %.4f \t %.4f \t %.4f \t %.4f"
LOG_FORMAT = logging.Formatter("[%(asctime)s] - %(message)s", datefmt="%Y/%m/%d %H:%M:%S")
OWN_FILES = ("results.json", "resume.th", "config.json", "output.log", "metrics.jsonl")
MAY_CHANGE_ON_RESUME = {"resume", "overwrite", "output_dir", "data_dir", "device"}
log = logging.getLogger("backdoor")


def command(main):
    """Make `main(argv)` end as a command should: a mistake in one line with exit status 2, a stop without a traceback."""
    @functools.wraps(main)
    def wrapped(argv=None):
        def stop(number, frame):
            raise KeyboardInterrupt(number)
        before = signal.signal(signal.SIGTERM, stop)
        try:
            return main(argv)
        except (UserError, OSError) as error:
            text = str(error) if isinstance(error, UserError) else f"{error.filename or 'output'}: {error.strerror or error}"
            print(f"{Path(sys.argv[0]).name}: error: {' '.join(text.split())}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt as stopped:
            raise SystemExit(128 + (stopped.args[0] if stopped.args else signal.SIGINT)) from None
        finally:
            signal.signal(signal.SIGTERM, before)
    return wrapped


class Run:
    """One script's run in `args.output_dir`; a context manager.

    args: the script's parsed flags (output_dir, overwrite, seed, device, and resume where it has one). leaves: the
    names of the files that the script writes there beside OWN_FILES, which --overwrite removes.

    Nothing is written before `begin`, so that a mistake in the input leaves the folder as it was. `generator` is a
    seeded CPU generator, the same on every device. Raises UserError if a run already lies in the folder and the
    flags do not say what to do with it; exits with status 0 if it is finished and --resume is given.
    """

    def __init__(self, args, leaves=()):
        self.args, self.folder, self.leaves = args, Path(args.output_dir), leaves
        self.resume = getattr(args, "resume", False)
        self.device = find_device(args.device)
        torch.manual_seed(args.seed)
        self.generator = torch.Generator().manual_seed(args.seed)
        self.epoch, self.seconds, self.saved = 0, 0.0, None
        self._check_folder()

    def _check_folder(self):
        finished, begun = ((self.folder / name).exists() for name in ("results.json", "config.json"))
        if finished and self.resume:
            print(f"{self.folder}: this run is finished; see {self.folder / 'results.json'}")
            raise SystemExit(0)
        if (finished or begun) and not (self.resume or self.args.overwrite):
            how = "--resume goes on with it, " if hasattr(self.args, "resume") else ""
            raise UserError(f"{self.folder}: holds a {'finished' if finished else 'begun'} run; {how}--overwrite "
                            "replaces it, --output-dir names another folder")
        if begun and self.resume:
            self._check_same_arguments()

    def _check_same_arguments(self):
        """A run may only go on as it began: other flags would make a model that no command line makes."""
        try:
            before = json.loads((self.folder / "config.json").read_text())["arguments"]
        except (ValueError, KeyError):
            raise UserError(f"{self.folder / 'config.json'}: not a run's config; start anew with --overwrite") from None
        now = json.loads(json.dumps(vars(self.args)))
        changed = [f"--{name.replace('_', '-')} was {before.get(name)}, is {now[name]}" for name in now
                   if name not in MAY_CHANGE_ON_RESUME and before.get(name) != now[name]]
        if changed:
            raise UserError(f"{self.folder}: --resume needs the arguments that the run began with: {'; '.join(changed)}")

    def __enter__(self):
        self.started = time.monotonic()
        # Lines from before `begin` wait in memory; those of a run that never begins are dropped with it.
        self.buffer = MemoryHandler(10**6, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self.handlers = [logging.StreamHandler(sys.stdout), self.buffer]
        self.handlers[0].setFormatter(LOG_FORMAT)
        log.setLevel(logging.INFO)
        log.propagate = False
        for handler in self.handlers:
            log.addHandler(handler)
        return self

    def __exit__(self, kind, error, trace):
        if kind is KeyboardInterrupt:
            how = ("--resume goes on from there" if hasattr(self.args, "resume") else "start anew with --overwrite")
            log.info("stopped, %d epochs finished; the same command with %s", self.epoch, how)
        for handler in self.handlers:
            log.removeHandler(handler)
            handler.close()

    def begin(self):
        """Take the folder: from here on the input is good. Writes config.json first; then the log goes to its file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.resume and (self.folder / "resume.th").exists():
            self.saved = checkpoint.load(self.folder / "resume.th")
            for name in ("output.log", "metrics.jsonl"):  # lines of an epoch that was not finished would stand twice
                os.truncate(self.folder / name, min(self.saved["sizes"][name], (self.folder / name).stat().st_size))
        else:
            for name in (*OWN_FILES, *self.leaves):
                (self.folder / name).unlink(missing_ok=True)
            write_json(self.folder / "config.json", self._config())
        file = logging.FileHandler(self.folder / "output.log")
        file.setFormatter(LOG_FORMAT)
        self.buffer.setTarget(file)
        self.buffer.flush()
        log.removeHandler(self.buffer)
        log.addHandler(file)
        self.handlers[1] = file
        log.info("%s", self.args)

    def _config(self):
        return {"script": Path(sys.argv[0]).name, "arguments": vars(self.args),
                "command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
                "versions": {"python": platform.python_version(), "torch": torch.__version__,
                             "torchvision": torchvision.__version__, "numpy": np.__version__,
                             "pillow": PIL.__version__},
                "device": device_name(self.device), "threads": torch.get_num_threads(), "seed": self.args.seed,
                "commit": commit(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}

    def epochs(self, count, **state):
        """Yield the epochs 1 to `count` that are still to be done; after each, `state` is saved and the log is safe.

        state: whatever changes from epoch to epoch and has state_dict and load_state_dict (model, optimizer,
        scheduler). With the generator's state that is all, so a resumed run ends with the same bits.
        """
        if self.saved:
            for name, thing in state.items():
                thing.load_state_dict(self.saved["state"][name])
            self.generator.set_state(self.saved["generator"])
            self.epoch, self.seconds = self.saved["epoch"], self.saved["seconds"]
            log.info("resumed after epoch %d", self.epoch)
        else:
            log.info(HEADER)
        for epoch in range(self.epoch + 1, count + 1):
            self.epoch_started = time.monotonic()
            try:
                yield epoch
            except UserError as error:
                raise UserError(f"epoch {epoch}: {error}") from None
            self.epoch = epoch
            checkpoint.save(self.folder / "resume.th", {
                "epoch": epoch, "state": {name: thing.state_dict() for name, thing in state.items()},
                "generator": self.generator.get_state(), "seconds": self._elapsed(),
                "sizes": {name: (self.folder / name).stat().st_size for name in ("output.log", "metrics.jsonl")}})

    def _elapsed(self):
        return self.seconds + time.monotonic() - self.started

    def log(self, epoch, lr, train, test):
        """One line of the log and of metrics.jsonl: `train` a Score, `test` a TestScore."""
        row = {"epoch": epoch, "lr": lr, "time": time.monotonic() - self.epoch_started,
               "train_loss": train.loss, "train_acc": train.accuracy.value,
               "poison_loss": test.triggered.loss, "poison_acc": test.triggered.accuracy.value,
               "clean_loss": test.clean.loss, "clean_acc": test.clean.accuracy.value}
        log.info(ROW, *row.values())
        row["robust_acc"] = test.triggered.original_accuracy.value
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self):
        """The rows of metrics.jsonl, one dict an epoch."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def finish(self, **figures):
        """Write results.json, whose presence means finished, and drop what only --resume needs."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        write_json(self.folder / "results.json", {
            "script": Path(sys.argv[0]).name, **figures, "seconds": round(self._elapsed(), 1),
            "peak_memory_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10)),
            "device": device_name(self.device)})
        (self.folder / "resume.th").unlink(missing_ok=True)
        log.info("finished; everything is in %s", self.folder)


def find_device(name):
    """The torch.device that `name` asks for; auto is CUDA where there is one. Raises UserError if it cannot be used."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None


def device_name(device):
    """What a figure was measured on: the card's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit():
    """The commit that the code is at, with -dirty behind it for changed files; None outside a checkout."""
    try:
        done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                              capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
