"""The tables' rows that several sections have."""
from reporting.document import Cell, Table, cell
from reporting.effects import mean, value_range
from reporting.found import FINISHED
from reporting.groups import NONE, run_setting
from reporting.shares import percent

PERCENT = "{:.2f}"
EFFECT_COLUMNS = ("attack", "defense", "ACC", "ACC, all", "ASR", "ASR, all", "robust ACC", "DER", "DER, all", "seconds",
                  "runs")


def with_method(runs, *names):
    """The finished runs whose method has one of the names."""
    return [run for run in runs if run.state == FINISHED and run.method.get("name") in names]


def conditions(runs):
    """A sentence on what the figures of runs were measured on."""
    def seen(values):
        found = {str(value) for value in values if value is not None}
        return ", ".join(sorted(found, key=lambda text: (len(text), text)))
    seeds = [source.results.get("seed") for run in runs for source in (run, run.above) if source]
    known = sorted({run_setting(run) for run in runs if None not in run.setting})
    parts = ["; ".join(known or sorted({run_setting(run) for run in runs})),
             *(f"{label} {text}" for label, text in (
                 ("epochs", seen(run.results.get("epochs") or None for run in runs)), ("seeds", seen(seeds)),
                 ("on", seen(run.results.get("device") for run in runs))) if text)]
    return f"Measured on {'; '.join(parts)}." if runs else ""


def share_cell(share):
    """A Cell of a share as results.json has it, in %, with its interval."""
    return Cell(percent(share), 100 * share["value"]) if share else Cell("–")


def shares(run, *names):
    """Cells of a run's shares."""
    return [share_cell(run.results.get(name)) for name in names]


def effect_table(effects, caption=""):
    """A row for each Effect. The columns of what runs of several seeds reached are there where there are several."""
    rows = [effect_row(effect) for effect in effects]
    shown = [place for place in range(len(EFFECT_COLUMNS)) if any(row[place].text for row in rows)]
    return Table(tuple(EFFECT_COLUMNS[place] for place in shown),
                 tuple(tuple(row[place] for place in shown) for row in rows), caption)


def effect_row(effect):
    acc, asr = effect.after
    rating = () if effect.kind == NONE else effect.ratings
    return (Cell(effect.attack), Cell(effect.name), cell(acc, PERCENT), spread_cell(effect.values("acc")),
            cell(asr, PERCENT), spread_cell(effect.values("asr")), cell(mean(effect.values("robust_acc")), PERCENT),
            cell(mean(rating), "{:.1f}"), spread_cell(rating), cell(effect.seconds, "{:.0f}"), cell(len(effect.runs)))


def spread_cell(values):
    """A Cell of the lowest and the highest value, which sorts by the lowest; an empty one where there are not two."""
    said = value_range(values)
    return Cell(said, min(value for value in values if value == value)) if said else Cell("")


def named_target(method):
    """The verdict of studies.audit with its target."""
    label, name = method["target"], method["target_class"]
    if label is None:
        return method["verdict"]
    return f"{method['verdict']}, target {label:.0f}" + (f" ({name})" if name not in (None, f"{label:.0f}") else "")


def audit_verdict(method):
    """An audit's verdict with its targets."""
    named = ", ".join(str(label) if name == str(label) else f"{label} ({name})" for label, name in zip(
        method["targets"], method["target_classes"], strict=False))
    return f"{method['verdict']}, target {named}" if named else method["verdict"]
