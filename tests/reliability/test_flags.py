"""Every flag of every script changes what the run leaves; those that are not to change anything leave it as it was.

Another value of a flag is found from its kind (another choice, another number). Where that does not do, as for files,
SHARED has one for all scripts, and `other` in a script's row of the catalogue one for that script.
"""
import importlib
from argparse import BooleanOptionalAction

import pytest
from helpers.comparing import compare
from helpers.runs import FOLDER, RUNS, filled, flags_of, main_of, short_words

from engine.catalogue import BY_MODULE

pytestmark = pytest.mark.long

# What another value is: words, or (more words for the run it is compared with, words).
SHARED = {
    "poison_rate": "0.4", "trigger_alpha": "0.5", "poison_type": "blend", "trigger_image": "{png}",
    "sources": "3 5",
    "trigger_info": "{trigger2}",
    "encoder": ("--poison-type issba --encoder {encoder}", "{encoder2}"),
    "trigger_file": ("--poison-type stored --trigger-file {trigger}", "{trigger2} --poison-target 1"),
    "clb_dir": ("--poison-type clean-label --clb-dir {clb}", "{clb2}"),
    "patch": ("--poison-type trojan --patch {patch}", "{patch2}"),
    "fc_dir": ("--poison-type feature-collision --fc-dir {collided}", "{collided2}"),
    "sig_delta": ("--poison-type sig", "30"), "sig_frequency": ("--poison-type sig", "3"),
    "eval_trigger": ("--poison-type benign", "blend"), "data_dir": (" ".join(FOLDER), "{pictures2}"),
    "label_smoothing": "0.2", "cutout": "4", "milestones": ("--epochs 3 --milestones 1 2", "1"),
    "crop_padding": "3",
    "pruning_max": "0.5", "pruning_step": "0.4", "checkpoint": "{model2}", "max_drop": "0.5", "val_frac": "0.06"}
SAME = {"device": ["--device", "cpu"], "compile": ["--compile"], "deterministic": ["--deterministic"]}
ELSEWHERE = {  # flags that other tests have, and why not this one
    "help", "output_dir", "overwrite", "resume",  # where a run lies, and whether it goes on: tests/engine/test_run.py
    "dataset",  # digits, which come alone, beside which no other folder may be named: tests/data/test_datasets.py
    "MODEL", "IMAGES",  # words without a flag: tests/studies/test_audit.py
    "arch",  # whose values have a test of their own: tests/models
    "mean", "std", "channels",  # for weights without a spec: tests/engine/test_doubt.py
    "benign_mean", "benign_std", "benign_channels",  # the same of a second model: tests/studies/test_neuron_noise.py
    "image_size",  # a trigger and a model of another size go with it: tests/test_image_size.py
    "classes",  # of a model without names of its own: tests/engine/test_suspect.py
    "graph",  # for a CUDA device: tests/engine/test_graphs.py
}


def actions_of(module):
    """{name: argparse's action} of the flags of a script that are looked at here."""
    other = BY_MODULE[module].other
    return {name: action for name, action in flags_of(module).items()
            if name not in ELSEWHERE and other.get(name, "") is not None}


def another(action, value):
    """The words that give a flag another value than `value`, found from its kind."""
    flag = action.option_strings[0]
    if action.nargs == 0 or isinstance(action, BooleanOptionalAction):  # whose None is no, on a CPU
        return [f"--no-{flag[2:]}" if value and isinstance(action, BooleanOptionalAction) else flag]
    if action.choices:
        return [flag, next(str(choice) for choice in action.choices if choice != value)]
    value = value[0] if isinstance(value, list) else value
    if isinstance(value, (int, float)):
        return [flag, str(value + 1 if isinstance(value, int) else value / 2 or 0.5)]
    raise AssertionError(f"{flag}: has {value}; name another value in its script's row of the catalogue, under `other`")


def other_words(module, action, made):
    """(words of a run, the words in addition that change the flag's value)."""
    value = BY_MODULE[module].other.get(action.dest, SHARED.get(action.dest))
    before, value = value if isinstance(value, tuple) else ("", value)
    words = before[1:].split() if before.startswith("=") else [*short_words(module), *before.split()]
    if value is None or value == "":
        args = importlib.import_module(module).parse_args(filled(made, words))
        return words, another(action, getattr(args, action.dest))
    return words, [action.option_strings[0], *value.split()]


def cases(wanted):
    """(module, flag) of all scripts that are no sweeps for which wanted(Script, flag)."""
    return [(module, name) for module in RUNS if not BY_MODULE[module].is_sweep for name in actions_of(module)
            if wanted(BY_MODULE[module], name)]


@pytest.fixture(scope="module")
def left(made, tmp_path_factory):
    """left(module, words): the folder of a run with these words, made once."""
    before = {}

    def run(module, words):
        called = (module, *filled(made, words))
        if called not in before:
            before[called] = tmp_path_factory.mktemp("left") / "run"
            main_of(module)([*called[1:], "--output-dir", str(before[called])])
        return before[called]
    return run


def differing(one, other, name):
    """What differs between two runs' files, where the flag's own value is not looked at."""
    return [line for line in compare(one, other, aside={name, "command", "parent"}) if "output.log" not in line]


@pytest.mark.parametrize("module, name", cases(lambda script, name: name not in SAME))
def test_a_flag_changes_what_the_run_leaves(module, name, made, left):
    words, more = other_words(module, actions_of(module)[name], made)
    assert differing(left(module, words), left(module, [*words, *more]), name)


@pytest.mark.parametrize("module, name", cases(lambda script, name: name in SAME and name != "compile"))
def test_a_flag_that_is_to_change_nothing_changes_nothing(module, name, left):
    words = short_words(module)
    assert differing(left(module, words), left(module, [*words, *SAME[name]]), name) == []


def calls_of(module, words, folder, monkeypatch):
    """What a sweep would run: the arguments of every cell, none of which is run."""
    calls = []

    def stop(folder, *arguments):
        calls.append(arguments)
        return {}, ""  # as if it had left nothing, which ends the cell
    monkeypatch.setattr(importlib.import_module(module), "run_cell", stop)
    with pytest.raises(SystemExit):
        main_of(module)([*words, "--output-dir", str(folder)])
    return calls


@pytest.mark.parametrize("module, name", [
    (module, name) for module in RUNS if BY_MODULE[module].is_sweep for name in actions_of(module)])
def test_a_flag_of_a_sweep_reaches_its_cells(module, name, made, tmp_path, monkeypatch):
    action = actions_of(module)[name]
    words, more = (short_words(module), SAME[name]) if name in SAME else other_words(module, action, made)
    calls = [calls_of(module, filled(made, [*words, *end]), tmp_path / "sweep", monkeypatch) for end in ([], more)]
    assert calls[0] and calls[0] != calls[1]
