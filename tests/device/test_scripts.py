"""The scripts from end to end on the pretend GPU: no devices are mixed, and all that they write says where they ran.

What runs is the table of short runs, and VARIANTS of it whose code for a GPU is another.
"""
import json
import subprocess
import sys
from pathlib import Path

import pytest
from device.pretend import NAME, pretend
from device.small import script_of
from reliability.short_runs import SCRIPTS, filled

from engine import cells

RUNNER = Path(__file__).with_name("run.py")
QUICK = ("train", "anp", "strip")  # the others are `long`
STREAMED = {"free": 1000}
# The script, more words for its short run (all of its words after a "="), and what the pretend GPU is.
VARIANTS = {
    "train, deterministic": ("train", "--poison-type blend --deterministic", {}),
    "train, before Ampere": ("train", "", {"capability": (7, 5)}),
    "train, bfloat16 before Ampere": ("train", "--amp", {"capability": (7, 5)}),
    "train, float32": ("train", "--no-amp", {}),
    "train, fast recipe": ("train", "--recipe fast", {}),
    "train, losses tracked": ("train", "--track-losses", {}),
    "train, clean-label": ("train", "--poison-type clean-label --clb-dir {clb}", {}),
    "train, ISSBA": ("train", "--poison-type issba --encoder {encoder}", {}),
    "train, streamed": ("train", "", STREAMED),
    "abl, deterministic": ("abl", "--deterministic", {}),
    "abl, each image's loss": ("abl", "--lga sample", {}),
    "abl, the batch's loss": ("abl", "--lga batch", {}),
    "abl, flooding": ("abl", "--flooding", {}),
    "abl, streamed": ("abl", "", STREAMED),
    "pruning-aware, a benign model given": ("pruning-aware", "= --dataset digits --epochs 1 --checkpoint {model}", {}),
    "anp, two ascents": ("anp", "--anp-steps 2 --no-project", {}),
    "anp, deterministic": ("anp", "--deterministic", {}),
    "anp, streamed": ("anp", "", STREAMED),
    "prune by number": ("prune", "--pruning-by number --pruning-step 10", {}),
    "fine-prune, stage 2": ("fine-prune", "--layer layer2", {}),
    "fine-prune, deterministic": ("fine-prune", "--deterministic", {}),
    "fine-tune": ("fine-prune", "--mode fine-tune", {}),
    "craft, all iterations": ("craft", "--no-freeze-fooled", {}),
    "craft, deterministic": ("craft", "--deterministic", {}),
    "encoder, deterministic": ("encoder", "--deterministic", {}),
    "encoder, streamed": ("encoder", "", STREAMED),
    "unlearn, the original trigger": (
        "unlearn", "= unlearn --dataset digits --checkpoint {model} --patch-with original", {}),
    "neural-cleanse, streamed": ("neural-cleanse", "", STREAMED),
    "neural-cleanse, deterministic": ("neural-cleanse", "--deterministic", {}),
    "strip, streamed": ("strip", "", STREAMED),
    "noise, beside a benign model": ("noise", "--benign {model2}", {}),
    "specificity, streamed": ("specificity", "", STREAMED),
}


def run_short(name, made, folder, *more, **card):
    """Run a script's short run on a pretend GPU in this process; returns its Counts."""
    words = more[1:] if more[:1] == ("=",) else (*SCRIPTS[name][1], *more)
    words = [*filled(made, words), "--device", "cuda", "--output-dir", str(folder)]
    with pretend(**card) as counts:
        script_of(name).main(words)
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


@pytest.mark.parametrize("name", QUICK)
def test_a_script_runs_on_a_gpu(name, small_run, tmp_path):
    counts = run_short(name, {"model": small_run / "model_last.th"}, tmp_path / "run")
    check_whole(tmp_path / "run")
    assert counts.kernels.total() > 1000


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in QUICK])
def test_every_other_script_runs_on_a_gpu(name, made, tmp_path, cells_pretend_too):
    run_short(name, made, tmp_path / "run")
    check_whole(tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_runs_on_a_gpu(name, made, tmp_path):
    script, more, card = VARIANTS[name]
    run_short(script, made, tmp_path / "run", *more.split(), **card)
    check_whole(tmp_path / "run")


@pytest.mark.long
def test_strip_screens_a_folder_on_a_gpu(made, tmp_path, capsys):
    run_short("strip", made, tmp_path / "strip")
    capsys.readouterr()
    with pretend() as counts, pytest.raises(SystemExit) as ended:
        script_of("strip").main(["--checkpoint", str(made["model"]), "--device", "cuda", "--calibration-file",
                                 str(tmp_path / "strip/strip.json"), "--images", str(made["pictures"] / "test")])
    rows = capsys.readouterr().out.splitlines()
    pictures = len(list((made["pictures"] / "test").rglob("*.png")))
    assert ended.value.code in (0, 1) and len(rows) == 1 + pictures and counts.kernels


