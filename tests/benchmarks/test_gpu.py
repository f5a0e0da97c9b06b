"""benchmarks/gpu.py: its commands against the scripts' own parsers, its scheduler on fake jobs, its files."""
import argparse
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import ROOT

from benchmarks import gpu, gpu_files, gpu_jobs, gpu_summary
from benchmarks.gpu_jobs import Job, chosen, homework
from benchmarks.gpu_schedule import Schedule
from data.files import UserError
from engine.checkpoint import save

SIZES = {"full": "data/images", "rehearsal": None}
FULL, SMALL = (homework("out", data_dir) for data_dir in SIZES.values())
FAKE = ROOT / "tests/benchmarks/gpu_fake_job.py"


# The commands.

def parsed(job):
    """A job's words as its script parses them."""
    name, *words = job.words
    if name == "-m":
        name, *words = words
    return importlib.import_module(name.removesuffix(".py")).parse_args(words)


@pytest.mark.parametrize("jobs", [pytest.param(FULL, id="full"), pytest.param(SMALL, id="rehearsal")])
def test_every_command_is_one_that_its_script_takes_and_keeps_to_the_folder(jobs):
    for job in jobs.values():
        args = parsed(job)
        assert args.output_dir == job.folder and job.folder.startswith("out/")
        assert getattr(args, "resume", False) != args.overwrite
        if hasattr(args, "data_dir") and "deterministic" not in job.name and job.name.split("/")[-1] != "anp":
            assert args.dataset == "digits" if jobs is SMALL else args.data_dir == "data/images"
        if jobs is SMALL:
            assert args.device == "cpu"


@pytest.mark.parametrize("jobs", [FULL, SMALL], ids=SIZES)
def test_what_a_command_reads_is_left_by_a_job_that_it_needs(jobs):
    order = list(jobs)
    assert len({job.folder for job in jobs.values()}) == len(jobs)
    for name, job in jobs.items():
        assert all(order.index(need) < order.index(name) for need in job.needs)
        before = {jobs[need].folder for need in chosen(jobs, [name])} - {job.folder}
        read = [word for word in job.words if word.startswith("out/") and word != job.folder]
        assert all(any(word == folder or word.startswith(f"{folder}/") for folder in before) for word in read), name
    for attack in ("badnets", "blend", "clean-label"):  # found beside the model, without a flag
        assert f"{attack}/fine-tune" in jobs[f"{attack}/fine-prune"].needs
    assert "badnets/nc" in jobs["badnets/unlearn"].needs


def test_the_must_haves_are_four_full_trainings_the_crafting_and_anp_on_each():
    must = [name for name, job in FULL.items() if job.must]
    attacks = ["benign", "badnets", "clean-label", "blend"]
    assert sorted(must) == sorted([*attacks, "craft", *(f"{attack}/{step}" for attack in attacks
                                                       for step in ("masks", "anp"))])
    for attack in attacks:
        args = parsed(FULL[attack])
        assert (args.poison_type, args.width, args.epochs, args.device) == (attack, 64, 50, "auto")
    assert parsed(FULL["benign/masks"]).nb_iter == 2000


def test_a_job_resumes_exactly_if_its_script_has_the_flag():
    for job in FULL.values():
        without = [word for word in job.words if word not in ("--resume", "--overwrite")]
        offers = hasattr(parsed(Job(job.name, tuple(without), job.folder)), "resume")
        assert offers == ("--resume" in job.words), job.name


def test_each_script_is_named_once():
    sources = "".join((ROOT / "benchmarks" / f"gpu{part}.py").read_text() for part in (
        "", "_jobs", "_schedule", "_files", "_summary"))
    for script in gpu_jobs.SCRIPTS.values():
        assert sources.count(f'"{script}"') == 1


def test_only_brings_what_the_named_jobs_need_and_refuses_other_names():
    assert list(chosen(FULL, ["clean-label/anp"])) == ["benign", "craft", "clean-label", "clean-label/masks",
                                                       "clean-label/anp"]
    assert list(chosen(FULL, ["abl"])) == ["abl"]
    with pytest.raises(UserError, match="--only magic: no such job; there are benign, badnets, craft"):
        chosen(FULL, ["magic"])


def test_scale_multiplies_every_estimate():
    slow = homework("out", "data/images", 2.5)
    assert all(slow[name].seconds == pytest.approx(2.5 * job.seconds) and job.seconds > 0 for name, job in FULL.items())


# The schedule.

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


# The summary.

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
        monkeypatch.setitem(sys.modules, "engine.graphs", module)
        assert re.fullmatch(said, gpu_summary.graph_verdict(torch.device("cpu"), width=2, count=8))


# The files.

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


# The whole.

def test_plan_prints_the_commands_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    gpu.main(["--plan", "--data-dir", "data/images", "--output-dir", "out", "--only", "badnets/anp"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith("python ") for line in lines)
    assert f"--data-dir {tmp_path}/data/images" in lines[0]  # the jobs run in the repository's root
    assert not list(tmp_path.iterdir())


def test_a_machine_without_a_card_is_told_so_before_anything_is_written(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--rehearsal runs the same jobs" in refused(gpu.main, "--output-dir", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_finished_runs_of_other_images_are_not_taken_for_these(tmp_path):
    path = tmp_path / "jobs.json"
    gpu.check_same(path, chosen(FULL, ["abl"]))
    gpu.check_same(path, chosen(FULL, ["badnets"]))
    gpu.check_same(path, FULL)
    with pytest.raises(UserError, match="holds benign made by another command"):
        gpu.check_same(path, homework("out", "data/other"))


def test_images_are_decoded_while_the_card_is_measured(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "CLEAN_STEP", ("-c", "print('a step')"))
    said, args = [], argparse.Namespace(archive=None, data_dir=str(image_folder(count=12)), scale=1.0)
    gpu.prepare(args, tmp_path, said.append)
    gpu.prepare(args, tmp_path, said.append)
    assert said == ["a step\n", *["images for the attacker, the defender and testing: [22, 2, 24]"] * 2]


def test_the_benchmark_of_a_clean_step_takes_its_words():
    script, *words = gpu.CLEAN_STEP
    assert (ROOT / script).is_file()
    assert importlib.import_module("benchmarks.training").parse_args(words).width == 64


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


def test_what_only_a_report_or_the_tests_need_is_not_imported():
    done = subprocess.run([sys.executable, "-X", "importtime", "benchmarks/gpu.py", "--plan"], cwd=ROOT, text=True,
                          capture_output=True, check=True)
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "torch" in imported
    assert not imported & {"reportlab", "snakemake", "pytest", "selenium", "pypdf", "hypothesis", "reporting"}


def test_the_workstation_profile_is_the_laptops_with_three_heavy_steps_at_once():
    laptop, workstation = (yaml.safe_load((ROOT / f"workflow/profiles/{name}/config.yaml").read_text())
                           for name in ("laptop", "workstation"))
    assert workstation == {**laptop, "resources": {"gpu": 3}}


@pytest.mark.long
def test_a_rehearsal_of_badnets_and_anp_ends_and_a_second_call_keeps_it(script, tmp_path):
    words = ("benchmarks/gpu.py", "--rehearsal", "--only", "badnets/anp", "--output-dir", tmp_path / "out",
             "--no-in-memory")
    first, second = (script(*words).stdout for _ in range(2))
    assert first.count(" ended after ") == 3 and "begins" not in second
    assert all(" ended " in line and "ACC" in line for line in second.splitlines() if line.startswith("badnets  "))
