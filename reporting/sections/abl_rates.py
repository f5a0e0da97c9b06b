"""ABL over poisoning and isolation rates, beside what the lecture prints."""
from reporting.charts import isolation_curves
from reporting.document import Cell, Section, Table, Text, cell
from reporting.groups import name_apart
from reporting.groups import settings as settings_of
from reporting.published_rates import at_rates
from reporting.tables import PERCENT, conditions, share_cell, shares

ORDER = 102
COLUMNS = ("attack", "poisoned, %", "isolated, %", "unlearned in", "seed", "of them poisoned",
           "of the poisoned isolated", "ASR", "ACC", "CA-9", "published ASR", "published CA", "epochs")


def section(report):
    found = at_rates(report.runs)
    if not found:
        return None
    return Section("ABL over poisoning and isolation rates", (
        Text("Rows without an isolation rate are the models without a defense. The lecture prints figures for 10, 50 "
             "and 70 % poisoned, all with 1 % isolated. "
             f"{conditions([one.run for one in found])}"),
        Table(COLUMNS, tuple(map(row, found))), *isolation_curves(panels(found))))


def panels(found):
    """[(attack and share poisoned, in words, [run])] of ABL's runs that differ in the isolation rate, and at most in
    the seed besides."""
    groups = {}
    for one in found:
        if one.isolated is not None:
            settings = {name: value for name, value in settings_of(one.run).items() if name != "isolation_rate"}
            title = f"{one.attack}, {100 * one.poisoned:.3g} % poisoned"
            groups.setdefault((title, repr(sorted(settings.items()))), (settings, []))[1].append(one)
    several = [(title, settings, own) for (title, _), (settings, own) in groups.items()
               if len({one.isolated for one in own}) > 1]
    names = name_apart([(title, settings) for title, settings, _ in several])
    return [(name, [one.run for one in own]) for name, (_, _, own) in zip(names, several, strict=True)]


def row(one):
    """A run at its rates, and what is published of the same."""
    asr, ca = one.published or (None, None)
    method, results = one.run.method, one.run.results
    return (Cell(one.attack), cell(100 * one.poisoned, "{:.1f}"),
            cell(None if one.isolated is None else 100 * one.isolated, "{:g}"),
            cell(None if one.isolated is None else "even steps" if one.has_even_steps else "SGD"),
            cell(results.get("seed")),
            share_cell(method.get("precision")), share_cell(method.get("recall")),
            *shares(one.run, "asr", "acc", "acc_outside_target"), cell(asr, PERCENT), cell(ca, PERCENT),
            cell(results.get("epochs"), "{:.0f}"))
