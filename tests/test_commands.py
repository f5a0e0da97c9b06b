"""Every command that the pages and the scripts' docstrings print.

The scripts' own run as printed, on a small image folder and with the catalogue's small flags at their end; what must
have run before is in the catalogue too. Of commands on figures that took hours the flags alone are read, and of those
of other programs their --help. Make targets exist.
"""
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from helpers import in_process
from helpers.images import write_noise
from helpers.paths import ROOT
from helpers.runs import main_of

from engine.catalogue import BY_MODULE, gifts
from engine.missing import first_runs
from engine.rows import REPORT

pytestmark = pytest.mark.slow

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MEASURED = [ROOT / name / "README.md" for name in ("results", "zoo", "benchmarks")]  # their commands take hours
EVERY = [*PAGES, *MEASURED]
FOLDER = "my/images"
STARTS = ("python ", "make ")


def in_blocks(text):
    """The commands in a page's blocks of code, in order, without their comments."""
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip().startswith(STARTS)]


def in_lines(text):
    """The commands within a page's sentences, but those that leave something out (...) or name something (NAME)."""
    found = [" ".join(command.split()) for command in re.findall(r"`((?:python|make) [^`]+)`", text)]
    return [command for command in found if not re.search(r"\.\.\.|…|<|NAME|FILE|PROFILE", command)]


def in_docstring(module):
    """The commands that a script's docstring opens with."""
    return re.findall(r"^    (python .*)$", importlib.import_module(module).__doc__, re.MULTILINE)


def commands_of(pages, find=in_blocks):
    return [command for page in pages for command in find(page.read_text())]


def unique(commands, start):
    return [command for command in dict.fromkeys(commands) if command.startswith(start)]


PRINTED = unique(
    [*commands_of(PAGES), *(command for module in BY_MODULE for command in in_docstring(module))], "python")
MENTIONED = unique([*commands_of(MEASURED), *commands_of(EVERY, in_lines)], "python")


def parts(command):
    """(module, flags) of `python x.py flags` and `python -m x flags`."""
    _, first, *words = shlex.split(command)
    return (words[0], words[1:]) if first == "-m" else (first.removesuffix(".py").replace("/", "."), words)


class Checkout:
    """A folder to stand in, in which every command runs once, after those that it needs."""

    def __init__(self, folder):
        self.folder, self.done = folder, set()

    def run(self, command):
        """Run a command as printed, small, unless it has been."""
        if command not in self.done:
            module, flags = parts(command)
            for needed in needed_by(module, flags):
                self.run(needed)
            call(module, [*flags, *smaller(module, flags)])
            self.done.add(command)


def needed_by(module, flags):
    """The commands that must have run before a script, by the catalogue."""
    lines = list(BY_MODULE[module].after) if module in BY_MODULE else []
    lines += [script.module for attack, (script, _) in gifts().items() if attack in flags]
    for flag in {"--trigger-file", "--leave-out"}.intersection(flags):
        yield from first_runs(Path(flags[flags.index(flag) + 1]))
    for line in lines:
        needed, *words = line.split()
        yield " ".join([BY_MODULE[needed].command(), *words]) if words else in_docstring(needed)[0]


def smaller(module, flags):
    """What is appended to a command, for it to read the small folder and have little to do."""
    script = BY_MODULE.get(module)
    if script is None or script.kind == REPORT or "--images" in flags:
        return []
    is_short = any(not cell.is_heavy and set(cell.flags.values()) <= set(flags) for cell in script.cells)
    milestones = ["--milestones"] if "--milestones" in flags else []  # none
    images = [] if "digits" in flags else ["--data-dir", FOLDER]
    small = [] if is_short else script.small.split()
    if "--start-from" in flags:  # which decides the width
        place = small.index("--width")
        del small[place:place + 2]
    return [*small, *milestones, *images]


def call(module, words):
    """Call a script in this process. Exit status 1 is a verdict: of the grade, of STRIP."""
    try:
        importlib.import_module(module).main(words)
    except SystemExit as ended:
        assert ended.code in (0, 1), f"{module} {' '.join(words)}: status {ended.code}"


def is_ours(module):
    """Whether a command runs in seconds, once it is made small."""
    return module in BY_MODULE or module.startswith("reporting.")


def is_sweep(command):
    module, _ = parts(command)
    return module in BY_MODULE and BY_MODULE[module].is_sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Checkout with small images where the pages put a reader's own."""
    root = tmp_path_factory.mktemp("checkout")
    write_noise(root / FOLDER, ("ant", "bee", "cow"), count=40)
    (root / "my/inbox").symlink_to(root / FOLDER / "test/ant")
    return Checkout(root)


@pytest.fixture
def checkout(folder, monkeypatch):
    monkeypatch.chdir(folder.folder)
    in_process.stay(monkeypatch)
    return folder


def test_the_pages_have_commands():
    assert len(commands_of([ROOT / "README.md"])) >= 4 and len(PRINTED) > len(BY_MODULE) and MENTIONED


@pytest.mark.parametrize("module", BY_MODULE)
def test_every_script_opens_with_a_command(module):
    assert [command for command in in_docstring(module) if parts(command)[0] == module]


@pytest.mark.parametrize("command", [
    pytest.param(command, marks=pytest.mark.long) if is_sweep(command) else command
    for command in PRINTED if is_ours(parts(command)[0])], ids=str)
def test_a_printed_command_runs(command, checkout):
    checkout.run(command)


@pytest.mark.parametrize("command", [
    command for command in (*PRINTED, *MENTIONED) if parts(command)[0] not in BY_MODULE])
def test_another_program_that_is_named_is_there_and_has_a_help(command, capsys):
    module, flags = parts(command)
    if (ROOT / module / "__main__.py").exists():  # a package that is run, as python -m workflow
        module = f"{module}.__main__"
    assert callable(main_of(module))
    if flags or hasattr(importlib.import_module(module), "parse_args"):
        with pytest.raises(SystemExit) as ended:
            main_of(module)(["--help"])
        assert ended.value.code == 0 and "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("command", [command for command in MENTIONED if parts(command)[0] in BY_MODULE])
def test_a_command_that_is_mentioned_has_flags_that_its_script_takes(command):
    module, flags = parts(command)
    importlib.import_module(module).parse_args(flags)


@pytest.mark.parametrize("command", unique([*commands_of(EVERY), *commands_of(EVERY, in_lines)], "make"))
def test_every_make_target_exists(command):
    assert subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True).returncode == 0
