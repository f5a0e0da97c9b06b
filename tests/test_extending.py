"""docs/extending.md: its code in a copy of the suite, and every kind of script on what it adds.

A block of Python begins with where it goes: `# FILE` is a new file, `# FILE, above NAME` goes above the assignment to
NAME, and `# FILE, in NAME` at the end of the table that NAME is.
"""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.paths import HIDDEN, ROOT

from data.triggers import Attack, table
from engine.command_line import poison_flags

PAGE = ROOT / "docs/extending.md"
PACKAGES = ("attacks", "common", "data", "defenses", "engine", "methods", "models", "reporting", "studies", "workflow")
CODE = (".py", ".png", ".txt", ".yaml", ".md", ".css", ".html", ".j2", ".csv")
TINY = ["--dataset", "digits", "--width", "2", "--epochs", "1", "--batch-size", "256", "--milestones"]
ATTACKS = ("square", "sway")
PLANNED = (*ATTACKS, "late")
IN_COPY = ROOT / "tests/helpers/in_copy.py"


def blocks():
    """[(file, "above", "in" or "", name, code)] of the page."""
    found = re.findall(r"^```python\n# ([^\n,]+)(?:, (above|in) (\w+))?\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len(found) == PAGE.read_text().count("```python") and len(found) >= 6
    return found


def put(root, file, place, name, code):
    """Put a block of the page where it says."""
    path = root / file
    if not place:
        assert not path.exists()
        path.write_text(code)
        return
    before, table, after = re.fullmatch(rf"(.*?\n)({name} = .*?\n[)}}]\n)(.*)", path.read_text(), re.S).groups()
    path.write_text(before + (f"{code}\n\n{table}" if place == "above" else table[:-2] + code + table[-2:]) + after)


def run(root, *words, check=True, **options):
    """A finished Python process in the copy."""
    done = subprocess.run([sys.executable, *map(str, words)], cwd=root, capture_output=True, text=True,
                          env={**os.environ, **HIDDEN, "PYTHONPATH": str(root), "COLUMNS": "200"}, **options)
    assert not check or done.returncode == 0, done.stderr
    return done


def commands():
    """[module, word, ...] of the commands that the page prints."""
    lines = re.findall(r"^    python (.*)$", re.sub(r"^```.*?^```", "", PAGE.read_text(), flags=re.M | re.S), re.M)
    assert len(lines) >= 2
    return [[words[0].removesuffix(".py"), *words[1:]] for words in map(shlex.split, (
        line.removeprefix("-m ") for line in lines))]


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """The copy with the page's code in it, in which both triggers were trained with and both defenses run on them."""
    root = tmp_path_factory.mktemp("extended") / "suite"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=lambda folder, names: [
            name for name in names if not (name.endswith(CODE) or os.path.isdir(os.path.join(folder, name)))
            or name.startswith(("cifar10-", "cifar-10", "clean-label", "feature-collision", "__pycache__"))
            or name in ("mnist-10k", "MNIST", "gtsrb", "GTSRB")])
    for path in ROOT.glob("*.py"):
        shutil.copy(path, root)
    shutil.copy(IN_COPY, root)  # beside the scripts, so that it finds the copy's packages
    for block in blocks():
        put(root, *block)
    calls = [[*command, *TINY] for command in commands()]
    for attack in ATTACKS:
        model = ["--checkpoint", f"output/{attack}/model_last.th", "--dataset", "digits"]
        calls += [["defenses.squeeze", *model], ["defenses.strip", *model, "--calibration", "60", "--overlays", "3",
                                                 "--inspect", "40"]]
    calls.append(["defenses.retrain_head", "--checkpoint", "output/square/model_last.th", "--epochs", "1"])
    suspect = ["--checkpoint", "output/plain/model_last.th", "--dataset", "digits"]
    calls += [["generate_mask", *suspect, "--val-frac", "0.05", "--nb-iter", "2", "--batch-size", "32"],
              ["prune_network", "--mask-file", "output/plain/anp/mask_values.txt"],
              ["defenses.fine_prune", *suspect, "--epochs", "1"],
              ["defenses.neural_cleanse", *suspect, "--seeds", "1", "--budget", "2", "--batches", "1"],
              ["attacks.pruning_aware", "--arch", "plain", *TINY]]
    run(root, IN_COPY.name, "drive", input=json.dumps([*calls, ["report", "output"]]))
    return root


def results(root, *folder):
    return json.loads(root.joinpath("output", *folder, "results.json").read_text())


def test_help_offers_the_attacks_with_their_defaults_and_own_flags(extended):
    text = " ".join(run(extended, "train_backdoor.py", "--help").stdout.split())
    assert f"{{{','.join((*table.ATTACKS, *ATTACKS))}}}" in text
    outside = [name for name, row in table.ATTACKS.items() if row.rate is not None and "outside" in row.rate_of]
    assert f"for {', '.join(outside)}, square and sway: share of the images outside the target class" in text
    assert "0.2 for blend, 0.8 for square, 1 for the others" in text
    assert "for sway: largest shift of a row, in pixels (default: 2.0)" in text
    pictures = [name for name, row in table.ATTACKS.items() if row.pattern]
    assert f"--eval-trigger {{{','.join((*pictures, 'square'))}}}" in text


def test_the_help_of_the_rate_says_what_it_is_a_share_of(monkeypatch):
    row = Attack(rate=0.2, rate_of="the images of the target class")
    monkeypatch.setitem(poison_flags.ATTACKS, "own", row)
    monkeypatch.setitem(poison_flags.POISON_DEFAULTS["poison_rate"], "own", row.rate)
    assert poison_flags.rate_help(("badnets", "blend", "own")) == (
        "for badnets and blend: share of the images outside the target class to poison; for own: share of the images "
        "of the target class to poison (default: 0.05, for own 0.2)")


def test_a_share_of_the_images_by_the_rows_default_is_poisoned(extended):
    for attack, rate in (("square", 0.05), ("sway", 0.1)):
        method = results(extended, attack)["method"]
        assert method["poison_type"] == attack
        assert method["poisoned"] == int(rate * method["candidates"]) > 0


def test_both_triggers_come_back_from_their_files_and_stamp_as_the_page_says(extended):
    run(extended, IN_COPY.name, "read_back", *(f"output/{attack}/trigger_info.th" for attack in ATTACKS))
    clean = np.load(extended / "output/sway/clean.npy")
    square, sway = (np.load(extended / f"output/{attack}/stamped.npy") for attack in ATTACKS)
    np.testing.assert_array_equal(square[:, 1:5, 1:5], np.rint(0.2 * clean[:, 1:5, 1:5] + 0.8 * 255))
    assert (square != clean).any(axis=(0, 3))[5:].sum() == 0
    assert (sway != clean).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(np.sort(sway, axis=2), np.sort(clean, axis=2))  # rows keep their pixels
    np.testing.assert_array_equal(sway[:, 4], np.roll(clean[:, 4], -3, axis=1))  # --amplitude 3, at a wave's crest


def test_an_attack_that_controls_training_leaves_its_trigger_and_is_measured(extended):
    kept = torch.load(extended / "output/late/trigger_info.th", weights_only=False)
    plain = table.checkerboard_1corner()
    np.testing.assert_array_equal(kept["trigger_pattern"][0], plain[0])
    assert results(extended, "late")["script"] == "attacks.late" and results(extended, "late")["asr"]["n"] > 300


def test_the_late_backdoors_batches_are_clean_until_its_epoch(extended):
    seen = [tuple(map(int, line.split())) for line in run(extended, IN_COPY.name, "count_stamped").stdout.splitlines()]
    assert seen == [(0, 10), (0, 10), (4, 5), (4, 5)]  # half of eight images, and they are called the target


@pytest.mark.parametrize("attack", ATTACKS)
def test_defenses_run_on_either_model_and_count_its_asr(extended, attack):
    for defense in ("strip", "squeeze"):
        found = results(extended, attack, defense)
        assert found["script"] == f"defenses.{defense}" and found["asr"]["n"] > 300
    assert results(extended, attack, "strip")["method"]["far"]["n"] == 40
    assert results(extended, attack, "squeeze")["method"]["bits"] == 3


def test_a_repair_trains_the_last_layer_alone_and_stands_in_the_matrix(extended):
    before, after = (torch.load(extended / "output/square" / path, weights_only=True)["state_dict"]
                     for path in ("model_last.th", "retrain-head/model_last.th"))
    moved = {name for name in before if not torch.equal(before[name], after[name]) and "running" not in name
             and "num_batches" not in name}
    assert moved == {"linear.weight", "linear.bias"}
    found, page = results(extended, "square", "retrain-head"), (extended / "output/report.html").read_text()
    row = re.search(r"<tr>(?:(?!</tr>).)*>retrained head<.*?</tr>", page, re.S).group()
    assert f"{100 * found['acc']['value']:.2f}" in row and f"{100 * found['asr']['value']:.2f}" in row


def test_a_new_network_is_attacked_and_defended_by_scripts_that_do_not_know_it(extended):
    for folder in (["plain"], ["plain", "anp", "pruned"], ["plain", "fine-prune"], ["plain", "neural-cleanse"],
                   ["badnets-pruning-aware"]):
        assert results(extended, *folder)["spec"]["arch"] == "plain"
    assert results(extended, "plain", "fine-prune")["method"]["layer"] == "stage3"
    assert results(extended, "plain", "fine-prune")["method"]["channels"] == 8  # four times the width of 2


def test_the_report_shows_every_run(extended):
    page = (extended / "output/report.html").read_text()
    assert "14 finished runs of 14" in page
    assert all(f"{attack}/{defense}" in page for attack in ATTACKS for defense in ("strip", "squeeze"))


def test_a_matrix_plans_them(extended):
    steps = json.loads(run(extended, IN_COPY.name, "plan").stdout)
    assert steps.keys() == {f"{cell}, seed 0" for cell in (
        *PLANNED, *(f"{defense} on {attack}" for defense in ("squeeze", "retrain-head", "strip", "abl")
                    for attack in PLANNED))}
    assert "--trigger-file out/late/seed-0/trigger_info.th" in " ".join(steps["abl on late, seed 0"])
    assert "defenses.squeeze" in steps["squeeze on sway, seed 0"]
    assert "--amplitude" in steps["sway, seed 0"] and "--amplitude" not in steps["square, seed 0"]


@pytest.mark.long
def test_the_other_scripts_that_poison_take_them_and_refuse_what_is_not_theirs(extended):
    sway, training = ["--poison-type", "sway"], ["train_backdoor", "--poison-type"]
    calls = [[script, *sway, "--amplitude", "4"] for script in ("studies.sweep_abl", "attacks.pruning_aware",
                                                                "defenses.abl")]
    calls += [[*training, "square", "--all-to-all"], [*training, "sway", "--all-to-all"],
              [*training, "square", "--amplitude", "1"], [*training, "sway", "--trigger-alpha", "1"]]
    swept, aware, isolated, everywhere, *refused = run(
        extended, IN_COPY.name, "parse", input=json.dumps(calls)).stdout.splitlines()
    assert "poison_rates=[0.1]" in swept and "poison_rate=0.1" in aware
    assert all("amplitude=4.0" in line for line in (swept, aware, isolated))
    assert "all_to_all=True" in everywhere and "poison_target=None" in everywhere
    said, only = zip(*(line.partition("error: ")[2].split(", only with ") for line in refused), strict=True)
    assert said == tuple(f"{flag}: has no effect with --poison-type {attack}" for flag, attack in (
        ("--all-to-all", "sway"), ("--amplitude", "square"), ("--trigger-alpha", "sway")))
    assert only[:2] == ("badnets, blend, square", "sway") and only[2].endswith(", square")
    done = run(extended, "train_backdoor.py", "--dataset", "digits", "--poison-type", "sway", "--amplitude", "99",
               "--output-dir", "output/refused", check=False)
    assert done.returncode == 2 and "expected an amplitude" in done.stderr
