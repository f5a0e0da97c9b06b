"""What keeps the code readable in one pass: short mains, functions and files, and imports that only lead down."""
import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from helpers.paths import ROOT

MAIN, FUNCTION, FILE = 30, 50, 320  # lines at most


def source_files():
    """The suite's Python files without the tests, {path from the root: text}."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name not in ("tests", "output", "results")
               and not path.name.startswith(".")]
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(paths)}


def too_long(name, text):
    """[what of a file is longer than it may be]."""
    found = [f"{name}: {len(text.splitlines())} lines"] if len(text.splitlines()) > FILE else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if lines > (MAIN if node.name == "main" else FUNCTION):
                found.append(f"{name}: {node.name} has {lines} lines")
    return found


def test_sizes():
    files = source_files()
    assert {"train_backdoor.py", "defenses/strip.py", "engine/runs/run.py", "benchmarks/training.py"} <= files.keys()
    assert [line for name, text in files.items() for line in too_long(name, text)] == []


def test_what_is_a_line_too_long_is_found():
    def function(name, lines):
        return f"def {name}():\n" + "    pass\n" * (lines - 1)
    assert too_long("a.py", function("main", MAIN) + function("other", FUNCTION)) == []
    assert too_long("a.py", function("main", MAIN + 1)) == ["a.py: main has 31 lines"]
    assert too_long("a.py", "class A:\n" + "    def f(self):\n" + "        pass\n" * FUNCTION) == [
        "a.py: f has 51 lines"]
    assert too_long("a.py", "\n" * (FILE + 1)) == ["a.py: 321 lines"]


def imports(texts):
    """{file: the files that it imports anywhere, in functions and for annotations too} of {path: text}."""
    files = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in texts}
    found = {}
    for name, text in texts.items():
        nodes = list(ast.walk(ast.parse(text)))
        wanted = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[name] = {files[module] for module in wanted if module in files} - {name}
    return found


def test_no_file_imports_one_that_imports_it():
    found = imports(source_files())
    assert "engine/runs/run.py" in found["train_backdoor.py"] and len(found) > 150
    TopologicalSorter(found).prepare()


def test_imports_that_lead_in_a_circle_are_found():
    circle = {"data/a.py": "from data.b import x", "data/b.py": "def f():\n    from data import a", "c.py": ""}
    with pytest.raises(CycleError):
        TopologicalSorter(imports(circle)).prepare()


def test_a_floor_imports_only_those_below_it():
    below = {"common": (), "models": ("common",), "data": ("models", "common"), "engine": ("data", "models", "common"),
             "methods": ("engine", "data", "models", "common")}
    scripts = ("attacks/", "defenses/", "studies/", "train_backdoor", "generate_", "prune_network", "report.py")
    for name, others in imports(source_files()).items():
        floor = name.split("/")[0]
        if floor in below:
            assert {other.split("/")[0] for other in others} <= {floor, *below[floor]}, name
        elif floor in ("attacks", "defenses"):
            assert not any(other.startswith(scripts) and not other.endswith("__init__.py") for other in others), name
