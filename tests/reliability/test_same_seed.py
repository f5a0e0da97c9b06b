"""One seed, one answer: every script that is run twice leaves the same files, and others with another seed."""
import pytest
from reliability.kill import SCRIPTS, TRAIN, compare, finish, words

pytestmark = pytest.mark.long
MORE = {  # scripts that kill.py has no use for, being short
    "strip": ("detect_strip.py", ["--dataset", "digits", "--checkpoint", "{model}", "--overlays", "3", "--inspect",
                                  "40"]),
    "unlearn": ("neural_cleanse.py unlearn", ["--dataset", "digits", "--checkpoint", "{model}", "--patch-with",
                                              "original"]),
    "noise": ("sweep_neuron_noise.py", ["--dataset", "digits", "--checkpoint", "{model}", "--val-frac", "0.05",
                                        "--epsilons", "0.2", "--seeds", "1", "--steps", "2"]),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    finish(words("train_backdoor.py", [*TRAIN, "--epochs", "2"], folder / "run", None))
    return folder / "run/model_last.th"


@pytest.mark.parametrize("name", [*(name for name in SCRIPTS if name != "anp-sweep"), *MORE])  # which has no seed
def test_one_seed_one_answer(name, model, tmp_path):
    script, flags, *_ = {**SCRIPTS, **MORE}[name]
    for folder, seed in (("first", 0), ("again", 0), ("other", 1)):
        finish(words(script, flags, tmp_path / folder, model, "--seed", str(seed)))
    assert compare(tmp_path / "first", tmp_path / "again") == []
    assert [line for line in compare(tmp_path / "first", tmp_path / "other") if "results.json" not in line]
