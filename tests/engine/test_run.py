import argparse
import json
import logging
import os
import time

import pytest
import torch

from common.errors import UserError
from common.files import hash_file
from common.untrusted.weights import read_tensors
from engine.command_line import command
from engine.measuring.scores import Evaluation, Proportion, Score
from engine.runs import machine
from engine.runs.resume import end_if_whole
from engine.runs.run import HEADER, Run
from engine.runs.saved_state import has_same_structure
from engine.weights import checkpoint
from models import build_model

ROW = {"epoch": 1, "lr": 0.1, "poison_acc": None, "clean_acc": 0.5}
log = logging.getLogger("backdoor")


class Counter:
    """Something with a state: it counts epochs."""

    def __init__(self):
        self.count = torch.zeros(1)

    def state_dict(self):
        return {"count": self.count.clone()}

    def load_state_dict(self, state):
        self.count = state["count"].clone()


@pytest.fixture
def arguments(tmp_path):
    def make(**changes):
        return argparse.Namespace(**{"output_dir": str(tmp_path / "run"), "overwrite": False, "resume": False,
                                     "deterministic": False, "seed": 0, "device": "cpu", "lr": 0.1,
                                     **changes})
    return make


def score(hits):
    share = Proportion(hits, 100)
    return Score(0.5, share, share)


def go(args, epochs=3, stop_in=None, inputs="these images"):
    """A script in small; `stop_in` an epoch raises as Ctrl-C would, after the epoch was logged."""
    with Run(args, ("model_last.th",)) as run:
        counter = Counter()
        run.begin(inputs)
        for epoch in run.epochs(epochs, counter=counter):
            counter.count += torch.rand(1, generator=run.generator)
            run.log(epoch, 0.1, score(50), Evaluation(score(90), score(99)))
            if epoch == stop_in:
                raise KeyboardInterrupt
        (run.folder / "model_last.th").write_text("weights")
        run.finish(acc=0.9)
    return float(counter.count)


@pytest.mark.parametrize("lr, said", [(0.1, "0.100"), (0.0123, "0.012"), (0.0005, "0.0005"), (0.00123, "0.0012"),
                                      (2e-8, "2e-08"), (0.0, "0")])
def test_a_small_rate_is_not_rounded_to_another_one(arguments, tmp_path, lr, said):
    with Run(arguments(), ()) as run:
        run.begin("these images")
        for epoch in run.epochs(1, counter=Counter()):
            run.log(epoch, lr, score(50), Evaluation(score(90), score(99)))
    assert (tmp_path / "run/output.log").read_text().splitlines()[-1].split(" \t ")[1] == said


def test_log_and_metrics_have_the_homeworks_columns(arguments, tmp_path):
    go(arguments())
    lines = (tmp_path / "run/output.log").read_text().splitlines()
    messages = [line.split("] - ", 1)[1] for line in lines]
    assert HEADER == ("Epoch \t lr \t Time \t TrainLoss \t TrainACC \t PoisonLoss \t PoisonACC \t CleanLoss "
                      "\t CleanACC")
    start = messages.index(HEADER)
    row = messages[start + 1].split(" \t ")
    assert row[:2] == ["1", "0.100"] and row[3:] == ["0.5000", "0.5000", "0.5000", "0.9900", "0.5000", "0.9000"]
    assert lines[0][0] == "[" and len(lines[0].split("]")[0]) == len("[2026/01/31 23:59:59")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3] and rows[0]["poison_acc"] == 0.99


def test_metrics_tell_triggered_images_that_are_called_the_target_from_those_still_called_what_they_are(arguments):
    with Run(arguments()) as run:
        run.begin("these images")
        for epoch in run.epochs(1, counter=Counter()):
            triggered = Score(0.5, Proportion(90, 100), Proportion(7, 100))
            run.log(epoch, 0.1, score(50), Evaluation(score(80), triggered))
    row, = run.rows
    assert (row["clean_acc"], row["poison_acc"], row["robust_acc"]) == (0.8, 0.9, 0.07)


def test_config_comes_first_and_results_last(arguments, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(arguments(), stop_in=1)
    folder = tmp_path / "run"
    config = json.loads((folder / "config.json").read_text())
    assert config["arguments"]["lr"] == 0.1 and config["seed"] == 0
    assert {"command", "versions", "device", "commit"} <= set(config)
    assert not (folder / "results.json").exists()
    go(arguments(overwrite=True))
    results = json.loads((folder / "results.json").read_text())
    assert results["acc"] == 0.9 and results["seconds"] >= 0 and results["peak_memory_mb"] > 10
    assert not (folder / "resume.th").exists()


def test_nothing_is_written_before_begin(arguments, tmp_path):
    with pytest.raises(UserError), Run(arguments()):
        log.info("a line before")
        raise UserError("bad input")
    assert not (tmp_path / "run").exists()


def last_line(folder):
    return (folder / "output.log").read_text().splitlines()[-1].split("] - ")[1]


def test_a_stopped_run_says_what_it_has_saved_and_how_it_goes_on(arguments, tmp_path):
    for stop_in, said in ((1, "nothing saved yet; the same command with --resume starts over"),
                          (3, "epoch 2 saved; the same command with --resume continues from there")):
        with pytest.raises(KeyboardInterrupt):
            go(arguments(overwrite=stop_in == 3), stop_in=stop_in)
        assert last_line(tmp_path / "run") == f"stopped with {said}"
    with pytest.raises(KeyboardInterrupt), Run(arguments(resume=True)) as run:
        run.begin("these images")
        raise KeyboardInterrupt  # while the model is tested before the training goes on
    assert last_line(tmp_path / "run").endswith("with --resume continues from where it was")
    args = arguments(output_dir=str(tmp_path / "other"))
    del args.resume
    with pytest.raises(KeyboardInterrupt), Run(args) as run:
        run.begin("these images")
        raise KeyboardInterrupt
    assert last_line(tmp_path / "other").endswith("the same command with --overwrite starts over")


def test_a_run_that_finds_nothing_to_resume_says_so(arguments, tmp_path):
    for folder, flag, said in (("empty", True, True), ("new", False, False)):
        go(arguments(output_dir=str(tmp_path / folder), resume=flag))
        text = (tmp_path / folder / "output.log").read_text()
        assert (f"--resume: nothing is saved in {tmp_path / folder}" in text) == said


def test_iterations_are_called_so(arguments, tmp_path):
    with pytest.raises(KeyboardInterrupt), Run(arguments()) as run:
        run.begin("these images")
        for line in run.epochs(2, HEADER.replace("Epoch", "Iter"), counter=Counter()):
            if line == 2:
                raise KeyboardInterrupt
            run.log(250, 0.1, score(50), Evaluation(score(90), score(99)))
    assert last_line(tmp_path / "run").startswith("stopped with iteration 250 saved")


@pytest.mark.parametrize(("every", "columns", "said"), [(10, HEADER, True), (1, HEADER, False), (10, "Loss", False)])
def test_a_log_with_tests_now_and_then_says_so(arguments, tmp_path, every, columns, said):
    with Run(arguments(test_every=every)) as run:
        run.begin("these images")
        list(run.epochs(1, columns, counter=Counter()))
    assert ("tested after every 10 epochs" in (tmp_path / "run/output.log").read_text()) == said


def test_a_stopped_run_goes_on_to_the_same_end(arguments, tmp_path):
    whole = go(arguments(output_dir=str(tmp_path / "whole")))
    with pytest.raises(KeyboardInterrupt):
        go(arguments(), stop_in=3)
    assert go(arguments(resume=True)) == whole
    rows = [json.loads(line)["epoch"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    logged = [line.split("] - ")[1] for line in (tmp_path / "run/output.log").read_text().splitlines()]
    assert rows == [1, 2, 3]
    assert [line[0] for line in logged if line[0] in "123"] == ["1", "2", "3"]
    assert "resumed after epoch 2" in logged


def test_a_run_that_stopped_behind_its_last_epoch_ends_with_what_that_left(arguments, monkeypatch):
    def stop(run, **figures):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            go(arguments())
    assert go(arguments(resume=True)) == go(arguments(overwrite=True)) > 0


def test_a_resumed_run_took_the_seconds_from_before_its_stop_too(arguments, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(arguments(), stop_in=3)
    path = tmp_path / "run/resume.th"
    checkpoint.save(path, {**read_tensors(path), "seconds": 1000.0})
    go(arguments(resume=True))
    assert json.loads((tmp_path / "run/results.json").read_text())["seconds"] >= 1000


def test_a_gpus_short_epochs_are_saved_once_in_a_while_and_at_the_end(arguments, tmp_path, monkeypatch):
    real, kept = checkpoint.save, []

    def slow_save(path, content):
        kept.append(content["epoch"])
        time.sleep(0.1)
        real(path, content)
    monkeypatch.setattr(checkpoint, "save", slow_save)
    monkeypatch.setattr(machine, "device_name", lambda device: "a card")
    with pytest.raises(KeyboardInterrupt), Run(arguments()) as run:
        run.device, counter = torch.device("cuda"), Counter()
        run.begin("these images")
        for epoch in run.epochs(8, counter=counter):
            counter.count += torch.rand(1, generator=run.generator)
            run.log(epoch, 0.1, score(50), Evaluation(score(90), score(99)))
            if epoch == 5:
                raise KeyboardInterrupt
    assert kept == [1]
    lines = [line.split("] - ")[1] for line in (tmp_path / "run/output.log").read_text().splitlines()]
    assert lines[-1].startswith("stopped with epoch 1 saved; the same command with --resume")
    assert go(arguments(resume=True), 8) == go(arguments(output_dir=str(tmp_path / "whole")), 8)
    assert "resumed after epoch 1" in (tmp_path / "run/output.log").read_text()
    assert kept == [1, *range(2, 9), *range(1, 9)]  # on a CPU each


def test_a_run_that_lies_there_is_left_alone(arguments, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(arguments(), stop_in=2)
    with pytest.raises(UserError, match=r"unfinished run; --resume .*--overwrite .*--output-dir"):
        go(arguments())
    go(arguments(resume=True))
    with pytest.raises(UserError, match=r"finished run; --resume .*--overwrite .*--output-dir"):
        go(arguments())
    with pytest.raises(SystemExit) as done:
        go(arguments(resume=True))
    assert done.value.code == 0


def test_a_finished_run_from_weights_that_were_replaced_is_not_called_finished(arguments, tmp_path):
    model = tmp_path / "given.th"
    model.write_bytes(b"weights")
    words = {"checkpoint": str(model)}
    go(arguments(**words), inputs=f"{hash_file(model)} these images")
    with pytest.raises(SystemExit) as done, Run(arguments(resume=True, **words)):
        pass
    assert done.value.code == 0
    model.write_bytes(b"trained anew")
    with pytest.raises(UserError, match=r"finished, from other weights than .* --overwrite makes it anew"):
        Run(arguments(resume=True, **words)).__enter__()


def test_overwrite_removes_what_the_run_left_and_nothing_else(arguments, tmp_path):
    go(arguments())
    (tmp_path / "run/notes.txt").write_text("mine")
    (tmp_path / "run/.resume.th.123.tmp").write_text("what a kill left")
    with pytest.raises(KeyboardInterrupt):
        go(arguments(overwrite=True), stop_in=1)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"config.json", "output.log", "metrics.jsonl", "notes.txt"}


def test_resume_with_other_arguments_is_refused_by_name(arguments):
    with pytest.raises(KeyboardInterrupt):
        go(arguments(), stop_in=2)
    with pytest.raises(UserError, match=r"--lr was 0\.1, is 0\.2"):
        go(arguments(resume=True, lr=0.2))
    with pytest.raises(UserError, match=r"--seed was 0, is 1"):
        go(arguments(resume=True, seed=1))


def test_what_a_run_reads_is_not_overwritten(arguments, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model_last.th").write_text("precious")
    with pytest.raises(UserError, match="--checkpoint reads what is here"):
        go(arguments(overwrite=True, checkpoint=str(tmp_path / "run/model_last.th")))
    assert (tmp_path / "run/model_last.th").read_text() == "precious"


def test_a_run_that_a_flag_names_is_not_overwritten(arguments, tmp_path):
    go(arguments())
    with pytest.raises(UserError, match="--stages-of reads what is here, which would be overwritten"):
        go(arguments(overwrite=True, stages_of=str(tmp_path / "run")))
    assert (tmp_path / "run/results.json").exists()


def test_a_finished_run_is_not_that_of_a_file_which_has_changed_since(arguments, tmp_path):
    listed = tmp_path / "suspected.npy"
    listed.write_bytes(b"50 indices")
    go(arguments(leave_out=str(listed)))
    with pytest.raises(SystemExit) as done:
        go(arguments(resume=True, leave_out=str(listed)))
    assert done.value.code == 0
    listed.write_bytes(b"600 indices")
    with pytest.raises(UserError, match=r"--leave-out .*suspected\.npy has changed since; --overwrite makes it anew"):
        go(arguments(resume=True, leave_out=str(listed)))


def test_a_log_is_utf_8_whatever_the_locale(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    folder = tmp_path / "M\u00e4rz \u96ea"
    go(arguments(output_dir=str(folder)))
    assert (folder / "output.log").read_text(encoding="utf-8").splitlines()[-1].endswith(str(folder))
    assert (folder / "results.json").exists()


def test_a_run_on_another_model_is_called_so(arguments, tmp_path):
    models = [str(tmp_path / name) for name in ("one.th", "other.th")]
    go(arguments(checkpoint=models[0]))
    for model, said in ((models[1], f"holds a finished run on {models[0]}; "), (models[0], "holds a finished run; ")):
        with pytest.raises(UserError) as told:
            go(arguments(checkpoint=model))
        assert said in str(told.value)


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}])  # none advises another of them
def test_another_scripts_run_is_not_overwritten(arguments, tmp_path, monkeypatch, flags):
    go(arguments())
    monkeypatch.setattr(command, "RUNNING", ["other_script"])
    with pytest.raises(UserError, match=r"holds a run of .*; name another"):
        go(arguments(**flags))


def test_files_of_unknown_origin_are_not_overwritten(arguments, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model_last.th").write_text("precious")
    for resume in (False, True):
        with pytest.raises(UserError, match=r"model_last\.th|config\.json: missing"):
            go(arguments(resume=resume))
    assert (tmp_path / "run/model_last.th").read_text() == "precious"


@pytest.mark.parametrize(("method", "status"), [({"accepted": False}, 1), ({"accepted": True}, 0), ({}, 0), (None, 0)])
def test_a_finished_run_ends_again_with_the_status_that_it_had(tmp_path, method, status):
    (tmp_path / "results.json").write_text(json.dumps({"method": method}))
    with pytest.raises(SystemExit) as stopped:
        end_if_whole(tmp_path, [])
    assert stopped.value.code == status


def test_a_finished_run_is_only_done_if_it_is_the_one_that_is_asked_for(arguments, tmp_path):
    go(arguments())
    with pytest.raises(UserError, match="--lr was"):
        go(arguments(resume=True, lr=3))
    (tmp_path / "run/model_last.th").unlink()
    with pytest.raises(UserError, match=r"finished, but model_last\.th is missing"):
        go(arguments(resume=True))


def test_resume_with_other_images_is_refused(arguments):
    with pytest.raises(KeyboardInterrupt):
        go(arguments(), stop_in=2)
    with pytest.raises(UserError, match="images and weights that the run began with"):
        go(arguments(resume=True), inputs="others")


@pytest.mark.parametrize("name, content", [
    ("config.json", "[]"), ("config.json", '{"arguments": 3}'), ("config.json", ""), ("resume.th", "junk"),
    ("resume.th", None)])
def test_damaged_progress_is_refused_in_one_line(arguments, tmp_path, name, content):
    with pytest.raises(KeyboardInterrupt):
        go(arguments(), stop_in=2)
    path = tmp_path / "run" / name
    if content is None:
        torch.save({"epoch": 1}, path)
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=name) as refused:
        go(arguments(resume=True))
    assert "\n" not in str(refused.value)


def test_a_lost_log_does_not_stop_a_resumed_run(arguments, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(arguments(), stop_in=2)
    (tmp_path / "run/output.log").unlink()
    go(arguments(resume=True))
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert len(config["resumed"]) == 1 and "commit" in config["resumed"][0]


def test_an_error_in_an_epoch_names_the_epoch(arguments):
    with pytest.raises(UserError, match="epoch 2: the loss became nan"), Run(arguments()) as run:
        run.begin()
        for epoch in run.epochs(3):
            if epoch == 2:
                raise UserError("the loss became nan")


@pytest.mark.parametrize("how", ["overwrite", "resume"])
def test_a_second_run_into_a_folder_is_refused_until_the_first_ends(arguments, tmp_path, how):
    with Run(arguments(), ("model_last.th",)) as first:
        first.begin()
        first.record({"epoch": 1})
        before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
        with pytest.raises(UserError, match="another run is under way there"), Run(arguments(**{how: True})) as run:
            run.begin()
        assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    go(arguments(overwrite=True))


def test_an_unknown_device_is_refused(arguments):
    with pytest.raises(UserError, match="--device toaster"):
        Run(arguments(device="toaster"))


@pytest.mark.parametrize("spoil", [
    lambda saved: saved["optimizer"]["param_groups"][0].update(lr="x"),
    lambda saved: saved["optimizer"]["param_groups"][0].update(momentum=[1]),
    lambda saved: saved["optimizer"]["param_groups"].clear(),
    lambda saved: saved["scheduler"].update(gamma="z"), lambda saved: saved["scheduler"].update(milestones=5),
    lambda saved: saved["scheduler"].update(_last_lr=[]), lambda saved: saved["model"].update(weight=torch.ones(3)),
    lambda saved: saved["model"].update(bias=3)])
def test_a_state_of_another_kind_is_not_alike(spoil):
    def things():
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
        return {"model": model, "optimizer": optimizer,
                "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3])}
    own, trained = things(), things()
    for _ in range(2):
        trained["model"](torch.ones(4, 2)).sum().backward()
        trained["optimizer"].step()
        trained["scheduler"].step()
    saved = {name: thing.state_dict() for name, thing in trained.items()}
    assert has_same_structure(saved, {name: thing.state_dict() for name, thing in own.items()})
    spoil(saved)
    assert not has_same_structure(saved, {name: thing.state_dict() for name, thing in own.items()})


def test_another_scripts_run_is_not_gone_on_with(arguments, monkeypatch):
    monkeypatch.setattr(command, "RUNNING", ["defenses.abl"])
    with pytest.raises(KeyboardInterrupt):
        go(arguments(), stop_in=2)
    monkeypatch.setattr(command, "RUNNING", ["train_backdoor"])
    with pytest.raises(UserError, match=r"holds a run of defenses\.abl"):
        go(arguments(resume=True))


def test_a_hard_link_to_the_log_is_not_written_through(arguments, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(arguments(), stop_in=2)
    os.link(tmp_path / "run/output.log", tmp_path / "outside")
    before = (tmp_path / "outside").read_bytes()
    go(arguments(resume=True))
    assert (tmp_path / "outside").read_bytes() == before
    assert (tmp_path / "run/output.log").read_bytes() != before


@pytest.mark.parametrize(("given", "fast_processor", "wanted"), [
    ({"amp": None}, True, False), ({"amp": None, "recipe": "fast"}, True, True), ({"amp": True}, False, True),
    ({"amp": None, "recipe": "fast"}, False, False), ({"amp": False, "recipe": "fast"}, True, False),
    ({}, True, False)])
def test_bfloat16_is_what_the_flags_say_or_the_fast_recipe_where_it_is_faster(arguments, monkeypatch, given,
                                                                             fast_processor, wanted):
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda device: fast_processor)
    assert Run(arguments(**given)).amp == wanted


def test_a_resumed_run_keeps_the_arithmetic_that_it_began_with(arguments, monkeypatch):
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda device: True)
    with pytest.raises(KeyboardInterrupt):
        go(arguments(amp=None, recipe="fast"), stop_in=2)
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda device: False)
    with Run(arguments(amp=None, recipe="fast", resume=True)) as run:
        run.begin("these images")
        assert run.amp


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_asks_pytorch_for_it(arguments, wanted, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    Run(arguments(deterministic=wanted))
    assert torch.are_deterministic_algorithms_enabled() == wanted
    assert torch.backends.cudnn.benchmark != wanted
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == wanted
    Run(arguments())
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("spoil", [
    {"epoch": "x"}, {"epoch": -1}, {"state": {}}, {"state": []}, {"generator": torch.zeros(3)}, {"log_size": "a"},
    {"seconds": float("nan")}, {"epoch": 99}, {"rows": [{**ROW, "more": float("nan")}]},
    {"rows": [{**ROW, "more": torch.zeros(1)}]}, {"rows": 5}, {"rows": [5]}, {"rows": [{"epoch": 1}]},
    {"rows": [{**ROW, "lr": [1]}]},
    {"seconds": None}, {"state": {"counter": {}}},
    {"state": {"counter": {"count": torch.zeros(1), "step": 1}}}])
def test_progress_that_is_something_else_is_one_error(arguments, spoil):
    args = arguments(resume=True)
    with pytest.raises(KeyboardInterrupt), Run(args) as run:
        run.begin()
        for epoch in run.epochs(3, counter=Counter()):
            run.record(ROW)
            if epoch == 2:
                raise KeyboardInterrupt
    path = run.folder / "resume.th"
    checkpoint.save(path, {**read_tensors(path), **spoil})
    with pytest.raises(UserError, match="damaged, or saved by a run with other flags"), Run(args) as run:
        run.begin()
        next(iter(run.epochs(3, counter=Counter())))


def test_results_say_by_themselves_what_they_are_of(arguments, tmp_path, images):
    """In the order that readers know, with nothing that is not known."""
    with Run(arguments(seed=7, epochs=5)) as run:
        run.begin(images)
        run.finish(Evaluation(score(90), score(20)), model=build_model("resnet18", 3, 4), parent="p.th", data=images,
                   method={"name": "none"})
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert list(results)[:10] == ["script", "acc", "asr", "robust_acc", "parent", "dataset", "spec", "width", "epochs",
                                  "seed"]
    assert (results["dataset"], results["width"], results["epochs"], results["seed"]) == ("random", 3, 5, 7)
    assert results["spec"]["num_classes"] == 4 and results["acc"]["value"] == 0.9 and results["asr"]["value"] == 0.2
    assert json.loads((tmp_path / "run/config.json").read_text())["inputs"] == images.fingerprint()

    with Run(arguments(output_dir=str(tmp_path / "bare"), epochs=5, width=8)) as run:
        run.begin()
        run.finish(epochs=0)
    bare = json.loads((tmp_path / "bare/results.json").read_text())
    assert bare["width"] == 8 and bare["epochs"] == 0 and bare["parent"] is None
    assert not {"dataset", "spec", "method", "acc"} & bare.keys()
