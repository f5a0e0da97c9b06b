"""Repairs that have no section of their own: how each works, in words/<script>.md, and its control beside it."""
from engine.catalogue import SCRIPTS
from engine.rows import REPAIR
from reporting.charts import pictures_of
from reporting.document import Cell, Section, Table, Text, cell
from reporting.found import FINISHED
from reporting.scripts import repair_name
from reporting.tables import PERCENT, conditions
from reporting.words import FOLDER, words

ORDER = 85
COLUMNS = ("run", "repair", "clean images", "ACC before", "ASR before", "ACC of fine-tuning", "ASR of fine-tuning",
           "ACC", "ASR", "pruned")
PICTURES = {"curve.png": "along the curve", "pruning_by_threshold.png": "over the threshold"}


def section(report):
    explained = {script.module: script for script in SCRIPTS if script.kind == REPAIR and not script.trains
                 and (FOLDER / f"{script.name}.md").is_file()}
    own = [run for run in report.runs if run.state == FINISHED and run.script in explained]
    if not own:
        return None
    texts = [text for module, script in explained.items() if any(run.script == module for run in own)
             for text in words(script.name)]
    pictures = [picture for file, what in PICTURES.items() for picture in pictures_of(own, file, what)]
    return Section("Other repairs", (
        *texts, Text("The control is fine-tuning alone on the same images: NAD's teacher, MCR's second end, FT-SAM "
                     f"with --rho 0. {conditions(own)}"),
        Table(COLUMNS, tuple(row(run) for run in own)), *pictures))


def row(run):
    """A run in one line; a dash where its script has no control, or no sweep of how much to prune."""
    before, control = (run.method.get(name) or {} for name in ("before", "control"))
    return (Cell(run.name), Cell(repair_name(run.script, run.method)), cell(run.method.get("images")),
            *(cell(100 * run.share(name, of), PERCENT) for of in (before, control) for name in ("acc", "asr")),
            *(cell(100 * run.share(name), PERCENT) for name in ("acc", "asr")),
            cell((run.method.get("chosen") or {}).get("pruned")))
