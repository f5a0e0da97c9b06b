"""What keeps the code readable in one pass: short mains, functions and files."""
import ast

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
