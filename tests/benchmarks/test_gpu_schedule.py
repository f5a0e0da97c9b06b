"""benchmarks/gpu.py: its scheduler on fake jobs, and the summary of what they left."""
import json
import re
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from helpers.paths import ROOT

from benchmarks import gpu, gpu_jobs, gpu_summary
from benchmarks.gpu_jobs import Job
from benchmarks.gpu_schedule import Schedule
from engine.weights.checkpoint import save

FAKE = ROOT / "tests/benchmarks/gpu_fake_job.py"


@pytest.fixture
def fake(tmp_path):
    """fake(name, seconds, status, words, **of a Job): a Job that sleeps, and ends at once if it was stopped before."""
    def make(name, seconds=0, status=0, *words, estimate=0.1, **more):
        folder = str(tmp_path / "runs" / name)
        return Job(name, (str(FAKE), folder, str(seconds), str(status), *words), folder, seconds=estimate, **more)
    return make


@pytest.fixture
def scheduled(tmp_path):
    """scheduled(jobs, limit, **of a Schedule): the Schedule after its run."""
    (tmp_path / "logs").mkdir()

    def run(*jobs, limit=60, **options):
        schedule = Schedule({job.name: job for job in jobs}, limit, time.monotonic(), tmp_path / "logs",
                            lambda line: None, **options)
        schedule.run()
        return schedule
    return run


def states(schedule):
    return {name: own.state for name, own in schedule.progress.items()}


def test_a_job_that_fails_leaves_out_what_needs_it_and_nothing_else(fake, scheduled):
    schedule = scheduled(fake("bad", status=2), fake("child", needs=("bad",)), fake("grandchild", needs=("child",)),
                         fake("other"), fake("of-other", needs=("other",)))
    assert states(schedule) == {"bad": "failed", "child": "left out", "grandchild": "left out", "other": "ended",
                                "of-other": "ended"}


def test_what_cannot_end_before_the_limit_is_not_begun(fake, scheduled):
    schedule = scheduled(fake("long", estimate=100), fake("short"), fake("hopeless", estimate=130, must=True),
                         fake("must", estimate=100, must=True), fake("after-long", needs=("long",)))
    assert states(schedule) == {"long": "no time", "short": "ended", "hopeless": "no time", "must": "ended",
                                "after-long": "no time"}
    assert schedule.elapsed() < 30  # it does not wait for the limit once nothing is left to do


def test_the_limit_stops_by_sigterm_and_a_second_call_goes_on_and_keeps_what_ended(fake, scheduled, tmp_path):
    jobs = fake("quick"), fake("slow", seconds=300), fake("after", needs=("slow",))
    first = scheduled(*jobs, limit=3)
    assert states(first) == {"quick": "ended", "slow": "stopped", "after": "no time"}
    assert (tmp_path / "runs/slow/saved").exists() and first.elapsed() < 10
    second = scheduled(*jobs)
    assert states(second) == dict.fromkeys(states(first), "ended")
    calls = {name: (tmp_path / "runs" / name / "calls").read_text().split() for name in states(first)}
    assert {name: len(made) for name, made in calls.items()} == {"quick": 1, "slow": 2, "after": 1}


def test_a_job_that_ignores_sigterm_is_killed(fake, scheduled, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu_schedule.GRACE", 0.5)
    schedule = scheduled(fake("deaf", 300, 0, "deaf"), limit=2)
    assert states(schedule) == {"deaf": "stopped"} and (tmp_path / "runs/deaf/calls").exists()
    assert schedule.progress["deaf"].process.returncode == -signal.SIGKILL


def test_an_error_leaves_no_job_running(fake, scheduled, monkeypatch):
    begun = []
    real = Schedule.begin

    def begin_then_fail(self, name):
        real(self, name)
        begun.append(self.progress[name].process)
        raise KeyboardInterrupt
    monkeypatch.setattr(Schedule, "begin", begin_then_fail)
    with pytest.raises(KeyboardInterrupt):
        scheduled(fake("slow", seconds=300))
    assert len(begun) == 1 and begun[0].returncode not in (None, 0)


def test_needs_come_first_then_must_haves_then_the_rest(fake, scheduled):
    schedule = scheduled(fake("extra"), fake("b", needs=("a",), must=True), fake("a", must=True), places=1)
    begun = sorted(schedule.progress, key=lambda name: schedule.progress[name].begun)
    assert begun == ["a", "b", "extra"]
    ends = {name: own.begun + own.took for name, own in schedule.progress.items()}
    assert schedule.progress["b"].begun >= ends["a"] and schedule.progress["extra"].begun >= ends["b"]


def test_two_run_until_the_benign_model_is_there_then_three_and_four_where_the_card_idles(fake, tmp_path):
    share = []
    schedule = Schedule({"benign": fake("benign")}, 60, time.monotonic(), tmp_path, busy=lambda: share[0])
    schedule.last_start = -100.0
    for state, busy, places in (("waits", 90, 2), ("runs", 90, 2), ("runs", 50, 3), ("ended", 90, 3), ("ended", 50, 4),
                                ("failed", None, 3)):
        schedule.progress["benign"].state, share[:] = state, [busy]
        assert schedule.at_once() == places
    schedule.last_start = schedule.elapsed()  # what was begun just now has not reached the card yet
    share[:] = [50]
    assert schedule.at_once() == 3
    assert Schedule({}, 60, time.monotonic(), tmp_path, places=7).at_once() == 7


def test_the_summary_has_a_line_a_job_with_state_times_and_figures(fake, scheduled):
    schedule = scheduled(fake("a/b", seconds=1.1), fake("bad", status=2), fake("child", needs=("bad",)))
    head, *rows = (line.split() for line in gpu_summary.job_lines(schedule))
    assert head[:4] == ["job", "state", "begun", "took"]
    assert rows[0][:2] == ["a/b", "ended"] and int(rows[0][3]) >= 1 and rows[0][4:] == ["ACC", "50.00"]
    assert rows[1][:2] == ["bad", "failed"] and len(rows[1]) == 4
    assert rows[2] == ["child", "left", "out", "-", "-"]
    again = gpu_summary.job_lines(scheduled(fake("a/b")))
    assert again[1].split() == ["a/b", "ended", "-", "-", "ACC", "50.00"]


def test_epoch_times_are_least_and_median_without_the_first(tmp_path):
    (tmp_path / "run").mkdir()
    rows = [{"epoch": epoch, "time": seconds} for epoch, seconds in enumerate((99, 3, 1, 2), 1)]
    (tmp_path / "run/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert gpu_summary.epoch_lines(tmp_path) == ["run: 4 epochs; seconds an epoch: least 1.00, median 2.00"]


def test_two_runs_of_one_seed_are_compared_by_their_weights_alone(tmp_path):
    assert gpu_summary.weight_lines(tmp_path) == []
    paths = [tmp_path / name / "model_last.th" for name in gpu_jobs.DETERMINISTIC]
    for path in paths:
        path.parent.mkdir()
        save(path, {"state_dict": {"w": torch.ones(3)}, "meta": {"args": {"output_dir": str(path)}}})
    line, = gpu_summary.weight_lines(tmp_path)
    assert "the same weights" in line
    save(paths[1], {"state_dict": {"w": torch.tensor([1, 1, 1 + 2**-20])}})
    line, = gpu_summary.weight_lines(tmp_path)
    assert "DIFFERENT" in line


def test_without_a_card_no_graphed_step_is_compared(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_summary.graph_lines() == []


def test_a_graphed_step_is_compared_on_one_batch_and_its_failure_is_told(monkeypatch):
    def compare(model, images, labels, amp):
        assert images.shape == (8, 3, 32, 32) and labels.shape == (8,) and amp and model(images).shape == (8, 10)
        return {"eager": [1.0, 2.0], "losses_apart": 0.00123, "same_counts": True}
    for module, said in ((SimpleNamespace(compare_steps=compare), "losses_apart 0.0012, same_counts True"),
                         (SimpleNamespace(compare_steps=lambda *args, amp: 1 / 0), "failed, ZeroDivisionError: .*"),
                         (SimpleNamespace(), "not in this version")):
        monkeypatch.setitem(sys.modules, "engine.learning.graphs", module)
        assert re.fullmatch(said, gpu_summary.graph_verdict(torch.device("cpu"), width=2, count=8))


def test_a_failed_job_is_the_calls_error_after_its_summary(fake, tmp_path, monkeypatch, capsys):
    jobs = {job.name: job for job in (fake("bad", status=2), fake("good"))}
    monkeypatch.setattr(gpu, "planned", lambda args: jobs)
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--rehearsal", "--no-in-memory", "--output-dir", str(tmp_path / "runs"), "--pack",
                  str(tmp_path / "packed.tar.xz")])
    said = capsys.readouterr()
    assert stopped.value.code == 2 and "1 of 2 jobs failed: bad" in said.err
    assert "good                    ended" in said.out
    assert (tmp_path / "runs/summary.txt").read_text().splitlines()[0].startswith("job")
    assert (tmp_path / "packed.tar.xz").exists()
