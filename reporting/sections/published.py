"""The lecture's table of Anti-Backdoor Learning beside what was measured."""
from reporting.charts import published_map
from reporting.document import Cell, Section, Table, cell
from reporting.published import averages, means, measured, published
from reporting.tables import PERCENT
from reporting.words import words

ORDER = 55
AVERAGE = "average of attacks"


def section(report):
    found = measured(report.runs)
    if not found:
        return None
    return Section("Beside the published table", (*words("published"), picture(found), table(found)))


def picture(found):
    """Every measured cell with the published one beneath, and the averages over the attacks that were measured, without
    the cells that are left out of them."""
    ours = means(found)
    theirs = {key: published()[key] for key in ours}
    counted = {(one.attack, one.defense) for one in found if not one.left_out}
    for figures in (ours, theirs):
        own = averages({key: pair for key, pair in figures.items() if key in counted})
        figures.update({(AVERAGE, defense): pair for defense, pair in own.items()})
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*ours, strict=True))
    average = {(AVERAGE, column) for column in columns}
    texts = {key: f"{pair(ours[key])}\n({pair(theirs[key])})" + ("" if key in counted | average else "\nnot averaged")
             for key in ours}
    return published_map(rows, columns, texts, {key: asr for key, (asr, _) in ours.items()})


def pair(shares):
    """Two shares in %, a dash for one that is not known."""
    return " / ".join("–" if share != share else f"{share:.1f}" for share in shares)


def table(found):
    """A row for each run."""
    columns = ("attack", "defense", "seed", "poisoned, %", "ACC", "CA-9", "ASR", "published ASR", "published CA",
               "ASR, difference", "CA-9, difference", "epochs", "in the average")
    return Table(columns, tuple(map(row, found)), "Differences are ours minus the published.")


def row(one):
    asr, ca = one.published
    return (Cell(one.attack), Cell(one.defense), cell(one.seed), cell(one.poison_rate, "{:.1f}"),
            cell(one.acc, PERCENT), cell(one.ca9, PERCENT), cell(one.asr, PERCENT), cell(asr, PERCENT),
            cell(ca, PERCENT), cell(one.asr - asr, "{:+.2f}"), cell(one.ca9 - ca, "{:+.2f}"), cell(one.epochs),
            Cell(one.in_average))
