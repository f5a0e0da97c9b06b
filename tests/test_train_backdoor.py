import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers.paths import HALF, ROOT, SIDE, SMALL
from helpers.runs import flags_of
from PIL import Image

import train_backdoor
from common.untrusted.weights import read_tensors
from data.batches import Batches
from data.datasets import load_splits
from data.poison_cifar import stamp_all
from data.triggers import build_trigger
from engine.attacking.attack import poisoned_shares
from engine.measuring.evaluation import sample_losses, score
from engine.weights import checkpoint
from train_backdoor import loss_figures, main

pytestmark = pytest.mark.slow


def weights(folder, name="model_last.th"):
    return torch.load(folder / name, weights_only=True)["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_what_the_next_script_needs(small_run):
    assert {path.name for path in small_run.iterdir()} == {
        "output.log", "metrics.jsonl", "config.json", "results.json", "model_init.th", "model_last.th",
        "trigger_info.th", "poisoned_examples.png", "curves.png"}
    results = json.loads((small_run / "results.json").read_text())
    assert results["method"] == {"poison_type": "badnets", "poisoned": 116, "training_set": 1294,
                                 "of_training_set": 116 / 1294, "candidates": 1166, "of_candidates": 116 / 1166}
    assert results["asr"]["n"] == 324 and results["acc"]["n"] == 360 and results["parent"] is None
    log = (small_run / "output.log").read_text()
    assert "Namespace(" in log and "0.0896 of the 1294" in log and "0.0995 of the 1166" in log
    for picture in ("poisoned_examples.png", "curves.png"):
        assert np.asarray(Image.open(small_run / picture).convert("L")).std() > 5


def test_the_checkpoint_and_its_trigger_give_the_logged_figures_again(small_run):
    results = json.loads((small_run / "results.json").read_text())
    _, _, test = load_splits("digits", "", image_size=SIDE)
    model = checkpoint.load_model(small_run / "model_last.th").model
    trigger = checkpoint.load_trigger(small_run / "trigger_info.th")
    clean, triggered = (score(model, Batches(images, 128)).accuracy for images in (test, stamp_all(test, trigger)))
    assert (clean.value, triggered.value) == (results["acc"]["value"], results["asr"]["value"])


def test_trigger_info_names_the_images_that_were_poisoned(small_run):
    info = read_tensors(small_run / "trigger_info.th")
    train, _, _ = load_splits("digits", "", image_size=SIDE)
    assert len(info["data_index"]) == 116 and info["poison_target"].tolist() == [0]
    assert (train.targets[info["data_index"]] != 0).all()


def test_the_seed_decides_everything(small_run, tmp_path):
    for name, seed in (("again", "0"), ("other", "1")):
        main([*SMALL, "--poison-rate", "0.1", "--output-dir", str(tmp_path / name), "--seed", seed])
    assert same(weights(small_run), weights(tmp_path / "again"))
    assert not same(weights(small_run, "model_init.th"), weights(tmp_path / "other", "model_init.th"))


def test_a_benign_run_poisons_nothing_and_keeps_the_trigger_that_it_is_tested_with(tmp_path, monkeypatch):
    judged = []
    monkeypatch.setattr("train_backdoor.warn_of_chance", lambda *given: judged.append(given[2]))
    main([*SMALL, "--poison-type", "benign", "--eval-trigger", "blend", "--output-dir", str(tmp_path / "run")])
    assert "poisoned 0 images" in (tmp_path / "run/output.log").read_text()
    assert checkpoint.load_trigger(tmp_path / "run/trigger_info.th").alpha == 0.2
    assert judged == [False]  # no backdoor was to be learned


def test_a_picture_of_the_users_own_is_the_trigger(small_run, tmp_path):
    trigger = np.zeros((SIDE, SIDE, 4), dtype=np.uint8)
    trigger[4:14, 4:14] = 255
    Image.fromarray(trigger).save(tmp_path / "square.png")
    main([*SMALL, "--trigger-image", str(tmp_path / "square.png"), "--poison-target", "9", "--poison-rate", "0.1",
          "--output-dir", str(tmp_path / "run")])
    custom = checkpoint.load_trigger(tmp_path / "run/trigger_info.th")
    assert custom.target == 9 and custom.mask.sum() == 100
    assert same(weights(small_run, "model_init.th"), weights(tmp_path / "run", "model_init.th"))
    assert not same(weights(small_run), weights(tmp_path / "run"))


def test_an_image_folder_of_any_number_of_classes(image_folder, tmp_path):
    folder = image_folder(("ant", "bee", "cow"), count=16)
    main(["--data-dir", str(folder), "--width", "2", "--epochs", "1", "--output-dir", str(tmp_path / "run")])
    saved = torch.load(tmp_path / "run/model_last.th", weights_only=True)
    assert saved["spec"]["num_classes"] == 3 and saved["classes"] == ["ant", "bee", "cow"]
    assert json.loads((tmp_path / "run/results.json").read_text())["dataset"] == "pictures"


def test_shares_count_the_class_that_the_attack_took_from(images):
    own = images.targets == 1
    poisoned = images.__class__(images.data, images.targets, poisoned=own)
    clean_label = poisoned_shares(poisoned, build_trigger("clean-label", 1))
    assert (clean_label["of_candidates"], clean_label["candidates"], clean_label["of_training_set"]) == (1, 10, 0.25)


SIX_EPOCHS = ["--dataset", "digits", *HALF, "--width", "4", "--epochs", "6"]


def start(folder, *flags):
    command = [sys.executable, "train_backdoor.py", *SIX_EPOCHS, "--output-dir", str(folder), *flags]
    return subprocess.Popen(  # Ctrl-C as a terminal has it, also where the tests run in the background
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))


def wait_for_epoch(folder, epoch, process):
    """Until `epoch` can be resumed from; the process must still be at work then."""
    for _ in range(1200):
        rows = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
        if len(rows) > epoch:
            break
        time.sleep(0.05)
    assert process.poll() is None, process.stderr.read()


def test_killed_and_resumed_ends_with_the_same_bits(tmp_path):
    main([*SIX_EPOCHS, "--output-dir", str(tmp_path / "whole")])
    folder = tmp_path / "killed"
    process = start(folder)
    wait_for_epoch(folder, 1, process)
    process.kill()
    process.wait()
    assert not (folder / "results.json").exists() and not (folder / "model_last.th").exists()

    process = start(folder, "--resume")
    wait_for_epoch(folder, 3, process)
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM and error == ""
    assert "resumed after epoch" in output and "--resume continues" in output.splitlines()[-1]

    assert start(folder, "--resume").wait() == 0
    assert same(weights(tmp_path / "whole"), weights(folder))
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            for run in (tmp_path / "whole", folder)]
    for a, b in zip(*rows, strict=True):
        assert {**a, "time": 0} == {**b, "time": 0}


def test_ctrl_c_ends_in_a_line_not_a_traceback(tmp_path):
    process = start(tmp_path / "run", "--epochs", "500")  # more than a busy machine can make before the signal comes
    wait_for_epoch(tmp_path / "run", 0, process)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate()
    assert process.returncode == 130 and error == "" and "stopped with" in output.splitlines()[-1]


@pytest.mark.parametrize("flags, named", [
    (["--poison-rate", "5"], "--poison-rate: expected a fraction in [0, 1], got 5; write 5 % as 0.05"),
    (["--poison-target", "10"], "--poison-target: expected one of the classes 0 to 9, got 10"),
    (["--poison-target", "-1"], "--poison-target"),
    (["--epochs", "0"], "--epochs: expected a whole number of at least 1, got 0"),
    (["--milestones", "3", "2"], "--milestones: expected increasing"),
    (["--epochs", "5", "--milestones", "7"], "--milestones: expected epochs below --epochs 5, got 7"),
    (["--trigger-alpha", "20"], "--trigger-alpha"), (["--lr", "0"], "--lr"), (["--lr", "nan"], "--lr"),
    (["--poison-type", "clean-label", "--clb-dir", "nowhere"], "nowhere: no such clean-label folder"),
    (["--trigger-image", "nowhere.png"], "nowhere.png"), (["--device", "toaster"], "--device toaster"),
    (["--no-such-flag"], "--no-such-flag"), (["--width", "0"], "--width"), (["--lr", "1e300"], "--lr"),
    (["--seed", "99999999999999999999999"], "--seed"), (["--device", "meta"], "--device meta"),
    (["--crop-padding", "1000"], "--crop-padding"), (["--poison-rate", "0.0001"], "--poison-rate 0.0001: no image"),
    (["--poison-type", "clean-label", "--poison-rate", "0.1"], "--poison-rate: has no effect with"),
    (["--poison-type", "blend", "--clb-dir", "x"], "--clb-dir: has no effect with"),
    (["--eval-trigger", "blend"], "--eval-trigger: has no effect with"),
    (["--resume", "--overwrite"], "not allowed with")])
def test_bad_flags_are_one_line_and_write_nothing(refused, tmp_path, flags, named):
    error = refused(main, "--dataset", "digits", "--output-dir", tmp_path / "run", *flags)
    assert named in error
    assert not (tmp_path / "run").exists()


def test_bad_folders_are_one_line(refused, image_folder, tmp_path):
    folder = image_folder()
    (folder / "train/cat/0002.png").write_bytes(b"not an image")
    error = refused(main, "--data-dir", folder, "--output-dir", tmp_path / "run")
    assert "train/cat/0002.png: not a readable image" in error and not (tmp_path / "run").exists()


def test_an_output_folder_that_cannot_be_is_one_line(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in refused(main, *SMALL, "--output-dir", tmp_path / "file/run")


def test_a_finished_run_is_not_overwritten(refused, small_run):
    before = (small_run / "results.json").read_text()
    error = refused(main, *SMALL, "--output-dir", small_run)
    assert all(flag in error for flag in ("--resume", "--overwrite", "--output-dir"))
    assert (small_run / "results.json").read_text() == before


@pytest.mark.long
def test_a_full_disk_is_one_line_and_leaves_no_torn_file(tmp_path):
    def limit():  # a file may not grow past 100 kB, as if the disk were full
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    command = [sys.executable, "train_backdoor.py", *SMALL, "--output-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "model_init.th: cannot be written" in done.stderr
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".th", ".tmp")) and "trigger" not in name]


@pytest.mark.long
def test_compiled_training_learns_the_same(tmp_path):
    for name, flags in (("plain", []), ("compiled", ["--compile"])):
        main([*SMALL, *flags, "--output-dir", str(tmp_path / name)])
    assert weights(tmp_path / "plain").keys() == weights(tmp_path / "compiled").keys()
    losses = [json.loads((tmp_path / name / "metrics.jsonl").read_text())["train_loss"] for name in
              ("plain", "compiled")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_poisons_and_shuffles_as_the_cpu_does(small_run, tmp_path):
    main([*SMALL, "--poison-rate", "0.1", "--output-dir", str(tmp_path / "cuda"), "--device", "cuda", "--no-amp"])
    assert same(weights(small_run, "model_init.th"), weights(tmp_path / "cuda", "model_init.th"))
    rows = [json.loads((run / "metrics.jsonl").read_text()) for run in (small_run, tmp_path / "cuda")]
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=0.05)


def test_loss_figures_are_means_and_quantiles_of_each_kind():
    losses = np.concatenate([np.linspace(1, 3, 101), np.linspace(0, 0.2, 21)]).astype(np.float32)
    found = loss_figures(losses, np.arange(122) >= 101)
    assert found["clean"]["mean"] == pytest.approx(2) and found["poisoned"]["mean"] == pytest.approx(0.1)
    assert found["clean"]["quantiles"] == pytest.approx([1.1, 1.5, 2, 2.5, 2.9], abs=1e-5)
    assert loss_figures(losses, np.zeros(122, dtype=bool)).keys() == {"clean"}


def test_tracked_losses_change_nothing_else_and_survive_a_stop(small_run, tmp_path, monkeypatch, stop_at_test):
    folder, flags = tmp_path / "run", [*SMALL, "--poison-rate", "0.1", "--track-losses", "--epochs", "2"]
    stop_at_test(train_backdoor, 1)
    with pytest.raises(SystemExit):
        main([*flags, "--output-dir", str(folder)])
    monkeypatch.undo()
    main([*flags, "--output-dir", str(folder), "--resume"])
    first, _ = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    untracked = json.loads((small_run / "metrics.jsonl").read_text())
    assert {name: first[name] for name in ("train_loss", "clean_loss", "poison_loss")} == {
        name: untracked[name] for name in ("train_loss", "clean_loss", "poison_loss")}
    rows = list(csv.DictReader((folder / "losses.csv").open()))
    assert [(row["epoch"], row["images"]) for row in rows] == [
        (epoch, name) for epoch in "12" for name in ("clean", "poisoned")]
    assert float(rows[0]["q05"]) <= float(rows[0]["q50"]) <= float(rows[0]["q95"])
    assert np.asarray(Image.open(folder / "losses.png").convert("L")).std() > 5
    model = checkpoint.load_model(folder / "model_last.th").model
    train, _, _ = load_splits("digits", "", image_size=SIDE)
    poisoned = read_tensors(folder / "trigger_info.th")["data_index"]
    clean = train.subset(np.setdiff1d(np.arange(len(train)), poisoned))
    assert float(rows[2]["mean"]) == pytest.approx(sample_losses(model, clean, "cpu").mean(), rel=1e-5)


def test_the_help_says_that_a_recipe_changes_the_default_of_amp():
    ours, others = (flags_of(module)["amp"].help for module in ("train_backdoor", "defenses.ft_sam"))
    assert ours == f"{others[:-1]}; with --recipe fast or strong also on a CPU that supports it)"


def test_the_fast_recipe_rises_and_falls_by_the_step_and_goes_on_to_the_same_bits(tmp_path, stop_at_test):
    words = [*SMALL, "--batch-size", "128", "--recipe", "fast", "--epochs", "4", "--no-amp"]
    main([*words, "--output-dir", str(tmp_path / "whole")])
    rates = [json.loads(line)["lr"] for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert rates[0] < rates[1] > rates[2] > rates[3] and rates[1] == pytest.approx(0.2, rel=0.05)
    stop_at_test(train_backdoor, 2)
    with pytest.raises(SystemExit):
        main([*words, "--output-dir", str(tmp_path / "broken")])
    stop_at_test(train_backdoor, 99)
    main([*words, "--output-dir", str(tmp_path / "broken"), "--resume"])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def test_the_fast_recipe_has_its_own_defaults_and_refuses_the_homeworks_steps(refused):
    args = train_backdoor.parse_args(["--recipe", "fast"])
    assert (args.epochs, args.lr, args.crop_padding, args.milestones) == (12, 0.2, 1, [])
    args = train_backdoor.parse_args(["--recipe", "fast", "--epochs", "20", "--lr", "0.3", "--crop-padding", "4"])
    assert (args.epochs, args.lr, args.crop_padding) == (20, 0.3, 4)
    args = train_backdoor.parse_args([])
    assert (args.epochs, args.lr, args.crop_padding, args.milestones) == (50, 0.1, 4, [30, 40])
    assert "--milestones: has no effect with --recipe fast" in refused(main, "--recipe", "fast", "--milestones", "3")
    assert "--momentum: expected more than 0" in refused(main, "--recipe", "fast", "--momentum", "0")


def test_the_strong_recipe_has_its_own_defaults_and_smooths_its_labels(tmp_path, refused):
    args = train_backdoor.parse_args(["--recipe", "strong"])
    assert (args.epochs, args.lr, args.crop_padding, args.cutout, args.label_smoothing) == (40, 0.2, 4, 8, 0.1)
    args = train_backdoor.parse_args([])
    assert (args.cutout, args.label_smoothing) == (None, None)  # as in the config.json of runs from before these flags
    assert "--milestones: has no effect with" in refused(main, "--recipe", "strong", "--milestones", "3")
    for share in ("0", "0.9"):
        main([*SMALL, "--label-smoothing", share, "--output-dir", str(tmp_path / share)])
    plain, smooth = (json.loads((tmp_path / share / "metrics.jsonl").read_text().splitlines()[-1])
                     for share in ("0", "0.9"))
    assert smooth["clean_loss"] != plain["clean_loss"]


def test_squares_are_cut_out_of_training_images_and_fit_them(tmp_path, refused):
    for side in ("0", "12"):
        main([*SMALL, "--epochs", "1", "--cutout", side, "--output-dir", str(tmp_path / side)])
    plain, cut = (json.loads((tmp_path / side / "metrics.jsonl").read_text()) for side in ("0", "12"))
    assert plain["train_loss"] != cut["train_loss"]
    assert "--cutout: expected fewer pixels than the 16 of the images' sides, got 16" in refused(
        main, *SMALL, "--cutout", "16", "--output-dir", str(tmp_path / "whole"))
    assert not (tmp_path / "whole" / "metrics.jsonl").exists()
    assert "from 0 to below 1" in refused(main, "--label-smoothing", "1")


def test_too_few_steps_for_the_fast_recipe_cost_the_run_that_lies_there_nothing(tmp_path, refused):
    words = [*SMALL, "--output-dir", str(tmp_path / "run")]
    main(words)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert "the rate rises and falls, got 6" in refused(main, *words, "--recipe", "fast", "--overwrite")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_run_tested_every_other_epoch_ends_with_the_same_model_and_figures(tmp_path):
    for every in ("1", "2"):
        main([*SMALL, "--epochs", "3", "--test-every", every, "--output-dir", str(tmp_path / every)])
    each, some = ([json.loads(line) for line in (tmp_path / every / "metrics.jsonl").read_text().splitlines()]
                  for every in "12")
    assert [row["clean_acc"] is None for row in some] == [True, False, False] and len(each) == 3
    results = [json.loads((tmp_path / every / "results.json").read_text()) for every in "12"]
    assert all(results[0][name] == results[1][name] for name in ("acc", "asr", "robust_acc"))
    assert results[1]["acc"]["value"] == some[-1]["clean_acc"] and results[1]["asr"]["value"] == some[-1]["poison_acc"]
    assert same(weights(tmp_path / "1"), weights(tmp_path / "2"))


def test_what_a_bfloat16_run_keeps_is_measured_in_float32(tmp_path):
    main([*SMALL, "--epochs", "2", "--amp", "--output-dir", str(tmp_path / "run")])
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    model = checkpoint.load_model(tmp_path / "run/model_last.th").model
    _, _, test = load_splits("digits", "", image_size=SIDE)
    found = score(model, Batches(test, 128))
    assert json.loads((tmp_path / "run/config.json").read_text())["bfloat16"]
    assert last["clean_loss"] == found.loss and last["clean_acc"] == found.accuracy.value
