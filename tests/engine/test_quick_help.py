"""Every script's help with stand-ins for what takes long to import, beside its help with the real packages."""
from engine.command_line.quick_help import SLOW, asks_for_help

import importlib
import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT

from engine.catalogue import BY_MODULE

pytestmark = pytest.mark.slow

# Runs a module as the command line does, then prints which of the slow packages were really loaded.
RUN = f"""
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print("loaded:", *(name for name in {sorted(SLOW)} if hasattr(sys.modules.get(name), "__file__")))
"""


def run(*words, **options):
    """The finished process of Python called with `words`."""
    return subprocess.run([sys.executable, *words], cwd=options.pop("cwd", ROOT), capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"})


@pytest.mark.parametrize("module", BY_MODULE)
def test_help_is_the_same_without_pytorch_and_the_other_slow_packages(module, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(["--help"])
    wanted = capsys.readouterr().out  # of this process, in which PyTorch is loaded

    done = run("-c", RUN, module, "--help")
    assert (done.stderr, done.returncode) == ("", 0)
    found, _, loaded = done.stdout.rpartition("loaded:")
    assert found == wanted and f"usage: {BY_MODULE[module].command()} " in found
    assert loaded.split() == []


def test_a_mistake_before_the_help_is_still_one_line():
    done = run("train_backdoor.py", "--epochs", "many", "--help")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "train_backdoor.py: error: --epochs: expected a whole number of at least 1, got many\n"


@pytest.mark.parametrize(("flag", "base"), [("--help", "object"), ("--no-help", "Module")])
def test_a_package_of_scripts_needs_it_in_its_init_alone(tmp_path, flag, base):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/__init__.py").write_text("import engine.command_line.quick_help\n")
    (tmp_path / "studies/script.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Net(nn.Module):\n    pass\n\nprint(Net.__bases__[0].__name__)\n")
    done = run("-m", "studies.script", flag, cwd=tmp_path)
    assert (done.stdout, done.stderr) == (f"{base}\n", "")


@pytest.mark.parametrize(("words", "wanted"), [
    (["--help"], True), (["detect", "-h"], True), (["--seed", "1", "--help"], True), ([], False),
    (["--title=--help"], False), (["--", "--help"], False), (["--helpful"], False)])
def test_help_is_asked_for_by_a_flag_before_two_dashes(words, wanted):
    assert asks_for_help(words) is wanted
