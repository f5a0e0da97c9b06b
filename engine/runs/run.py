"""One run of a script: its output folder, log, device, seed, saved progress and result."""
import json
import logging
import os
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch

from common.errors import UserError
from common.files import atomic_file, write_json
from common.inputs import named_files
from common.locks import lock_folder
from data.image_set import ImageSet
from engine.catalogue import BY_MODULE
from engine.command_line.command import running
from engine.measuring.scores import Evaluation, Score
from engine.runs import machine, resume
from engine.runs.log_lines import LogLines
from engine.weights import checkpoint

HEADER = "Epoch \t lr \t Time \t TrainLoss \t TrainACC \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC"
ROW = "%d \t %s \t %.1f \t %.4f \t %.4f \t %.4f \t %.4f \t %.4f \t %.4f"
COLUMNS = ("epoch", "lr", "poison_acc", "clean_acc")  # of metrics.jsonl, which a training's picture needs
MAX_SAVING_SHARE = 0.05  # of a GPU's time, for saving progress
log = logging.getLogger("backdoor")


class Fingerprinted(Protocol):
    """Has a fingerprint that is equal for two runs on the same inputs: an ImageSet, a Suspect."""

    def fingerprint(self) -> str: ...


class Run:
    """One script's run in `args.output_dir`; a context manager.

    args: the script's parsed flags (output_dir, overwrite, device, and seed and resume if it has them). leaves: the
    names of the files that the script writes there besides OWN_FILES, which --overwrite removes. other_leaves: the
    files that only some of its runs write.

    Nothing is written before `begin`, so that a mistake in the input leaves the folder unchanged. `generator` is a
    seeded CPU generator, the same on every device. Raises UserError if the folder already holds a run and the flags do
    not say what to do with it; exits with status 0 if it is finished and --resume is given.

    `amp` is whether to train in bfloat16. From `begin` on, a resumed run keeps the value that it began with, whatever
    this machine's default is.
    """

    def __init__(self, args: Namespace, leaves: Sequence[str] = (), other_leaves: Sequence[str] = ()):
        self.args, self.folder, self.leaves, self.other_leaves = args, Path(args.output_dir), leaves, other_leaves
        self.resume = getattr(args, "resume", False)
        self.device = machine.find_device(args.device)
        machine.set_determinism(args.deterministic)
        self.amp = machine.trains_in_bfloat16(args, self.device)
        self.seed = getattr(args, "seed", None)  # None: the script draws nothing
        torch.manual_seed(self.seed or 0)
        self.generator = torch.Generator().manual_seed(self.seed or 0)
        self.epoch, self.rows, self.seconds, self.saved, self.epoch_started = 0, [], 0.0, None, None
        self.begun, self.lock = False, None
        self.unit = "epoch"  # what a row of the log is of
        self.test_every = getattr(args, "test_every", 1)
        self.facts = {}  # entries of results.json that are known before the end
        self.saved_epoch, self.saved_at, self.saving_seconds = 0, 0.0, 0.0  # the last one, when, how long it took
        resume.check_folder(self.folder, args, leaves, other_leaves)

    def __enter__(self):
        self.started = time.monotonic()
        self.lines = LogLines()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None):
        if kind is KeyboardInterrupt and self.begun:
            log.info(self._how_it_goes_on())
        if isinstance(error, UserError) and self.epoch_started is not None:
            error.args = (f"epoch {self.epoch + 1}: {error}",)
        self.lines.close()
        if self.lock is not None:
            os.close(self.lock)

    def begin(self, inputs: Fingerprinted | str | None = None) -> None:
        """Start the run once its input is known to be good: write config.json first, then the log to its file.

        inputs: a fingerprint of what the run works on, or an object that has one (an ImageSet or a Suspect). A run is
        only resumed on the same inputs. Raises UserError as __init__ does.
        """
        if not isinstance(inputs, (str, type(None))):
            inputs = inputs.fingerprint()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = lock_folder(self.folder, "another run")
        # Again, since another run may have begun there while this one read its data.
        resume.check_folder(self.folder, self.args, self.leaves, self.other_leaves)
        for name in (*resume.OWN_FILES, *self.leaves, *self.other_leaves):
            for left in self.folder.glob(f".{name}.*.tmp"):  # left by a kill during a write
                left.unlink(missing_ok=True)
        if self.resume and (self.folder / "resume.th").exists():
            self._resume(inputs)
        else:
            if self.resume:
                log.info("--resume: nothing is saved in %s, so the run begins", self.folder)
            self._clear()
            write_json(self.folder / "config.json", self._config(inputs))
        self.begun = True
        self.lines.write_to(self.folder / "output.log")
        log.info("%s", self.args)

    def _how_it_goes_on(self):
        """What a stopped run has saved, and the flag that goes on from there."""
        if not hasattr(self.args, "resume"):
            return "stopped; this script saves nothing on its way: the same command with --overwrite starts over"
        if self.saved:  # not taken up yet
            return "stopped before it went on; the same command with --resume continues from where it was"
        if not self.saved_epoch:
            return "stopped with nothing saved yet; the same command with --resume starts over"
        last = self.rows[self.saved_epoch - 1] if len(self.rows) >= self.saved_epoch else {}
        return (f"stopped with {self.unit} {last.get('epoch', self.saved_epoch)} saved; the same command with --resume "
                "continues from there")

    def _resume(self, inputs: str | None):
        """Read resume.th, note the resumption in config.json, and drop the log lines of an unfinished epoch."""
        config = resume.read_config(self.folder)
        self.saved = resume.load_progress(self.folder, config, inputs)
        self.amp = config.get("bfloat16", self.amp) is True
        resumed = config.get("resumed")
        write_json(self.folder / "config.json", {
            **config, "resumed": [*(resumed if isinstance(resumed, list) else []), self._circumstances()]})
        resume.cut_log(self.folder / "output.log", self.saved["log_size"])

    def _clear(self):
        """Remove the files that such a run leaves, by name, and no others."""
        for name in (*resume.OWN_FILES, *self.leaves, *self.other_leaves):
            (self.folder / name).unlink(missing_ok=True)

    def _config(self, inputs: str | None):
        script = running()
        called = BY_MODULE[script].words() if script in BY_MODULE else [sys.argv[0]]
        return {"script": script, "arguments": vars(self.args),
                "command": shlex.join(["python", *called, *sys.argv[1:]]), **self._circumstances(),
                "seed": self.seed, "bfloat16": self.amp, "inputs": inputs, "files": named_files(self.args)}

    def _circumstances(self):
        return {"versions": machine.versions(), "device": machine.device_name(self.device),
                "threads": torch.get_num_threads(), "commit": machine.commit(),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}

    def epochs(self, count: int, header: str = HEADER, columns: Sequence[str] = COLUMNS, **state) -> Iterator[int]:
        """Yield the epochs from 1 to `count` that have not been made yet; after each, save `state`.

        A CPU saves after every epoch. A GPU saves after the last epoch, and after others if saving takes at most
        MAX_SAVING_SHARE of the time: a full-width state is 90 MB, and an epoch takes a second or two.

        header: the log's line of column names. columns: the figures that every row of metrics.jsonl must have,
        including rows from before a stop. state: everything that changes from epoch to epoch and has state_dict and
        load_state_dict (model, optimizer, scheduler). Together with the generator's state this is complete: a resumed
        run ends with the same bits. A run of two stages calls this twice, the second time with the sum of both as
        `count`; progress saved in the second stage is restored there.
        """
        self.unit = "iteration" if header.startswith("Iter") else "epoch"
        if self.saved and self.saved["epoch"] > count:
            self.epoch = self.saved_epoch = self.saved["epoch"]
            return
        if self.saved:
            resume.restore(self.folder / "resume.th", self.saved, state, self.generator, columns)
            self.epoch, self.rows, self.seconds = (self.saved[key] for key in ("epoch", "rows", "seconds"))
            self.saved, self.saved_epoch = None, self.epoch
            log.info("resumed after epoch %d", self.epoch)
        else:
            if self.test_every > 1 and header == HEADER:
                log.info("tested after every %d epochs and after the last; the tests' columns are nan between",
                         self.test_every)
            log.info(header)
        for epoch in range(self.epoch + 1, count + 1):
            self.epoch_started = time.monotonic()
            yield epoch
            if epoch == count or self._should_save():
                self._save_progress(epoch, state)
            self.epoch, self.epoch_started = epoch, None

    def is_tested(self, epoch: int, until: int) -> bool:
        """Whether a stage that ends with epoch `until` is tested after `epoch`: every --test-every'th of the run, and
        the last."""
        return epoch == until or epoch % self.test_every == 0

    def _should_save(self):
        """Whether to save an epoch's state. A GPU, whose epochs may be as short as the saving, saves only now and then.
        """
        return self.device.type == "cpu" or time.monotonic() - self.saved_at >= self.saving_seconds / MAX_SAVING_SHARE

    def _save_progress(self, epoch: int, state: dict):
        started = time.monotonic()
        checkpoint.save(self.folder / "resume.th", {
            "epoch": epoch, "state": {name: thing.state_dict() for name, thing in state.items()},
            "generator": self.generator.get_state(), "rows": self.rows, "seconds": self._elapsed(),
            "log_size": (self.folder / "output.log").stat().st_size})
        self.saved_epoch, self.saved_at = epoch, time.monotonic()
        self.saving_seconds = self.saved_at - started

    def check_left(self, name: str, stage_end: int) -> None:
        """Raise UserError if the run resumes after epoch `stage_end` without the file that this stage left."""
        if self.epoch > stage_end and not (self.folder / name).exists():
            raise UserError(f"{self.folder / name}: missing, so the run cannot be resumed; --overwrite starts over")

    def _elapsed(self):
        return self.seconds + time.monotonic() - self.started

    def log(self, epoch: int, lr: float, train: Score, test: Evaluation, **more) -> None:
        """Write one line of the log and of metrics.jsonl. train: the epoch's Score. test: its Evaluation. more: further
        entries for metrics.jsonl.

        An unknown figure (ASR without a trigger, or an epoch that was not tested) is nan in the log and null in
        metrics.jsonl.
        """
        row = {"epoch": epoch, "lr": lr, "time": self.elapsed_in_epoch(),
               "train_loss": train.loss, "train_acc": train.accuracy.value,
               "poison_loss": test.triggered.loss, "poison_acc": test.triggered.accuracy.value,
               "clean_loss": test.clean.loss, "clean_acc": test.clean.accuracy.value}
        log.info(ROW, *(row | {"lr": f"{lr:.3f}" if lr >= 0.01 else f"{lr:.2g}"}).values())  # 0.0005 is not 0.001
        row["robust_acc"] = test.triggered.original_accuracy.value
        self.record({name: None if value != value else value for name, value in row.items()} | more)

    def elapsed_in_epoch(self) -> float:
        """Seconds since the epoch began."""
        return time.monotonic() - self.epoch_started

    def record(self, row: dict) -> None:
        """Append a row, a dict of plain values, to metrics.jsonl."""
        self.rows.append(row)
        with atomic_file(self.folder / "metrics.jsonl") as file:
            file.write("".join(json.dumps(row) + "\n" for row in self.rows).encode())

    def finish(self, evaluation: Evaluation | None = None, *, model: torch.nn.Module | None = None,
               parent: str | None = None, data: ImageSet | None = None, method: dict | None = None,
               epochs: int | None = None, **figures) -> None:
        """Write results.json, which marks the run as finished, and delete what only --resume needs.

        evaluation: the final Evaluation; a script without one passes its figures by name. model: the network that the
        run leaves or has examined, whose architecture and width are recorded. parent: the checkpoint that it was made
        from. data: the ImageSet whose name is recorded. method: the script's own entries. epochs: the number of epochs,
        if it is not that of the flag. Unknown entries are left out.
        """
        if evaluation is not None:
            figures = {**evaluation.figures(), **figures}
        facts = {"dataset": None if data is None else data.name, **self._size_of(model),
                 "epochs": getattr(self.args, "epochs", None) if epochs is None else epochs, "seed": self.seed,
                 "method": method}
        known = {name: value for name, value in facts.items() if value is not None}
        write_json(self.folder / "results.json", {
            "script": running(), **figures, **self.facts, "parent": parent, **known,
            "seconds": round(self._elapsed(), 1), **machine.peaks(self.device),
            "device": machine.device_name(self.device)})
        (self.folder / "resume.th").unlink(missing_ok=True)
        log.info("finished; everything is in %s", self.folder)

    def _size_of(self, model: torch.nn.Module | None):
        """The entries of results.json about a network: its spec, and its width by itself for older readers."""
        if model is None:
            return {"width": getattr(self.args, "width", None)}
        return {"spec": model.spec, "width": model.spec["width"]}
