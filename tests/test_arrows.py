"""Which module may import which: from above to below, and never in a circle."""
import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from helpers.paths import ROOT

SCRIPT_FOLDERS = ("attacks", "defenses", "studies")
ROOMS = (*SCRIPT_FOLDERS, "reporting", "workflow", "benchmarks", "methods", "engine", "data", "models", "common",
         "docs")
FLOORS = ("common", "models", "data", "engine", "methods", "scripts")  # each may import itself and those before it
# The rooms of engine, each of which may import those before it; what stands outside them says which scripts there are.
ENGINE = ("command_line", "weights", "measuring", "drawing", "runs", "learning", "attacking", "defending")
BESIDE = {  # what stands beside the scripts may import besides all below them
    "scripts": {"reporting"},  # report.py is its script, and a study of several runs reads them as FinishedRun
    "reporting": set(),
    "workflow": set(),  # it takes scripts by name, as a user does
    "benchmarks": {"scripts", "reporting"},  # they time the scripts' own functions
    "docs": set()}
# Triggers that are networks: all of data/ that may import models/.
NETWORK_TRIGGERS = ("data.triggers.encoder", "data.triggers.generated", "data.triggers.style")
BY_NAME = {"workflow.steps": "parses the flags of scripts before anything starts",
           "reporting.sections": "finds its own sections",
           "models": "finds its own networks",
           "data.sources": "finds its own loaders, whose libraries take long to import",
           "data.triggers.info": "finds the kinds of triggers, of which one needs PyTorch"}


def source_files():
    return [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_of(path): ast.parse(path.read_text(), path) for path in source_files()}


def room_of(module):
    head = module.partition(".")[0]
    return head if head in ROOMS and head not in SCRIPT_FOLDERS else "scripts"


def imports_of(tree):
    """The modules of the suite that a file imports, anywhere in it but for annotations alone."""
    found, of_annotations = set(), {
        part for node in ast.walk(tree) if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for part in ast.walk(node)}
    for node in ast.walk(tree):
        if node in of_annotations:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & TREES.keys() or {node.module}
    return {name for name in found if name.partition(".")[0] in {*ROOMS, *TREES}}


IMPORTS = {module: imports_of(tree) for module, tree in TREES.items()}


def below(room):
    """The rooms that a room may import."""
    floor = FLOORS.index(room) if room in FLOORS else len(FLOORS) - 1
    return {room, *FLOORS[:floor]} | BESIDE.get(room, set())


def is_allowed(module, imported):
    own, other = room_of(module), room_of(imported)
    if (own, other) == ("data", "models"):
        return module in NETWORK_TRIGGERS
    if own == other == "scripts":
        return module == imported
    return other in below(own)


def arrows_up(imports):
    return sorted(f"{module} imports {imported}" for module, found in imports.items() for imported in found
                  if not is_allowed(module, imported))


def test_no_import_runs_up_and_no_script_imports_a_script():
    assert arrows_up(IMPORTS) == []


@pytest.mark.parametrize("module, imported", [
    ("common.files", "data.datasets"), ("models.resnet", "data.batches"), ("data.triggers", "models.steganography"),
    ("data.batches", "engine.runs.run"), ("engine.runs.run", "methods.screening"),
    ("engine.runs.run", "train_backdoor"),
    ("methods.screening", "defenses.strip"), ("methods.screening", "reporting.found"),
    ("reporting.found", "studies.audit"), ("workflow.plan", "defenses.abl"), ("defenses.abl", "train_backdoor"),
    ("defenses.abl", "defenses.strip"), ("studies.audit", "workflow.plan"), ("report", "benchmarks.all")])
def test_an_arrow_up_would_be_found(module, imported):
    assert arrows_up({module: {imported}}) == [f"{module} imports {imported}"]


def test_every_import_of_the_suite_names_a_file_that_is_there():
    assert {(module, name) for module, found in IMPORTS.items() for name in found if name not in TREES} == set()


@pytest.mark.parametrize("level", ["rooms", "modules"])
def test_no_imports_run_in_a_circle(level):
    graph = IMPORTS
    if level == "rooms":
        graph = {}
        for module, found in IMPORTS.items():
            graph.setdefault(room_of(module), set()).update(map(room_of, found))
    try:
        TopologicalSorter({name: found - {name} for name, found in graph.items()}).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def engine_room(module):
    """The number of a module's room in ENGINE, -1 for what stands outside them, None outside engine."""
    head, _, rest = module.partition(".")
    if head != "engine":
        return None
    room = rest.partition(".")[0]
    return ENGINE.index(room) if room in ENGINE else -1


def test_the_rooms_of_engine_import_only_those_below():
    assert [f"{module} imports {imported}" for module, found in IMPORTS.items() for imported in found
            if None not in (engine_room(module), engine_room(imported))
            and engine_room(module) < engine_room(imported)] == []


def test_every_module_of_engine_stands_in_a_room_or_says_which_scripts_there_are():
    assert {module for module in TREES if engine_room(module) == -1} == {
        "engine", "engine.catalogue", "engine.cells", "engine.former_names", "engine.missing", "engine.rows"}
    assert {path.name for path in (ROOT / "engine").iterdir() if path.is_dir() and path.name != "__pycache__"} == set(
        ENGINE)


def test_scripts_are_taken_by_name_only_where_it_is_said():
    taken = {module for module, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.Call)
             and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__")}
    assert taken <= BY_NAME.keys()


def test_the_catalogue_stands_below_all_that_reads_it():
    assert IMPORTS["engine.catalogue"] == {"data.triggers", "engine.rows"} and not IMPORTS["engine.rows"]


def test_the_snakefile_imports_what_is_there():
    lines = (ROOT / "workflow/Snakefile").read_text().splitlines()
    tree = ast.parse("\n".join(line for line in lines if line.startswith(("from ", "import "))))
    assert imports_of(tree) and imports_of(tree) <= TREES.keys()
