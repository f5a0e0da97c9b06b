"""benchmarks/gpu.py: its commands against the scripts' own parsers, and the call as a whole."""
import argparse
import importlib
import subprocess
import sys

import pytest
import torch
import yaml
from helpers.paths import ROOT

from benchmarks import gpu, gpu_jobs
from benchmarks.gpu_jobs import Job, chosen, homework
from common.errors import UserError

SIZES = {"full": "data/images", "rehearsal": None}
FULL, SMALL = (homework("out", data_dir) for data_dir in SIZES.values())


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


@pytest.mark.slow
def test_images_are_decoded_while_the_card_is_measured(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "CLEAN_STEP", ("-c", "print('a step')"))
    said, args = [], argparse.Namespace(archive=None, data_dir=str(image_folder(count=12)), scale=1.0)
    gpu.prepare(args, tmp_path, said.append)
    gpu.prepare(args, tmp_path, said.append)
    assert said == ["a step\n", *["images for the attacker, the defender and testing: [22, 2, 24]"] * 2]


def test_the_benchmark_of_a_clean_step_takes_its_words():
    _, module, *words = gpu.CLEAN_STEP
    assert importlib.import_module(module).parse_args(words).width == 64


@pytest.mark.long
def test_what_only_a_report_or_the_tests_need_is_not_imported():
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "benchmarks.gpu", "--plan"], cwd=ROOT, text=True,
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
    words = ("-m", "benchmarks.gpu", "--rehearsal", "--only", "badnets/anp", "--output-dir", tmp_path / "out",
             "--no-in-memory")
    first, second = (script(*words).stdout for _ in range(2))
    assert first.count(" ended after ") == 3 and "begins" not in second
    assert all(" ended " in line and "ACC" in line for line in second.splitlines() if line.startswith("badnets  "))
