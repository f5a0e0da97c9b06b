"""What scripts measure besides ACC and ASR, by the titles that their rows in the catalogue have."""
from reporting.document import Cell, Section, Table, Text
from reporting.found import FINISHED
from reporting.own_figures import figure_cell, full_title
from reporting.scripts import own_figures
from reporting.tables import conditions

ORDER = 45


def section(report):
    measured = [(run, own_figures(run.script, run.method)) for run in report.runs if run.state == FINISHED]
    rows = tuple((Cell(run.name), Cell(full_title(*figure)), figure_cell(*figure))
                 for run, figures in measured for figure in figures)
    if not rows:
        return None
    return Section("Further figures", (
        Text("What attacks, what is made for them, and some defenses measure besides ACC and ASR. "
             f"{conditions([run for run, figures in measured if figures])}"),
        Table(("run", "figure", "value"), rows)))
