"""Run jobs side by side until a limit: needs first, must-haves before others, nothing that cannot end in time."""
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.cells import DIES_TOO, ROOT

GRACE = 8  # seconds for a stopped job to say so in its log
LOOK = 0.25  # seconds between two looks at the jobs
SETTLED = 25  # seconds after a start until the card's use tells what the job takes of it
IDLE = 65  # per cent of the time: a card that works less has room for one more
COMING = ("waits", "runs", "ended")


@dataclass
class Progress:
    """How far a job is: waits, runs, ended, failed, left out (of a need that failed), no time, or stopped.

    begun: seconds after the start, and took, how many; None for what did not run in this call.
    """

    state: str = "waits"
    begun: float | None = None
    took: float | None = None
    process: subprocess.Popen | None = None


def log_name(name):
    """The name of a job's log file."""
    return f"{name.replace('/', '-')}.txt"


class Schedule:
    """Runs `jobs`, {name: Job}, from `run` on until `limit` seconds after `started` (of time.monotonic).

    logs: folder of their output. tell: called with a line when a job begins or ends. places: how many run at once;
    None for two until the benign model is there, then three, and one more where `busy()`, the share of the time in
    per cent in which the card works (or None), says that it idles. A job whose folder holds results.json has ended.
    """

    def __init__(self, jobs, limit, started, logs, tell=print, places=None, busy=lambda: None, environment=None):
        self.jobs, self.limit, self.started, self.logs = jobs, limit, started, Path(logs)
        self.tell, self.places, self.busy, self.environment = tell, places, busy, environment
        self.progress = {name: Progress("ended" if is_finished(job) else "waits") for name, job in jobs.items()}
        self.last_start = self.elapsed()

    def elapsed(self):
        """Seconds since the start."""
        return time.monotonic() - self.started

    def in_state(self, *states):
        """The names of the jobs in one of these states."""
        return [name for name, own in self.progress.items() if own.state in states]

    def run(self):
        """Run all that can be run. Whatever ends this call, no job runs afterwards."""
        try:
            while self.elapsed() < self.limit:
                self.look()
                if not self.begin_next():
                    if not self.in_state("runs"):
                        break
                    time.sleep(LOOK)
        finally:
            self.stop()
        for name in self.in_state("waits"):
            self.progress[name].state = "no time"

    def look(self):
        """Note which jobs have ended, and which will never have what they need."""
        for name in self.in_state("runs"):
            status = self.progress[name].process.poll()
            if status is not None:
                self.end(name, "failed" if status else "ended")
        for name in self.in_state("waits"):
            if any(self.progress[need].state not in COMING for need in self.jobs[name].needs):
                self.progress[name].state = "left out"

    def ready(self):
        """The names of the jobs that can begin and end in time, must-haves first."""
        left = self.limit - self.elapsed()
        names = [name for name in self.in_state("waits") if self.jobs[name].least <= left and all(
            self.progress[need].state == "ended" for need in self.jobs[name].needs)]
        return sorted(names, key=lambda name: not self.jobs[name].must)  # stable: in their own order among each

    def begin_next(self):
        """Begin the next job if there is one and a place for it; returns whether it did."""
        names = self.ready()
        if not names or len(self.in_state("runs")) >= self.at_once():
            return False
        self.begin(names[0])
        return True

    def at_once(self):
        """How many jobs may run now. More than two would delay the benign model, which the longest path begins with."""
        if self.places:
            return self.places
        benign = self.progress.get("benign")
        usual = 2 if benign and benign.state in ("waits", "runs") else 3
        share = self.busy() if self.elapsed() - self.last_start >= SETTLED else None
        return usual + 1 if share is not None and share <= IDLE else usual

    def begin(self, name):
        """Start a job's process."""
        words = [*DIES_TOO, sys.executable, *self.jobs[name].words]
        with open(self.logs / log_name(name), "a") as log:  # of a second call after the first one's
            log.write(f"{shlex.join(words)}\n")
            log.flush()
            process = subprocess.Popen(words, cwd=ROOT, env=self.environment, stdout=log, stderr=log,
                                       stdin=subprocess.DEVNULL, start_new_session=True)  # Ctrl-C comes by `stop`
        self.last_start = self.elapsed()
        self.progress[name] = Progress("runs", self.last_start, process=process)
        self.tell(f"{self.last_start:5.0f} s: {name} begins")

    def end(self, name, state):
        """Note that a job is over."""
        own = self.progress[name]
        own.state, own.took = state, self.elapsed() - own.begun
        self.tell(f"{self.elapsed():5.0f} s: {name} {state} after {own.took:.0f} s")

    def stop(self):
        """SIGTERM to what runs, which saves its state, and SIGKILL to what does not end by that."""
        names = self.in_state("runs")
        for name in names:
            self.progress[name].process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for name in names:
            process = self.progress[name].process
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            if process.poll() is None:
                process.kill()
                process.wait()
            self.end(name, "ended" if process.returncode == 0 else "stopped")


def is_finished(job):
    """Whether the job's run is there already."""
    return (ROOT / job.folder / "results.json").exists()
