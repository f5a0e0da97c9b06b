"""engine/catalogue.py has a row a script, and nothing else keeps a list of scripts."""
import ast
from collections import Counter

import pytest
from helpers.paths import ROOT
from helpers.runs import flags_of

from engine.catalogue import BY_MODULE, SCRIPTS

FOLDERS = ("attacks", "defenses", "studies")
ELSEWHERE = {
    "engine/catalogue.py": "the list",
    "engine/former_names.py": "earlier names, whose runs are still read",
    "benchmarks/gpu_jobs.py": "chooses what is timed on a GPU, and with which flags",
    "benchmarks/all.py": "its headings say which script each benchmark is about",
    "benchmarks/breakdown.py": "its rows say which script's loop each one times",
    "studies/sweep_anp.py": "calls the two scripts that it is a sweep of",
    "studies/sweep_abl.py": "calls the two scripts that it is a sweep of"}


def script_files():
    """The modules of all files that are scripts by where they lie."""
    top = [path.stem for path in ROOT.glob("*.py")]
    return top + [f"{folder}.{path.stem}" for folder in FOLDERS for path in (ROOT / folder).glob("*.py")
                  if path.stem != "__init__"]


def test_every_script_has_exactly_one_row_and_every_row_a_file():
    assert Counter(script.module for script in SCRIPTS) == Counter(script_files())


@pytest.mark.parametrize("module", [module for module, script in BY_MODULE.items() if script.leaves_run])
def test_a_script_takes_a_seed_if_it_draws_anything(module):
    script = BY_MODULE[module]
    assert bool({"seed", "seeds"} & set(flags_of(module))) == script.draws


def script_called(text):
    """The module of the script that a string names or begins a command with; None if it does neither."""
    words = [word for word in text.replace(",", " ").split() if word not in ("python", "-m")]
    module = words[0].removesuffix(".py") if words else ""
    if module not in BY_MODULE or (len(words) > 1 and words[0] == "report"):  # which is a word of English, too
        return None
    return module


def scripts_called(source):
    """The modules of all scripts that a source file's strings call, docstrings aside."""
    tree, docstrings = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            docstrings.add(node.body[0].value)
    texts = [node.value for node in ast.walk(tree)
             if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings]
    return set(map(script_called, texts)) - {None}


@pytest.mark.parametrize("source, found", [
    ('"""Runs train_backdoor.py."""\nx = ["generate_mask", "python prune_network.py --threshold 0.2"]',
     {"generate_mask", "prune_network"}),
    ('{"python -m defenses.strip": 1, "defenses.abl, stage 1": 2}', {"defenses.strip", "defenses.abl"}),
    ('x = "see train_backdoor.py"; y = "report of all"; z = "report"', {"report"}), ("import train_backdoor", set())])
def test_strings_that_call_a_script_are_found(source, found):
    assert scripts_called(source) == found


def test_no_other_file_names_two_scripts():
    found = {}
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith((".", "tests/", "docs/", "output/", "results/")):
            continue
        called = scripts_called(path.read_text()) - {name.removesuffix(".py").replace("/", ".")}
        if len(called) > 1 and name not in ELSEWHERE:
            found[name] = sorted(called)
    assert not found


@pytest.mark.parametrize("name", list(ELSEWHERE))
def test_an_exception_is_still_needed(name):
    assert len(scripts_called((ROOT / name).read_text())) > 1
