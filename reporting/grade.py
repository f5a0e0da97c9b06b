"""The homework's criteria against what was logged."""
from dataclasses import dataclass

from reporting.candidates import (
    attack_of,
    has_usual_aim,
    measure_attack,
    measure_foreign_pruning,
    measure_log,
    measure_pruning,
    or_said,
)
from reporting.criteria import BACKDOORED, CRITERIA, NAMES
from reporting.found import LOG_ONLY, folders
from reporting.scripts import PRUNING
from reporting.shares import percent
from reporting.submission import ATTACKS, pruning_tables

PASSED, FAILED, NOT_MEASURED, NOT_COMPARABLE = "pass", "fail", "not measured", "not comparable"
NO_RUN = "no run found"


@dataclass(frozen=True)
class Line:
    """One line of the grade: a criterion, what is required, what was measured, and whether it is met.

    could_be_met: whether there is a run that the criterion is for.
    """

    criterion: str
    figure: str
    required: str
    measured: dict | None
    passed: bool
    source: str
    note: str
    could_be_met: bool = True

    @property
    def state(self):
        """PASSED, FAILED or NOT_MEASURED."""
        if self.passed:
            return PASSED
        return FAILED if self.could_be_met and self.measured else NOT_MEASURED


def pick(candidates, wanted):
    """(the measured run that is graded, names of the others): one on CIFAR-10, then the one in a folder of the attack's
    name, then finished ones, then the one in the fewest folders, then by name. Never by what it scored."""
    ranked = sorted(candidates, key=lambda one: (
        not one.is_comparable, wanted not in one.name.split("/"), one.asr is None, one.name.count("/"), one.name))
    return ranked[0], [one.name for one in ranked[1:]]


def lines_for(criterion, candidates, wanted, why=NO_RUN):
    """The two Lines, ASR's and ACC's, of a criterion. why: what the lines say where there are no candidates."""
    bounds = dict(zip(("ASR", "ACC"), CRITERIA[criterion], strict=True))
    if not candidates:
        return [Line(NAMES[criterion], figure, bound.text, None, False, "", why, could_be_met=False)
                for figure, bound in bounds.items()]
    graded, others = pick(candidates, wanted)
    notes = [graded.note] if graded.note else []
    if others:
        beyond = f" and {len(others) - 3} more" if len(others) > 3 else ""
        notes.append(f"not graded: {', '.join(others[:3])}{beyond}")
    lines = []
    for (figure, bound), share in zip(bounds.items(), (graded.asr, graded.acc), strict=True):
        inside = share is not None and bound.holds(100 * share["value"])
        near = share is not None and len({bound.holds(100 * end) for end in share["interval"]}) > 1
        more = [*notes, "the interval crosses the bound"] if near else notes
        lines.append(Line(NAMES[criterion], figure, bound.text, share, inside and graded.sound, graded.source,
                          "; ".join(more), graded.is_comparable))
    return lines


def grade(root, runs):
    """The homework's criteria as Lines, for the runs found beneath the folder `root`."""
    lines, has_backdoor = [], False
    for attack in ATTACKS:
        own = [or_said(run.name, measure_log, run, attack) if run.state == LOG_ONLY else or_said(
            run.name, measure_attack, run) for run in runs if run.state == LOG_ONLY or attack_of(run) == attack]
        own = [one for one in own if one]
        has_backdoor |= any(one.asr and one.asr["value"] >= BACKDOORED for one in own)
        lines += lines_for(attack, own, attack)
    own = [run for run in runs if run.script == PRUNING and has_usual_aim(run)]
    pruned = [or_said(run.name, measure_pruning, run) for run in own]
    idle = [run.name for run, measured in zip(own, pruned, strict=True) if measured is None]
    foreign = [or_said(name, measure_foreign_pruning, folder, name, has_backdoor) for folder, name in folders(root)
               if pruning_tables(folder)]
    why = f"no backdoor was there before pruning: {', '.join(idle[:3])}" if idle else NO_RUN
    return lines + lines_for("anp", [one for one in (*pruned, *foreign) if one], "badnets", why)


def in_text(line):
    """A line's result for a terminal, which also has the figures that do not count, such as those of other images."""
    if line.measured and not line.could_be_met:
        return NOT_COMPARABLE
    return FAILED.upper() if line.state == FAILED else line.state


def as_text(lines):
    """The grade as lines of text for a terminal."""
    table = [("criterion", "", "required", "measured, %", "", "where"),
             *((line.criterion, line.figure, line.required, percent(line.measured), in_text(line),
                "; ".join(part for part in (line.source, line.note) if part)) for line in lines)]
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip()
            for row in table]
