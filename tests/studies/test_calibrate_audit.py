"""Populations: what is trained, what is kept, and what the table says."""
import csv
import json
import math
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.locks import lock_folder
from data.triggers import build_trigger
from engine.weights.checkpoint import save_model, save_trigger
from methods.trigger_search import Search
from methods.witnesses import Finding, Settings
from models import build_model
from studies import calibrate_audit
from studies.calibrate_audit import flagged_label, main, parse_args

SMALL = ["--dataset", "digits", "--width", "2", "--starts", "1", "--steps", "2", "--searches", "2"]


@pytest.fixture
def trainings(monkeypatch):
    """Trainings that take no time; returns the commands, [(script, {flag: value}, further words)]."""
    calls = []

    def train(script, *words):
        words = list(map(str, words))
        folder, seed = (words[words.index(name) + 1] for name in ("--output-dir", "--seed"))
        calls.append((script, words))
        torch.manual_seed(int(seed))
        Path(folder).mkdir(parents=True)
        save_model(f"{folder}/model_last.th", build_model("resnet18", 2, 10), {}, {}, tuple("0123456789"))
        target = int(words[words.index("--poison-target") + 1]) if "--poison-target" in words else 0
        save_trigger(f"{folder}/trigger_info.th", build_trigger("badnets", target))
        Path(f"{folder}/results.json").write_text(json.dumps(
            {"acc": {"value": 0.9}, "asr": {"value": 0.8}, "seconds": 7}))
    norms = [40.0, 41, 42, 2, 43, 44, 45, 46, 47, math.inf]
    monkeypatch.setattr(calibrate_audit, "call", train)
    monkeypatch.setattr("methods.witnesses.reverse_triggers", lambda *args: [
        Search(label, None, None, norm=norm, steps=1) for label, norm in enumerate(norms)])
    return calls


def rows_of(folder):
    return list(csv.DictReader((folder / "rates.csv").open()))


def test_each_model_is_trained_measured_and_thrown_away_and_is_a_line(trainings, tmp_path):
    main([*SMALL, "--count", "2", "--first-seed", "70", "--training", "--epochs 3 --no-flip",
          "--output-dir", str(tmp_path)])
    (script, words), (_, more) = trainings
    assert script == "train_backdoor" and words[words.index("--poison-type") + 1] == "benign"
    assert "--epochs 3 --no-flip" in " ".join(words) and words[words.index("--width") + 1] == "2"
    assert (words[words.index("--seed") + 1], more[more.index("--seed") + 1]) == ("70", "71")
    first, second = rows_of(tmp_path)
    assert (first["seed"], first["attack"], first["asr"], first["target"]) == ("70", "benign", "", "")
    assert (first["cleanse"], first["cleanse_labels"], first["flagged"]) == ("22;22", "3;3", "3")
    assert first["channels"] != second["channels"]
    assert (first["seconds_training"], first["verdict"]) == ("7", "undecided")
    assert not list((tmp_path / "models").iterdir())


def test_the_same_command_makes_only_what_the_table_lacks(trainings, tmp_path):
    words = [*SMALL, "--training", "--epochs 3", "--output-dir", str(tmp_path)]
    main([*words, "--count", "1"])
    main([*words, "--count", "3"])
    assert len(trainings) == 3 and [row["seed"] for row in rows_of(tmp_path)] == ["0", "1", "2"]
    main([*words[:-4], "--training", "--epochs 4", "--count", "1", "--output-dir", str(tmp_path)])  # other models
    main([*words, "--population", "test", "--count", "1", "--first-seed", "9"])
    attack = [*words, "--population", "test", "--attack", "badnets", "--count", "1", "--targets"]
    for target in ("3", "5", "3"):
        main([*attack, target])
    assert len(trainings) == 7


def test_the_attacks_own_target_and_the_usual_size_are_not_any(trainings, tmp_path, capsys):
    words = [*SMALL, "--population", "test", "--attack", "badnets", "--count", "1", "--output-dir", str(tmp_path)]
    main([*words, "--targets", "3"])
    main(words)  # of label 0
    main([*words, "--image-size", "16"])
    assert len(trainings) == 3 and "in the table already" not in capsys.readouterr().out
    main(words)
    assert len(trainings) == 3 and "badnets" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("flag", ["--width 16", "--seed=7", "--poison-type badnets", "--arch wrn10-1", "--resume"])
def test_what_the_table_says_of_a_model_is_not_for_the_training_to_change(trainings, tmp_path, refused, flag):
    said = refused(main, *SMALL, f"--training=--epochs 1 {flag}", "--output-dir", tmp_path)
    assert f"{flag.partition(' ')[0].partition('=')[0]} would contradict the table" in said and not trainings


def test_an_open_quote_in_the_flags_of_the_training_is_refused(tmp_path, refused):
    assert "--training: No closing quotation" in refused(main, *SMALL, "--training", "--epochs '1")


def test_a_benign_model_is_not_of_both_populations(trainings, tmp_path, refused):
    words = [*SMALL, "--count", "1", "--output-dir", str(tmp_path)]
    main([*words, "--first-seed", "4"])
    assert "seed 4: that benign model is of --population calibrate already" in refused(
        main, *words, "--first-seed", "4", "--population", "test")
    main([*words, "--first-seed", "4", "--population", "test", "--attack", "badnets"])
    assert len(trainings) == 2


def test_a_line_waits_for_another_process_that_is_writing(trainings, tmp_path):
    lock = lock_folder(tmp_path, "another line")
    threading.Timer(0.3, os.close, [lock]).start()
    started = time.monotonic()
    main([*SMALL, "--count", "1", "--output-dir", str(tmp_path)])
    assert len(rows_of(tmp_path)) == 1 and time.monotonic() - started >= 0.3


def test_two_processes_that_make_the_same_model_add_one_line(trainings, tmp_path):
    """A benign model that stood there twice would be held against its own twin."""
    main([*SMALL, "--count", "1", "--output-dir", str(tmp_path)])
    row, = calibrate_audit.read_rows(tmp_path / calibrate_audit.TABLE)
    calibrate_audit.add_row(tmp_path, replace(row, seconds=row.seconds + 1))
    assert len(rows_of(tmp_path)) == 1
    calibrate_audit.add_row(tmp_path, replace(row, seed=row.seed + 1))
    assert len(rows_of(tmp_path)) == 2


def test_a_training_that_fails_ends_with_its_line_and_leaves_the_others(trainings, tmp_path, monkeypatch, refused):
    main([*SMALL, "--count", "1", "--output-dir", str(tmp_path)])

    def fail(script, *words):
        raise calibrate_audit.UserError("--epochs: expected a whole number")
    monkeypatch.setattr(calibrate_audit, "call", fail)
    assert "--epochs: expected" in refused(main, *SMALL, "--count", "2", "--output-dir", tmp_path)
    assert len(rows_of(tmp_path)) == 1


def test_attacks_are_those_of_the_catalogue_with_their_targets_in_turn(trainings, tmp_path):
    main([*SMALL, "--population", "test", "--attack", "wanet", "--targets", "3", "5", "--count", "3", "--keep",
          "--output-dir", str(tmp_path)])
    assert {script for script, _ in trainings} == {"attacks.wanet"}
    assert [row["target"] for row in rows_of(tmp_path)] == ["3", "5", "3"]
    assert {row["asr"] for row in rows_of(tmp_path)} == {"0.8"}
    assert len(list((tmp_path / "models").iterdir())) == 3


def test_rates_are_printed_for_the_audit_and_for_neural_cleanse_alone(trainings, tmp_path, capsys):
    main([*SMALL, "--count", "6", "--output-dir", str(tmp_path)])
    for attack in ("benign", "badnets"):
        main([*SMALL, "--population", "test", "--attack", attack, "--count", "2", "--first-seed", "90",
              *(["--targets", "3"] if attack == "badnets" else []), "--output-dir", str(tmp_path)])
    capsys.readouterr()
    main(["--show", "--output-dir", str(tmp_path)])
    said = capsys.readouterr().out
    assert "digits, resnet18, width 2, 10 classes, 32 pixels, 6 benign models to compare with" in said
    assert "Neural Cleanse alone, by anomaly index and majority: it suspected 2 of 2 benign ones (34 to 100 %)" in said
    assert "Neural Cleanse alone, by anomaly index and majority: of 2 with badnets it missed 0 (0 to 66 %)" in said
    assert "audit at a false-alarm rate of 5 %: of all 2 backdoored ones it missed" in said


def test_a_table_that_is_not_there_and_flags_that_contradict_are_refused(tmp_path, refused):
    assert "no model has been measured yet" in refused(main, "--show", "--output-dir", tmp_path)
    assert "are benign; give --population test" in refused(main, "--attack", "badnets")
    assert "no effect on benign models" in refused(main, "--targets", "3")
    assert parse_args([]).training == ""


def test_the_witnesses_of_a_model_begin_at_its_own_seed_and_each_search_one_further(images, tmp_path, monkeypatch):
    begun, climbed = [], []

    def search(model, images, settings, seed, device):
        begun.append(seed)
        return [Search(label, None, None, norm=norm, steps=1) for label, norm in enumerate((4.0, 60.0, 61.0, 62.0))]

    def climb(model, num_classes, image_size, settings, device, generator):
        climbed.append(generator.initial_seed())
        return Finding(1.5, 2, "")
    monkeypatch.setattr(calibrate_audit, "search_triggers", search)
    monkeypatch.setattr(calibrate_audit, "margin_witness", climb)
    save_model(tmp_path / "model_last.th", build_model("resnet18", 2, 4), {}, {}, images.classes)
    found = calibrate_audit.measure(tmp_path, images, Settings(searches=3), 7, torch.device("cpu"))
    assert (begun, climbed) == ([7, 8, 9], [7]) and (found["margins"], found["margins_label"]) == (1.5, 2)
    assert len(found["cleanse"]) == 3 and found["cleanse_labels"] == (0, 0, 0)


def test_neural_cleanse_alone_is_its_majority():
    odd, even = [40.0, 41, 42, 2, 43], [40.0, 41, 42, 39, 43]
    assert flagged_label([odd, odd, even]) == 3 and flagged_label([odd, even]) is None


@pytest.mark.long
def test_a_real_model_of_digits_is_trained_and_measured(tmp_path):
    main([*SMALL, "--budget", "3", "--count", "1", "--training=--epochs=1", "--output-dir", str(tmp_path)])
    row, = rows_of(tmp_path)
    assert float(row["channels"]) > 0 and float(row["seconds_training"]) > 0 and row["training"] == "--epochs=1"
