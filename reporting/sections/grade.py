"""The homework's criteria, where a run could meet one of them."""
from reporting.document import Cell, Section, Table, Text
from reporting.grade import FAILED, NOT_MEASURED, PASSED
from reporting.shares import percent

ORDER = 20
STATES = {PASSED: Cell(PASSED, 1, "good"), FAILED: Cell(FAILED, 0, "bad"), NOT_MEASURED: Cell(NOT_MEASURED, -1, "soft")}


def section(report):
    if report.audit or not any(line.could_be_met for line in report.lines):
        return None
    return Section("Against the homework's criteria", (
        Text("The criteria are for ResNet-18 at its full width and 50 epochs (the homework's loop makes 49) on "
             "CIFAR-10. A run on other images does not count. One of another width or network counts, and its line "
             "says so."),
        Table(("criterion", "required, %", "measured, %", "", "where it is logged", "note"),
              tuple(map(row, report.lines)))))


def row(line):
    """A line of the grade. A figure that does not count for its criterion is left to the other sections."""
    measured = None if line.state == NOT_MEASURED else line.measured
    return (Cell(f"{line.criterion} {line.figure}"), Cell(line.required),
            Cell(percent(measured), measured and measured["value"]), STATES[line.state], Cell(line.source or "–"),
            Cell(line.note))
