"""What lies in the folder, and what could not be read."""
from reporting.document import Cell, Section, Table, Text
from reporting.found import FINISHED
from reporting.tables import conditions

ORDER = 10


def section(report):
    runs = report.runs
    finished = [run for run in runs if run.state == FINISHED]
    others = [run for run in runs if run.state != FINISHED]
    blocks = [Text(f"{len(finished)} finished runs. {conditions(finished)} ASR (triggered images given the label "
                   "that the attacker wants), ACC (clean images given their label) and robust ACC (triggered images "
                   "still given their own label) are in %, in brackets their 95 % Wilson intervals. Scripts choose "
                   "thresholds and stopping points on the defender's clean images; a figure that looked at the test "
                   "set is called oracle.")]
    if others:
        blocks.append(Text(f"{len(others)} of the {len(runs)} runs found are not finished, cannot be read, or are of "
                           "a model that was trained anew since. Their figures are left out below, except for logs "
                           "that are graded:"))
        blocks.append(Table(("run", "state", "why"), tuple(
            (Cell(run.name), Cell(run.state, mark="bad"), Cell(run.why)) for run in others)))
    damaged = [run.name for run in finished if run.has_damaged_metrics]
    if damaged:
        blocks.append(Text(f"Without their curves, since metrics.jsonl is damaged: {', '.join(damaged)}."))
    return Section("What lies here", tuple(blocks))
