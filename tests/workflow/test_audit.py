import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.paths import ROOT

from common.errors import UserError
from common.untrusted.images import IN_WORDS
from methods.rates import TABLE
from workflow import audit
from workflow.__main__ import main
from workflow.audit import plan_audit, read_settings, usual_folder
from workflow.request import pack, unpack


@pytest.fixture
def clean(image_folder):
    """A folder <class>/* of clean images with the classes of the digits."""
    return image_folder(tuple(map(str, range(10))), count=4) / "train"


@pytest.fixture
def stranger(small_run, tmp_path):
    """A digits model that is alone in its folder."""
    (tmp_path / "models").mkdir()
    return Path(shutil.copy(small_run / "model_last.th", tmp_path / "models/stranger.th"))


def test_every_step_sees_the_copy_and_no_trigger(small_run, clean):
    planned = plan_audit(str(small_run / "model_last.th"), f"{clean}/", {}, "out/audit")
    assert planned.copies == {"out/audit/model_last.th": str(small_run / "model_last.th")}
    seen = {"out/audit/model_last.th"}
    for step in planned.steps.values():
        assert "--trigger-info" not in step.flags and str(small_run) not in " ".join(step.words())
        assert step.flags[step.flags.index("--data-dir") + 1] == str(clean)
        if step.script.module != "prune_network":  # which takes the masks' model
            assert step.flags[step.flags.index("--checkpoint") + 1] == "out/audit/model_last.th"
        table = {str(TABLE)} if step.script.module == "studies.audit" else set()  # by which the verdict may be another
        assert set(step.needs) <= seen | table and table <= set(step.needs), step
        seen.add(step.results)
    *others, last = planned.steps.values()
    assert last.folder == planned.last == "out/audit/verdict"
    assert {step.results for step in others} == set(last.needs)
    assert {step.script.module for step in planned.steps.values()} == {
        "generate_mask", "prune_network", "defenses.neural_cleanse", "defenses.unlearn_trigger", "defenses.strip",
        "defenses.fine_prune", "studies.neuron_noise", "studies.audit", "studies.verdict"}


def test_every_step_that_reads_the_model_is_told_how_its_pixels_enter(small_run, clean, tmp_path):
    weights = torch.load(small_run / "model_last.th", weights_only=True)["state_dict"]
    torch.save(weights, tmp_path / "bare.th")
    names = tmp_path / "my names.txt"
    names.write_text("\n".join(map(str, reversed(range(10)))))
    given = {"mean": [0.5] * 3, "std": [0.5] * 3, "channels": "bgr", "classes": str(names), "image_size": 40}
    planned = plan_audit(str(tmp_path / "bare.th"), str(clean), {}, "out", given)
    for step in planned.steps.values():
        words = f"--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --channels bgr --classes {names} --image-size 40"
        assert (step.script.module == "prune_network") != (words in " ".join(step.flags)), step
    in_other_order = plan_audit(str(tmp_path / "bare.th"), str(clean), {}, "out", {**given, "classes": None})
    assert planned.stamp != in_other_order.stamp
    names.write_text("a\nb")
    with pytest.raises(UserError, match=r"has 2 names, but .* has 10 classes"):
        plan_audit(str(tmp_path / "bare.th"), str(clean), {}, "out", given)
    with pytest.raises(UserError, match="says its own normalization"):
        plan_audit(str(small_run / "model_last.th"), str(clean), {}, "out", given)


def test_make_audit_passes_on_what_a_caller_says_of_the_weights(tmp_path):
    for stamp in ("ready", "workflow-ready"):
        (tmp_path / stamp).touch()
    given = ["CHECKPOINT=m.th", "IMAGES=my images", "MEAN=0.5 0.5 0.5", "STD=none", "CHANNELS=bgr", "CLASSES=a b.txt"]

    def words(*given):
        done = subprocess.run(["make", "-s", "-C", ROOT, "audit", f"VENV={tmp_path}", "PY=printf '%s;'", *given],
                              capture_output=True, text=True, check=True, env={**os.environ, "MAKEFLAGS": ""})
        return done.stdout.split(";")[:-1]
    assert words(*given)[2:5] == ["audit", "m.th", "my images"]
    assert words(*given)[-10:] == ["--classes", "a b.txt", "--mean", "0.5", "0.5", "0.5", "--std", "none", "--channels",
                                   "bgr"]
    assert {"--classes", "--mean", "--std", "--channels"}.isdisjoint(words(*given[:2]))


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "workflow/audits").glob("*.yaml")])
def test_the_suites_own_settings_are_flags_that_the_scripts_take(stranger, clean, name):
    settings = read_settings(ROOT / f"workflow/audits/{name}.yaml")
    planned = plan_audit(str(stranger), str(clean), settings, "out")
    by_name = {step.cell: step for step in planned.steps.values()}
    for step, flags in settings.items():
        for flag in flags:
            assert any(word.endswith(flag.replace("_", "-")) for word in by_name[step].flags), (step, flag)


@pytest.mark.parametrize("content", ["", "- anp", "3", "anp"])
def test_settings_that_are_no_steps_are_one_error(tmp_path, content):
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(UserError, match=r"own\.yaml: expected steps with their flags"):
        read_settings(tmp_path / "own.yaml")


def test_two_models_of_one_name_are_audited_apart(stranger, small_run, tmp_path):
    inputs = ("weights", "images")
    assert usual_folder(stranger, inputs).startswith("output/audits/stranger-")
    assert usual_folder(small_run / "model_last.th", inputs).startswith("output/audits/badnets-")
    assert len({usual_folder(stranger, own) for own in (inputs, ("other", "images"), ("weights", "others"))}) == 3
    assert usual_folder("models/a{b}'\\$.th", inputs).startswith("output/audits/a_b____-")


def test_input_that_does_not_fit_is_one_line_before_anything_starts(stranger, small_run, clean, image_folder, tmp_path,
                                                                    monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.th").write_bytes(b"torn")
    def written(content):
        path = tmp_path / f"{len(list(tmp_path.glob('*.yaml')))}.yaml"
        path.write_text(content)
        return path

    def download(*args, **options):
        raise AssertionError("CIFAR-10 is not what was asked for")
    monkeypatch.setattr("torchvision.datasets.CIFAR10", download)
    (tmp_path / "flat").mkdir()
    shutil.copy(next((clean / "0").iterdir()), tmp_path / "flat")
    few = image_folder(("ant", "bee", "cow"), name="few") / "train"
    usual = ["--settings", ROOT / "workflow/audits/usual.yaml"]
    for words, complaint in (
            (["nowhere.th", clean], "nowhere.th: no such file"), (["torn.th", clean], "torn.th: not a checkpoint"),
            (["", clean], "make audit CHECKPOINT=model.th IMAGES=folder"),
            ([stranger, ""], "make audit CHECKPOINT=model.th IMAGES=folder"),
            ([stranger, "nowhere"], f"nowhere: expected a folder <class>/* of {IN_WORDS} files; there is no such"),
            ([stranger, few], "has 10 classes, but the data set has 3"),
            ([stranger, "flat"], "flat: expected a folder <class>/*"),
            ([stranger, "empty"], "empty: expected a folder <class>/*"),
            ([stranger, clean, "--profile", "cloud"], "no such profile; there are laptop, slurm"),
            ([stranger, clean, "--settings", "none.yaml"], "the suite has digits, digits-large, usual"),
            ([stranger, clean, "--settings", written("magic: {}")], "no such step: 'magic'; there are anp-masks"),
            ([stranger, clean, "--settings", written("anp: {max_drop: 7}")],
             "anp: prune_network.py: --max-drop: expected a fraction"),
            ([stranger, clean, "--settings", written("strip: {trigger_info: x.th}")],
             "strip: trigger_info: is set by the workflow itself"),
            ([stranger, clean, "--settings", written("strip: {data-dir: x}")], "is set by the workflow itself"),
            ([stranger, clean, "--settings", written("nc-detect: {1: 2}")], "expected a flag's name, got 1"),
            ([stranger, clean, "--settings", written("anp: {help: true}")], "one of its flags only prints"),
            ([stranger, clean, "--output-dir", "a{b}"], "a{b}: expected a name without braces")):
        words = words if "--settings" in words else [*words, *usual]
        assert complaint in refused(main, "audit", *words), words
    assert not (tmp_path / "output").exists()


@pytest.mark.long
def test_a_second_call_into_a_folder_is_refused_while_the_first_lives(tmp_path):
    hold = f"import sys; from workflow.__main__ import hold; hold({str(tmp_path / 'out')!r}); print('held', flush=True)"
    first = subprocess.Popen([sys.executable, "-c", f"{hold}; sys.stdin.read()"], cwd=ROOT, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout.readline() == "held\n"
    second = subprocess.run([sys.executable, "-c", hold], cwd=ROOT, capture_output=True, text=True)
    assert "a workflow is under way there" in second.stderr and "held" not in second.stdout
    first.kill()
    first.communicate()
    assert "held" in subprocess.run([sys.executable, "-c", hold], cwd=ROOT, capture_output=True, text=True).stdout


def test_a_folder_with_a_run_of_other_flags_is_refused(stranger, clean, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    planned = plan_audit(str(stranger), str(clean), {}, str(out))
    config = '{"arguments": {"seeds": 3, "budget": 7, "data_dir": "elsewhere", "checkpoint": "moved.th"}}'
    (out / "neural-cleanse").mkdir(parents=True)
    (out / "neural-cleanse/config.json").write_text(config)
    with pytest.raises(audit.UserError, match=r"made with --data-dir elsewhere, not .*, --budget 7, not 300; remove"):
        planned.check()


def test_a_folder_with_a_trigger_or_something_else_is_no_place_for_an_audit(stranger, small_run, clean, tmp_path):
    for name in ("trigger_info.th", "config.json", "anything"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("x")
        with pytest.raises(audit.UserError, match="name another --output-dir"):
            plan_audit(str(stranger), str(clean), {}, str(folder))
    for folder in (small_run, stranger.parent):  # the model's own, from which the trigger would be found
        with pytest.raises(audit.UserError, match="name another --output-dir"):
            plan_audit(str(folder / ("model_last.th" if folder == small_run else stranger.name)), str(clean), {},
                       str(folder))


def test_another_model_or_other_images_are_not_mixed_into_an_audit(stranger, small_run, clean, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    planned = plan_audit(str(stranger), str(clean), {}, str(out))
    name, content = planned.stamp
    (out / name).write_text(json.dumps(content))
    shutil.copy(stranger, out / "model_last.th")
    plan_audit(str(stranger), str(clean), {}, str(out))
    with pytest.raises(audit.UserError, match="something else than an audit of this model by these images"):
        plan_audit(str(small_run / "model_init.th"), str(clean), {}, str(out))
    for image in (clean / "3").iterdir():
        shutil.copy(clean / "4/0000.png", image)
    with pytest.raises(audit.UserError, match="something else than an audit of this model by these images"):
        plan_audit(str(stranger), str(clean), {}, str(out))


@pytest.mark.parametrize("name", ["2024_01", "my #1 images", "a: b", "010", "-x", "it's", "é $HOME `id`"])
def test_a_request_reaches_the_snakefile_whatever_its_names(name):
    request = {"task": "audit", "checkpoint": name, "images": name, "settings": name, "output_dir": None, "gpu": None}
    word = pack(request)
    assert word.isascii() and word.isalnum() and yaml.safe_load(word) == word
    assert unpack(word) == request
