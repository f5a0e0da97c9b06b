"""The tables' rows that several sections have."""
from reporting.document import Cell, cell
from reporting.found import FINISHED
from reporting.grade import percent
from reporting.groups import NONE, mean, run_setting, spread

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
    known = sorted({run_setting(run) for run in runs if run.width is not None})
    parts = ["; ".join(known or sorted({run_setting(run) for run in runs})),
             *(f"{label} {text}" for label, text in (
                 ("epochs", seen(run.results.get("epochs") for run in runs)), ("seeds", seen(seeds)),
                 ("on", seen(run.results.get("device") for run in runs))) if text)]
    return f"Measured on {'; '.join(parts)}." if runs else ""


def share_cell(share):
    """A Cell of a share as results.json has it, in %, with its interval."""
    return Cell(percent(share), 100 * share["value"]) if share else Cell("–")


def shares(run, *names):
    """Cells of a run's shares."""
    return [share_cell(run.results.get(name)) for name in names]


def effect_row(effect):
    acc, asr = effect.after
    rating = () if effect.kind == NONE else effect.ratings
    return (Cell(effect.attack), Cell(effect.name), cell(acc, PERCENT), Cell(spread(effect.values("acc"))),
            cell(asr, PERCENT), Cell(spread(effect.values("asr"))), cell(mean(effect.values("robust_acc")), PERCENT),
            cell(mean(rating), "{:.1f}"), Cell(spread(rating)), cell(effect.seconds, "{:.0f}"), cell(len(effect.runs)))
