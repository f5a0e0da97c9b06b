import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.paths import HALF

from data.datasets import load_clean
from data.triggers import PatternTrigger
from defenses import neural_cleanse, unlearn_trigger
from engine.defending.suspect import find_trigger
from engine.weights.checkpoint import load_model, save_trigger
from methods.calibration import Judgment
from methods.trigger_search import Search
from reporting.found import FINISHED, FinishedRun
from studies import audit
from studies.verdict import find_triggers, has_changed, least_lost, main, paired_loss, report, table_row

UNSURE = Judgment("undecided", None)
DIGITS = ["--dataset", "digits", *HALF]
QUICK = ["--starts", "1", "--steps", "2", "--searches", "1"]


def suspect(*words):
    """Run an audit that suspects label 0, whatever the model is."""
    found = replace(UNSURE, verdict="suspect", target=0, combined=0.001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("methods.hearing.judge", lambda *args: found)
        patch.setattr(audit, "find_doubt", lambda hearing, subject: (
            subject.suspect.doubt and subject.suspect.doubt.words()))
        audit.main([*words, *DIGITS, *QUICK])


def test_the_loss_of_accuracy_is_of_the_same_images_one_by_one():
    labels = torch.zeros(100, dtype=torch.int64)
    before, after = labels.clone(), labels.clone()
    before[:10], after[5:25] = 1, 1  # 15 right ones become wrong, 5 wrong ones right
    loss, (low, high) = paired_loss(before, after, labels)
    assert loss == pytest.approx(0.1)
    assert (low, high) == pytest.approx((0.1 - 1.96 * 19**0.5 / 100, 0.1 + 1.96 * 19**0.5 / 100))
    assert paired_loss(before, before, labels) == (0, [0, 0])


def test_of_equal_losses_both_are_named_and_what_changed_nothing_is_no_repair():
    rows = [{"name": name, "lost": lost, "changed": changed, "asr_of_reversed": {"3": {"value": asr}, "4": None}}
            for name, lost, changed, asr in (
                ("as it is", 0.0, False, 1.0), ("ANP", 0.02, True, 0.0), ("Fine-Pruning", 0.01, True, 0.9),
                ("unlearning", 0.01, True, 0.2), ("nothing done", 0.0, False, 0.0))]
    assert least_lost(rows) == ["unlearning", "Fine-Pruning"] and least_lost(rows[:1]) == []


@pytest.mark.parametrize(("asr", "said"), [({}, True), ({"3": {"value": 0.1}}, False)])
def test_a_repair_that_was_tried_on_no_trigger_is_not_called_one_that_works(caplog, asr, said):
    caplog.set_level("INFO", "backdoor")
    rows = [{"name": name, "acc": {"value": 0.9}, "lost": 0.0, "lost_interval": [0, 0], "asr_of_reversed": asr}
            for name in ("as it is", "ANP")]
    report({"verdict": "undecided", "trust": ""}, [], tuple("0123"), [], rows, ["ANP"], [])
    line, = (text for text in caplog.messages if text.startswith("least clean accuracy lost: ANP"))
    assert line.endswith("whether a backdoor is left was not tested, since no trigger was reversed for a named target"
                         ) == said


def test_a_model_with_other_running_statistics_is_another():
    model, other = (torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2)) for _ in range(2))
    other.load_state_dict(model.state_dict())
    assert not has_changed(model, other)
    other[1].running_mean += 1
    assert has_changed(model, other)


def test_the_trigger_of_neural_cleanses_own_run_is_measured_before_the_audits(tmp_path):
    runs = {}
    for name, level in (("neural-cleanse", 200), ("audit", 100)):
        runs[name] = FinishedRun(tmp_path / name, name, FINISHED)
        runs[name].folder.mkdir()
        save_trigger(runs[name].folder / "reversed_trigger_3.th",
                     PatternTrigger(np.full((4, 4, 1), level, np.uint8), np.ones((4, 4, 1), np.uint8), 0.5, 3))
    assert find_triggers(runs, [3, 5])[3].pattern.max() == 200
    assert find_triggers({**runs, "neural-cleanse": None}, [3])[3].pattern.max() == 100


def test_the_table_has_the_interval_of_a_loss_from_low_to_high():
    row = {"name": "ANP", "changed": True, "acc": {"value": 0.9}, "lost": 0.02, "lost_interval": [0.01, 0.03],
           "asr_of_reversed": {"3": {"value": 0.25}, "5": None}}
    assert table_row(row) == {"model": "ANP", "changed": 1, "acc": 0.9, "lost": 0.02, "lost_low": 0.01,
                              "lost_high": 0.03, "asr_of_reversed_trigger": "3:0.2500"}


@pytest.fixture
def suspected(learned_run, tmp_path, monkeypatch):
    """A model beside which its own trigger lies, a run of Neural Cleanse, which flags label 0, and an audit that does,
    too; returns its path."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "output/stranger"
    folder.mkdir(parents=True)
    for name in ("model_last.th", "trigger_info.th"):
        shutil.copy(learned_run / name, folder)
    mask, pattern = torch.full((1, 16, 16), 0.3), torch.full((3, 16, 16), 0.5)

    def searches(*args):
        return [Search(number, None, None, norm=60.0 + number if number else 4.0, mask=mask, pattern=pattern,
                       success=1.0, steps=9) for number in range(10)]
    monkeypatch.setattr(neural_cleanse, "reverse_triggers", searches)
    neural_cleanse.main(["--checkpoint", "output/stranger/model_last.th", *DIGITS])
    monkeypatch.setattr("methods.witnesses.reverse_triggers", searches)
    suspect("output/stranger/model_last.th")
    unlearn_trigger.main(["--checkpoint", "output/stranger/model_last.th", *DIGITS])
    return folder / "model_last.th"


def test_the_verdict_with_the_repaired_models_beside_it(suspected, tmp_path):
    shutil.copytree(suspected.parent / "unlearn-reversed", suspected.parent / "nad")  # as another repair's model
    main(["--checkpoint", str(suspected), *DIGITS, "--output-dir", str(tmp_path / "verdict")])
    results = json.loads((tmp_path / "verdict/results.json").read_text())
    method = results["method"]
    assert (method["verdict"], method["targets"], method["target_classes"]) == ("suspect", [0], ["0"])
    assert method["combined"] == 0.001 and "Nothing is known" in method["trust"]
    assert [item["test"] for item in method["evidence"]] == [
        "CLP's channel bounds", "MM-BD", "Neural Cleanse", "Neural Cleanse"]  # no benign models, so not calibrated
    assert results["asr"] is None  # the trigger that lies beside the model is not looked at
    assert method["missing"] == ["neuron-noise", "strip", "ANP", "Fine-Pruning"]
    assert method["least_lost"] == ["NC unlearning", "NAD"]
    as_it_is, unlearned, distilled = method["repaired"]
    assert {**distilled, "name": ""} == {**unlearned, "name": ""}
    _, digits = load_clean("digits", "", image_size=16)
    trigger = find_trigger(suspected, suspected.parent / "neural-cleanse/reversed_trigger_0.th")
    for entry, model in ((as_it_is, suspected), (unlearned, suspected.parent / "unlearn-reversed/model_last.th")):
        images, labels = digits.data, digits.targets
        net = load_model(model).model.eval()

        def predict(array, net=net):
            with torch.no_grad():
                return net(torch.from_numpy(array).permute(0, 3, 1, 2) / 255).argmax(1).numpy()
        others = labels != 0
        assert entry["acc"]["value"] == pytest.approx((predict(images) == labels).mean())
        assert entry["asr_of_reversed"]["0"]["value"] == pytest.approx(
            (predict(trigger.stamp(images[others])) == 0).mean(), abs=0.004)
        assert entry["lost"] == pytest.approx(as_it_is["acc"]["value"] - entry["acc"]["value"])
    table = list(csv.DictReader((tmp_path / "verdict/repaired.csv").open()))
    assert [entry["model"] for entry in table] == ["as it is", "NC unlearning", "NAD"]
    assert "verdict: suspect, target 0" in (tmp_path / "verdict/output.log").read_text()


def test_without_an_audit_there_is_no_verdict(learned_run, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    shutil.copy(learned_run / "model_last.th", tmp_path)
    assert "no finished run of studies.audit" in refused(main, "--checkpoint", "model_last.th", *DIGITS)
    assert not (tmp_path / "output").exists()


def test_runs_of_another_model_are_not_taken(suspected, small_run, tmp_path, refused):
    shutil.copy(small_run / "model_last.th", suspected)  # the runs beside it are of what was there before
    assert "no finished run of studies.audit" in refused(main, "--checkpoint", suspected, *DIGITS)
    other = tmp_path / "elsewhere/stranger"  # by whose folder's name the default folder is that of the first
    other.mkdir(parents=True)
    shutil.copy(small_run / "model_last.th", other)
    assert "no finished run" in refused(main, "--checkpoint", other / "model_last.th", *DIGITS)


def test_an_audit_of_other_images_is_not_taken(suspected, tmp_path, refused):
    assert "no finished run of studies.audit" in refused(
        main, "--checkpoint", suspected, "--dataset", "digits", "--image-size", "8", "--output-dir", tmp_path / "v")
    main(["--checkpoint", str(suspected), *DIGITS, "--channels", "rgb", "--output-dir", str(tmp_path / "v")])


def test_a_doubt_that_an_audit_without_images_could_not_see_is_the_verdicts(suspected, tmp_path, monkeypatch):
    saved = torch.load(suspected, weights_only=True)["state_dict"]
    order = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    folder = tmp_path / "output/other"
    folder.mkdir()
    torch.save(saved | {name: saved[name][order] for name in ("linear.weight", "linear.bias")},
               folder / "model_last.th")
    heard = replace(UNSURE, verdict="suspect", target=0, combined=0.001)
    monkeypatch.setattr("methods.hearing.judge", lambda *args: heard)
    monkeypatch.setattr(audit, "find_doubt", lambda hearing, subject: None)
    audit.main(["output/other/model_last.th", "--image-size", "16", *QUICK])
    main(["--checkpoint", "output/other/model_last.th", *DIGITS])
    method = json.loads((folder / "verdict/results.json").read_text())["method"]
    assert (method["verdict"], method["targets"]) == ("undecided", []) and "--classes FILE" in method["doubt"]


def test_a_repaired_model_for_images_of_another_size_is_left_out(suspected, tmp_path, caplog):
    folder = suspected.parent / "unlearn-reversed"
    model = load_model(folder / "model_last.th").model
    saved = torch.load(folder / "model_last.th", weights_only=True)
    torch.save(saved | {"spec": {**model.spec, "image_size": 32}}, folder / "model_last.th")
    main(["--checkpoint", str(suspected), *DIGITS, "--output-dir", str(tmp_path / "verdict")])
    assert "made with another --image-size than this audit" in caplog.text
    assert len(json.loads((tmp_path / "verdict/results.json").read_text())["method"]["repaired"]) == 1


def test_without_neural_cleanses_own_run_the_audits_trigger_is_measured(suspected, tmp_path):
    shutil.rmtree(suspected.parent / "neural-cleanse")
    main(["--checkpoint", str(suspected), *DIGITS, "--output-dir", str(tmp_path / "verdict")])
    method = json.loads((tmp_path / "verdict/results.json").read_text())["method"]
    assert "neural-cleanse" in method["missing"] and method["repaired"][0]["asr_of_reversed"]["0"]["n"] > 0


def test_a_model_whose_accuracy_cannot_be_right_is_undecided(suspected, tmp_path, monkeypatch, capsys):
    """Whatever Neural Cleanse flags: the same weights with their classes in another order are no backdoor's sign."""
    saved = torch.load(suspected, weights_only=True)["state_dict"]
    order = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    weights = saved | {name: saved[name][order] for name in ("linear.weight", "linear.bias")}
    folder = tmp_path / "output/other"
    folder.mkdir()
    torch.save(weights, folder / "model_last.th")
    suspect("output/other/model_last.th")
    capsys.readouterr()
    main(["--checkpoint", "output/other/model_last.th", *DIGITS])
    method = json.loads((folder / "verdict/results.json").read_text())["method"]
    assert (method["verdict"], method["targets"], method["target_classes"]) == ("undecided", [], [])
    assert "--classes FILE with the classes in the model's order (1, 2, 3" in method["doubt"]
    assert "verdict: undecided" in capsys.readouterr().out


def test_runs_on_other_pixels_than_the_audits_are_not_taken(suspected, tmp_path, caplog, refused):
    """The same bare weights that are fed by another normalization are another model."""
    weights = torch.load(suspected, weights_only=True)["state_dict"]
    folder = tmp_path / "output/bare"
    folder.mkdir()
    torch.save(weights, folder / "model_last.th")
    given = ["--checkpoint", "output/bare/model_last.th", *DIGITS]
    suspect(*given[:2])
    said = refused(main, *given, "--mean", "none", "--std", "none")
    assert "no finished run of studies.audit with the same --mean, --std, --channels, --classes" in said
    suspect(*given[:2], "--mean", "homework", "--std", "homework", "--overwrite")
    neural_cleanse.main(given)
    unlearn_trigger.main(given)
    main([*given, "--mean", "homework", "--std", "homework"])
    method = json.loads((folder / "verdict/results.json").read_text())["method"]
    assert method["verdict"] == "suspect" and "NC unlearning" in method["missing"]
