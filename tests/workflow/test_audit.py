import json
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

from workflow import audit
from workflow.__main__ import main
from workflow.audit import plan_audit, read_settings, usual_folder


@pytest.fixture
def clean(image_folder):
    """A folder <class>/* of clean images with the classes of the digits."""
    return image_folder(tuple(map(str, range(10))), count=4) / "train"


@pytest.fixture
def stranger(small_run, tmp_path):
    """A digits model that is alone in its folder."""
    (tmp_path / "models").mkdir()
    return shutil.copy(small_run / "model_last.th", tmp_path / "models/stranger.th")


def test_every_step_sees_the_copy_and_no_trigger(small_run, clean):
    planned = plan_audit(str(small_run / "model_last.th"), str(clean), {}, "out/audit")
    assert planned.copies == {"out/audit/model_last.th": str(small_run / "model_last.th")}
    seen = {"out/audit/model_last.th"}
    for step in planned.steps.values():
        assert "--trigger-info" not in step.flags and str(small_run) not in " ".join(step.words())
        assert step.flags[step.flags.index("--data-dir") + 1] == str(clean)
        if step.script != "prune_network":  # which takes the masks' model
            assert step.flags[step.flags.index("--checkpoint") + 1] == "out/audit/model_last.th"
        assert set(step.needs) <= seen, step
        seen.add(step.results)
    *others, last = planned.steps.values()
    assert last.folder == planned.last == "out/audit/verdict"
    assert {step.results for step in others} - set(last.needs) == {"out/audit/anp/results.json"}
    assert {step.script for step in planned.steps.values()} == {
        "neural_cleanse detect", "neural_cleanse unlearn", "sweep_neuron_noise", "detect_strip", "generate_mask",
        "prune_network", "fine_prune", "audit_model"}


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "workflow/audits").glob("*.yaml")])
def test_the_suites_own_settings_are_flags_that_the_scripts_take(stranger, clean, name):
    settings = read_settings(ROOT / f"workflow/audits/{name}.yaml")
    planned = plan_audit(str(stranger), str(clean), settings, "out")
    by_name = {step.cell: step for step in planned.steps.values()}
    for step, flags in settings.items():
        for flag in flags:
            assert any(word.endswith(flag.replace("_", "-")) for word in by_name[step].flags), (step, flag)


def test_two_models_of_one_name_are_audited_apart(stranger, small_run, tmp_path):
    assert usual_folder(stranger).startswith("output/audits/stranger-")
    assert usual_folder(small_run / "model_last.th").startswith("output/audits/badnets-")
    (tmp_path / "other").mkdir()
    other = shutil.copy(small_run / "model_init.th", tmp_path / "other/stranger.th")
    assert usual_folder(other) != usual_folder(stranger)


def test_input_that_does_not_fit_is_one_line_before_anything_starts(stranger, small_run, clean, image_folder, tmp_path,
                                                                    monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.th").write_bytes(b"torn")
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"anp": {"max_drop": 7}}))
    odd = tmp_path / "odd.yaml"
    odd.write_text(yaml.safe_dump({"magic": {}}))
    few = image_folder(("ant", "bee", "cow"), name="few") / "train"
    usual = ["--settings", ROOT / "workflow/audits/usual.yaml"]
    for words, complaint in (
            (["nowhere.th", clean], "nowhere.th: no such file"), (["torn.th", clean], "torn.th: not a checkpoint"),
            (["", clean], "make audit CHECKPOINT=model.th IMAGES=folder"),
            ([stranger, ""], "make audit CHECKPOINT=model.th IMAGES=folder"),
            ([stranger, "nowhere"], "nowhere: no such folder; expected one with <class>/*"),
            ([stranger, few], "has 10 classes, but the data set has 3"),
            ([stranger, clean / "0"], "0: "), ([stranger, "empty"], "empty: "),
            ([stranger, clean, "--profile", "cloud"], "no such profile; there are laptop, slurm"),
            ([stranger, clean, "--settings", "none.yaml"], "the suite has digits, usual"),
            ([stranger, clean, "--settings", odd], "no such step: magic; there are nc-detect"),
            ([stranger, clean, "--settings", settings], "anp: prune_network.py: --max-drop: expected a fraction")):
        words = words if "--settings" in words else [*words, *usual]
        assert complaint in refused(main, "audit", *words), words
    assert not (tmp_path / "output").exists()


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
    planned = plan_audit(str(stranger), str(clean), {}, str(out))
    config = '{"arguments": {"seeds": 3, "budget": 7, "data_dir": "elsewhere", "checkpoint": "moved.th"}}'
    (out / "neural-cleanse").mkdir(parents=True)
    (out / "neural-cleanse/config.json").write_text(config)
    with pytest.raises(audit.UserError, match=r"made with --data-dir elsewhere, not .*, --budget 7, not 300; remove"):
        planned.check()


def test_another_model_or_other_images_are_not_mixed_into_an_audit(stranger, small_run, clean, tmp_path):
    out = tmp_path / "out"
    (out / "neural-cleanse").mkdir(parents=True)
    shutil.copy(small_run / "model_init.th", out / "model_last.th")
    with pytest.raises(audit.UserError, match="holds an audit of other weights or by other images"):
        plan_audit(str(stranger), str(clean), {}, str(out))
    shutil.copy(stranger, out / "model_last.th")
    plan_audit(str(stranger), str(clean), {}, str(out))
    inputs = audit.check_input(str(stranger), str(clean))
    (out / "neural-cleanse/config.json").write_text(json.dumps({"inputs": inputs}))
    plan_audit(str(stranger), str(clean), {}, str(out))
    for image in (clean / "3").iterdir():
        shutil.copy(clean / "4/0000.png", image)
    with pytest.raises(audit.UserError, match="holds an audit of other weights or by other images"):
        plan_audit(str(stranger), str(clean), {}, str(out))
