"""A row for each run."""
from reporting.document import Cell, Section, Table, cell
from reporting.found import FINISHED, USUAL_ARCH

ORDER = 1000


def section(report):
    columns = ["run", "script", "state", "data set", "width", "epochs", "seed", "device", "seconds"]
    has_others = any(run.arch != USUAL_ARCH for run in report.runs)
    if has_others:
        columns.insert(columns.index("width"), "network")
    return Section("All runs", (Table(tuple(columns), tuple(row(run, has_others) for run in report.runs)),))


def row(run, names_network):
    """A run in one line; its network is named where the table has several."""
    return (Cell(run.name), Cell(run.script or "?"), Cell(run.state, mark="" if run.state == FINISHED else "bad"),
            cell(run.results.get("dataset")), *([Cell(run.arch)] if names_network else ()), cell(run.width),
            cell(run.results.get("epochs")), cell(run.results.get("seed")), cell(run.results.get("device")),
            cell(run.results.get("seconds"), "{:.0f}"))
