"""The tables' rows that several sections have."""
from reporting.document import Cell, cell
from reporting.found import FINISHED
from reporting.grade import percent
from reporting.groups import spread

PERCENT = "{:.2f}"
EFFECT_COLUMNS = ("attack", "defence", "ACC", "ASR", "ASR over seeds", "robust ACC", "DER", "seconds", "runs")


def with_method(runs, *names):
    """The finished runs whose method has one of the names."""
    return [run for run in runs if run.state == FINISHED and run.method.get("name") in names]


def conditions(runs):
    """A sentence on what the figures of runs were measured on."""
    def seen(name):
        found = {str(run.results[name]) for run in runs if run.results.get(name) is not None}
        return ", ".join(sorted(found, key=lambda text: (len(text), text)))
    parts = [f"{label} {seen(name)}" for label, name in (("data set", "dataset"), ("width", "width"),
             ("epochs", "epochs"), ("seed", "seed"), ("device", "device")) if seen(name)]
    return f"Measured on: {'; '.join(parts)}."


def shares(run, *names):
    """Cells of shares in %, with their 95 % intervals."""
    return [Cell(percent(run.results.get(name)), run.share(name)) if run.results.get(name) else Cell("–")
            for name in names]


def effect_row(effect):
    acc, asr = effect.after
    return (Cell(effect.attack), Cell(effect.defence), cell(acc, PERCENT), cell(asr, PERCENT),
            Cell(spread(effect.group.values("asr"))), cell(effect.group.mean("robust_acc"), PERCENT),
            Cell("–") if effect.defence == "none" else cell(effect.rating, "{:.1f}"),
            cell(effect.group.seconds, "{:.0f}"), cell(len(effect.group.runs)))
