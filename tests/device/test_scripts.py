"""The scripts from end to end on the pretend GPU: no devices are mixed, and all that they write says where they ran.

What runs are the catalogue's short runs, and VARIANTS of it whose code for a GPU is another.
"""
import json
import subprocess
import sys
from pathlib import Path

import pytest
from device.pretend import NAME, pretend
from helpers.runs import RUNS, filled, main_of, short_words

from engine import cells

RUNNER = Path(__file__).with_name("run.py")
QUICK = ("train_backdoor", "generate_mask", "defenses.strip")  # the others are `long`
STREAMED = {"free": 1000}
# The script, more words for its short run (all of its words after a "="), and what the pretend GPU is.
VARIANTS = {
    "train, deterministic": ("train_backdoor", "--poison-type blend --deterministic", {}),
    "train, before Ampere": ("train_backdoor", "", {"capability": (7, 5)}),
    "train, bfloat16 before Ampere": ("train_backdoor", "--amp", {"capability": (7, 5)}),
    "train, float32": ("train_backdoor", "--no-amp", {}),
    "train, fast recipe": ("train_backdoor", "--recipe fast", {}),
    "train, strong recipe": ("train_backdoor", "--recipe strong", {}),
    "train, losses tracked": ("train_backdoor", "--track-losses", {}),
    "train, clean-label": ("train_backdoor", "--poison-type clean-label --clb-dir {clb}", {}),
    "train, ISSBA": ("train_backdoor", "--poison-type issba --encoder {encoder}", {}),
    "train, streamed": ("train_backdoor", "", STREAMED),
    "abl, deterministic": ("defenses.abl", "--deterministic", {}),
    "abl, each image's loss": ("defenses.abl", "--lga sample", {}),
    "abl, the batch's loss": ("defenses.abl", "--lga batch", {}),
    "abl, flooding": ("defenses.abl", "--flooding", {}),
    "abl, streamed": ("defenses.abl", "", STREAMED),
    "dfst, deterministic": ("attacks.dfst", "--deterministic", {}),
    "pruning-aware, a benign model given": (
        "attacks.pruning_aware", "= --dataset digits --epochs 1 --checkpoint {model}", {}),
    "anp, two ascents": ("generate_mask", "--anp-steps 2 --no-project", {}),
    "anp, deterministic": ("generate_mask", "--deterministic", {}),
    "anp, streamed": ("generate_mask", "", STREAMED),
    "prune by number": ("prune_network", "--pruning-by number --pruning-step 10", {}),
    "fine-prune, stage 2": ("defenses.fine_prune", "--layer layer2", {}),
    "fine-prune, deterministic": ("defenses.fine_prune", "--deterministic", {}),
    "fine-tune": ("defenses.fine_prune", "--mode fine-tune", {}),
    "craft, all iterations": ("generate_clb_attack", "--no-freeze-fooled", {}),
    "craft, deterministic": ("generate_clb_attack", "--deterministic", {}),
    "encoder, deterministic": ("attacks.issba_encoder", "--deterministic", {}),
    "encoder, streamed": ("attacks.issba_encoder", "", STREAMED),
    "unlearn, the original trigger": (
        "defenses.unlearn_trigger", "= --dataset digits --checkpoint {model} --patch-with original", {}),
    "neural-cleanse, streamed": ("defenses.neural_cleanse", "", STREAMED),
    "neural-cleanse, deterministic": ("defenses.neural_cleanse", "--deterministic", {}),
    "strip, streamed": ("defenses.strip", "", STREAMED),
    "noise, beside a benign model": ("studies.neuron_noise", "--benign {model2}", {}),
    "specificity, streamed": ("studies.specificity", "", STREAMED),
}


def run_short(module, made, folder, *more, **card):
    """Run a script's short run on a pretend GPU in this process; returns its Counts."""
    words = more[1:] if more[:1] == ("=",) else (*short_words(module), *more)
    words = [*filled(made, words), "--device", "cuda", "--output-dir", str(folder)]
    with pretend(**card) as counts:
        main_of(module)(words)
    return counts


def check_whole(folder):
    """That a folder holds finished runs, all of them made on the pretend GPU."""
    found = list(Path(folder).rglob("results.json"))
    assert found
    for path in found:
        assert json.loads(path.read_text())["device"] == NAME


@pytest.fixture
def cells_pretend_too(monkeypatch):
    """The scripts that a sweep starts run on a pretend GPU as well, in processes of their own."""
    real = subprocess.run

    def pretending(command, **options):
        place = command.index(sys.executable) + 1 if sys.executable in command else 0
        return real([*command[:place], RUNNER, *command[place:]] if place else command, **options)
    monkeypatch.setattr(cells.subprocess, "run", pretending)


@pytest.mark.parametrize("module", QUICK)
def test_a_script_runs_on_a_gpu(module, small_run, tmp_path):
    counts = run_short(module, {"model": small_run / "model_last.th"}, tmp_path / "run")
    check_whole(tmp_path / "run")
    assert counts.kernels.total() > 1000


@pytest.mark.long
@pytest.mark.parametrize("module", [module for module in RUNS if module not in QUICK])
def test_every_other_script_runs_on_a_gpu(module, made, tmp_path, cells_pretend_too):
    run_short(module, made, tmp_path / "run")
    check_whole(tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_runs_on_a_gpu(name, made, tmp_path):
    module, more, card = VARIANTS[name]
    run_short(module, made, tmp_path / "run", *more.split(), **card)
    check_whole(tmp_path / "run")


@pytest.mark.long
def test_strip_screens_a_folder_on_a_gpu(made, tmp_path, capsys):
    run_short("defenses.strip", made, tmp_path / "strip")
    capsys.readouterr()
    with pretend() as counts, pytest.raises(SystemExit) as ended:
        main_of("defenses.strip")(["--checkpoint", str(made["model"]), "--device", "cuda", "--calibration-file",
                                   str(tmp_path / "strip/strip.json"), "--images", str(made["pictures"] / "test")])
    rows = capsys.readouterr().out.splitlines()
    pictures = len(list((made["pictures"] / "test").rglob("*.png")))
    assert ended.value.code in (0, 1) and len(rows) == 1 + pictures and counts.kernels


