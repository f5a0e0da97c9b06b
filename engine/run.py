"""A script's run: its output folder, log, device, seed, progress that survives a kill, and result."""
import json
import logging
import os
import shlex
import sys
import time
from contextlib import suppress
from logging.handlers import MemoryHandler
from pathlib import Path

import torch

from common.errors import UserError
from common.files import atomic_file, write_json
from common.locks import lock_folder
from common.untrusted import read_json
from common.untrusted.weights import read_tensors
from engine import checkpoint, machine
from engine.catalogue import BY_MODULE, script_of
from engine.command import running
from engine.saved_state import is_alike, is_progress

HEADER = "Epoch \t lr \t Time \t TrainLoss \t TrainACC \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC"
ROW = "%d \t %.3f \t %.1f \t %.4f \t %.4f \t %.4f \t %.4f \t %.4f \t %.4f"
LOG_FORMAT = logging.Formatter("[%(asctime)s] - %(message)s", datefmt="%Y/%m/%d %H:%M:%S")
COLUMNS = ("epoch", "lr", "poison_acc", "clean_acc")  # of metrics.jsonl, that a training's picture is drawn from
OWN_FILES = ("results.json", "config.json", "resume.th", "output.log", "metrics.jsonl")
DAMAGED = "not what a stopped run of these flags leaves; --overwrite starts anew"
MAY_CHANGE_ON_RESUME = {"resume", "overwrite", "output_dir", "data_dir", "device"}
KEEPING = 0.05  # of the time
log = logging.getLogger("backdoor")


class Console(logging.StreamHandler):
    """Standard output; a reader that went away (`| head`) does not end the run, whose log is in its file."""

    def handleError(self, record):
        pass


class LogFile(logging.FileHandler):
    """A log file whose errors (a full disk) end the run; logging itself would print a traceback and go on."""

    def handleError(self, record):
        error = sys.exc_info()[1]
        raise UserError(f"{self.baseFilename}: cannot be written: {error}") from error


class Run:
    """One script's run in `args.output_dir`; a context manager.

    args: the script's parsed flags (output_dir, overwrite, seed, device, and resume where it has one). leaves: the
    names of the files that the script writes there beside OWN_FILES, which --overwrite removes; other_leaves: those
    that only some of its runs write.

    Nothing is written before `begin`, so that a mistake in the input leaves the folder as it was. `generator` is a
    seeded CPU generator, the same on every device. Raises UserError if a run already lies in the folder and the
    flags do not say what to do with it; exits with status 0 if it is finished and --resume is given.

    `amp` is whether to train in bfloat16; a run that is gone on with keeps, from `begin` on, to what it began with,
    whatever this machine's default is.
    """

    def __init__(self, args, leaves=(), other_leaves=()):
        self.args, self.folder, self.leaves, self.other_leaves = args, Path(args.output_dir), leaves, other_leaves
        self.resume = getattr(args, "resume", False)
        self.device = machine.find_device(args.device)
        machine.set_determinism(args.deterministic)
        self.amp = machine.trains_in_bfloat16(args, self.device)
        torch.manual_seed(args.seed)
        self.generator = torch.Generator().manual_seed(args.seed)
        self.epoch, self.rows, self.seconds, self.saved, self.epoch_started = 0, [], 0.0, None, None
        self.begun, self.lock = False, None
        self.kept, self.kept_at, self.keeping = 0, 0.0, 0.0  # last epoch saved, when, and how long that took
        self._check_folder()

    def _check_folder(self):
        """Refuse to lose what lies in the folder, and to go on with anything but the run that lies there."""
        names = (*OWN_FILES, *self.leaves, *self.other_leaves)
        links = [name for name in names if (self.folder / name).is_symlink()]
        if links:
            raise UserError(f"{self.folder / links[0]}: a symbolic link, through which a run would write elsewhere")
        there = [name for name in names if (self.folder / name).exists()]
        self._check_inputs_stay(there)
        if there and (self.args.overwrite or self.resume):
            self._check_same_script()
        if not there or self.args.overwrite:
            return
        if not self.resume:
            what = {"results.json": "a finished run", "config.json": "a begun run"}.get(there[0], there[0])
            how = "--resume goes on with it, " if hasattr(self.args, "resume") else ""
            raise UserError(f"{self.folder}: holds {what}; {how}--overwrite replaces it, --output-dir names another "
                            "folder")
        self._check_same_arguments(self._read_config()["arguments"])
        if "results.json" in there:
            missing = [name for name in self.leaves if name not in there]
            if missing:
                raise UserError(f"{self.folder}: the run is finished, but {', '.join(missing)} is gone; --overwrite "
                                "starts anew")
            print(f"{self.folder}: this run is finished; see {self.folder / 'results.json'}")
            raise SystemExit(0)

    def _check_inputs_stay(self, there):
        """Refuse to write over a file that an argument names, such as the checkpoint that the run reads."""
        for name, value in vars(self.args).items():
            for own in there if isinstance(value, str) else ():
                if Path(value).exists() and (self.folder / own).samefile(value):
                    raise UserError(f"{value}: --{name.replace('_', '-')} reads this file, which would be overwritten; "
                                    "name another --output-dir")

    def _check_same_script(self):
        """Refuse another script's run: what that one left would lie among this one's files, or go on as this one's."""
        try:
            config = self._read_config()
        except UserError:  # damaged: all the more reason to overwrite it, and --resume says so
            return
        before, now = script_of(str(config.get("script")), config["arguments"].get("task")), running()
        if before != now:
            raise UserError(f"{self.folder}: holds a run of {before}; name another --output-dir")

    def _read_config(self):
        try:
            config = read_json(self.folder / "config.json")
            return {**config, "arguments": dict(config["arguments"])}
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{self.folder / 'config.json'}: missing or damaged, so the run cannot go on; --overwrite "
                            "starts anew") from None

    def _check_same_arguments(self, before):
        """A run may only go on as it began: other flags would make a model that no command line makes."""
        now = json.loads(json.dumps(vars(self.args)))
        changed = [f"--{name.replace('_', '-')} was {before[name]}, is {now[name]}" for name in now
                   if name not in MAY_CHANGE_ON_RESUME and name in before and before[name] != now[name]]
        if changed:
            raise UserError(f"{self.folder}: --resume needs the arguments that the run began with: "
                            f"{'; '.join(changed)}")

    def __enter__(self):
        self.started = time.monotonic()
        # Lines from before `begin` wait in memory; those of a run that never begins are dropped with it.
        self.buffer = MemoryHandler(10**6, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self.handlers = [Console(sys.stdout), self.buffer]
        self.handlers[0].setFormatter(LOG_FORMAT)
        log.setLevel(logging.INFO)
        log.propagate = False
        for handler in self.handlers:
            log.addHandler(handler)
        return self

    def __exit__(self, kind, error, trace):
        if kind is KeyboardInterrupt and self.begun:
            how = "--resume goes on from there" if hasattr(self.args, "resume") else "--overwrite starts anew"
            log.info("stopped with %d epochs finished; the same command with %s", self.kept, how)
        if isinstance(error, UserError) and self.epoch_started is not None:
            error.args = (f"epoch {self.epoch + 1}: {error}",)
        for handler in self.handlers:
            log.removeHandler(handler)
            with suppress(OSError):  # a line that did not fit on the disk, which the run has ended with already
                handler.close()
        if self.lock is not None:
            os.close(self.lock)

    def begin(self, inputs=None):
        """Take the folder: from here on the input is good. Writes config.json first; then the log goes to its file.

        inputs: a fingerprint of the images that the run works on; a run only goes on with the same.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = lock_folder(self.folder, "another run")
        self._check_folder()  # again, since another run may have begun there while this one read its data
        for name in (*OWN_FILES, *self.leaves, *self.other_leaves):
            for left in self.folder.glob(f".{name}.*.tmp"):  # by a kill within a write
                left.unlink(missing_ok=True)
        if self.resume and (self.folder / "resume.th").exists():
            self._go_on(inputs)
        else:
            self._clear()
            write_json(self.folder / "config.json", self._config(inputs))
        self.begun = True
        file = LogFile(self.folder / "output.log")
        file.setFormatter(LOG_FORMAT)
        self.buffer.setTarget(file)
        self.buffer.flush()
        log.removeHandler(self.buffer)
        log.addHandler(file)
        self.handlers[1] = file
        log.info("%s", self.args)

    def _go_on(self, inputs):
        """Read resume.th, note the resumption in config.json, and drop the log's lines of an unfinished epoch."""
        config, path = self._read_config(), self.folder / "resume.th"
        if config.get("inputs") != inputs:
            raise UserError(f"{self.folder}: --resume needs the images and weights that the run began with, and "
                            "these are others")
        self.amp = config.get("bfloat16", self.amp) is True
        self.saved = read_tensors(path)
        if not is_progress(self.saved):
            raise UserError(f"{path}: {DAMAGED}")
        resumed = config.get("resumed", [])
        write_json(self.folder / "config.json",
                   {**config, "resumed": [*(resumed if isinstance(resumed, list) else []), self._circumstances()]})
        log_file = self.folder / "output.log"
        if log_file.exists():  # a new file, so that a hard link to the old one is not written through
            content = log_file.read_bytes()[:self.saved["log_size"]]
            with atomic_file(log_file) as file:
                file.write(content)

    def _clear(self):
        """Remove by name what such a run leaves; nothing else in the folder."""
        for name in (*OWN_FILES, *self.leaves, *self.other_leaves):
            (self.folder / name).unlink(missing_ok=True)

    def _config(self, inputs):
        script = running()
        called = BY_MODULE[script].words() if script in BY_MODULE else [sys.argv[0]]
        return {"script": script, "arguments": vars(self.args),
                "command": shlex.join(["python", *called, *sys.argv[1:]]), **self._circumstances(),
                "seed": self.args.seed, "bfloat16": self.amp, "inputs": inputs}

    def _circumstances(self):
        return {"versions": machine.versions(), "device": machine.device_name(self.device),
                "threads": torch.get_num_threads(), "commit": machine.commit(),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}

    def epochs(self, count, header=HEADER, columns=COLUMNS, **state):
        """Yield the epochs 1 to `count` that are still to be done; after each, `state` is saved and the log is safe.

        On a GPU that is done after the last epoch, and after others as long as it takes no more than KEEPING of the
        time: a full-width state is 90 MB, and an epoch a second or two.

        header: the log's line of column names. columns: the figures that the script wants of every row of
        metrics.jsonl, also of those from before a stop. state: whatever changes from epoch to epoch and has state_dict
        and load_state_dict (model, optimizer, scheduler). With the generator's state that is all, so a resumed run
        ends with the same bits. A run of two stages calls it twice, the second time with the sum of both as `count`;
        what a stop in the second left is kept for the second.
        """
        if self.saved and self.saved["epoch"] > count:
            self.epoch = self.kept = self.saved["epoch"]
            return
        if self.saved:
            self._restore(state, columns)
            self.epoch, self.rows, self.seconds = (self.saved[key] for key in ("epoch", "rows", "seconds"))
            self.saved, self.kept = None, self.epoch
            log.info("resumed after epoch %d", self.epoch)
        else:
            log.info(header)
        for epoch in range(self.epoch + 1, count + 1):
            self.epoch_started = time.monotonic()
            yield epoch
            if epoch == count or self._may_keep():
                self._keep(epoch, state)
            self.epoch, self.epoch_started = epoch, None

    def _may_keep(self):
        """Whether an epoch's state is to be saved: on a GPU, whose epochs may be as short, only once in a while."""
        return self.device.type == "cpu" or time.monotonic() - self.kept_at >= self.keeping / KEEPING

    def _keep(self, epoch, state):
        started = time.monotonic()
        checkpoint.save(self.folder / "resume.th", {
            "epoch": epoch, "state": {name: thing.state_dict() for name, thing in state.items()},
            "generator": self.generator.get_state(), "rows": self.rows, "seconds": self._elapsed(),
            "log_size": (self.folder / "output.log").stat().st_size})
        self.kept, self.kept_at = epoch, time.monotonic()
        self.keeping = self.kept_at - started

    def _restore(self, state, columns):
        """Give `state` and the generator back what was saved of them. Raises UserError if that is something else."""
        try:
            for name, thing in state.items():
                saved = self.saved["state"][name]
                if not is_alike(saved, thing.state_dict()):  # a scheduler would take any, its own methods included
                    raise ValueError(name)
                thing.load_state_dict(saved)
            json.dumps(self.saved["rows"], allow_nan=False)
            self.generator.set_state(self.saved["generator"])
            figures = [row[name] for row in self.saved["rows"] for name in columns]
            if not all(isinstance(figure, (int, float, type(None))) for figure in figures):
                raise ValueError("rows")
        except Exception:  # a file may hold anything in place of a state, and each thing complains in its own way
            raise UserError(f"{self.folder / 'resume.th'}: {DAMAGED}") from None

    def check_left(self, name, stage_end):
        """Raise UserError if the run goes on after epoch `stage_end` without the file that it left there."""
        if self.epoch > stage_end and not (self.folder / name).exists():
            raise UserError(f"{self.folder / name}: missing, so the run cannot go on; --overwrite starts anew")

    def _elapsed(self):
        return self.seconds + time.monotonic() - self.started

    def log(self, epoch, lr, train, test, **more):
        """One line of the log and of metrics.jsonl: `train` a Score, `test` a Evaluation, `more` for the latter alone.

        What is not known (ASR without a trigger, or an epoch that was not tested) is nan in the log and null in
        metrics.jsonl.
        """
        row = {"epoch": epoch, "lr": lr, "time": self.elapsed_in_epoch(),
               "train_loss": train.loss, "train_acc": train.accuracy.value,
               "poison_loss": test.triggered.loss, "poison_acc": test.triggered.accuracy.value,
               "clean_loss": test.clean.loss, "clean_acc": test.clean.accuracy.value}
        log.info(ROW, *row.values())
        row["robust_acc"] = test.triggered.original_accuracy.value
        self.record({name: None if value != value else value for name, value in row.items()} | more)

    def elapsed_in_epoch(self):
        """Seconds since the epoch began."""
        return time.monotonic() - self.epoch_started

    def record(self, row):
        """Append a row, a dict of plain values, to metrics.jsonl."""
        self.rows.append(row)
        with atomic_file(self.folder / "metrics.jsonl") as file:
            file.write("".join(json.dumps(row) + "\n" for row in self.rows).encode())

    def finish(self, **figures):
        """Write results.json, whose presence means finished, and drop what only --resume needs."""
        write_json(self.folder / "results.json", {
            "script": running(), **figures, "seconds": round(self._elapsed(), 1),
            **machine.peaks(self.device), "device": machine.device_name(self.device)})
        (self.folder / "resume.th").unlink(missing_ok=True)
        log.info("finished; everything is in %s", self.folder)
