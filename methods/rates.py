"""The table of models of ours that an audit compares a stranger's with: a row is a model, trained and measured by
studies.calibrate_audit, and what the audit says of it."""
from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import UserError
from common.files import write_table
from methods.calibration import ALPHA
from methods.measured import CALIBRATE, TEST, Kind, Measured
from methods.populations import Weighed, populations_of
from methods.witnesses import CHANNELS, CLEANSE, MARGINS, WITNESSES, Settings

TABLE = Path(__file__).resolve().parent.parent / "results/audit/rates.csv"
SEEN = "yes"  # in the column "seen"
COLUMNS = ("population", "dataset", "arch", "width", "image_size", "classes", "settings", "attack", "target",
           "training", "seed", "seen", "acc", "asr", *WITNESSES, "margins_label", "cleanse_labels", "flagged",
           *(f"p_{name}" for name in WITNESSES), "combined", "verdict", "target_named", "searches", "seconds_training",
           "seconds")


def number(text: str, kind: type = float) -> float | int | None:
    """A cell of the table; None for an empty one."""
    return kind(text) if text else None


def label(text: str) -> int | None:
    """A cell of a label; None for an empty one."""
    return number(text, int)


def statistic(text: str) -> float | None:
    """A cell of a witness; None for an empty one. Raises ValueError for anything but a number above 0."""
    value = number(text)
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"expected a statistic above 0, got {text}")
    return value


def parse_row(row: Mapping[str, str]) -> Measured:
    """A row of the table. Raises KeyError, TypeError, ValueError or UserError for one that is none."""
    lists = {name: tuple(to(part) for part in row[name].split(";")) if row[name] else ()
             for name, to in ((CLEANSE, statistic), ("cleanse_labels", label))}
    if row["population"] not in (CALIBRATE, TEST) or len(lists[CLEANSE]) != len(lists["cleanse_labels"]):
        raise ValueError("expected a population of calibrate or test, and a label for each of Neural Cleanse's values")
    Settings.from_words(row["settings"])
    return Measured(
        population=row["population"], dataset=row["dataset"],
        kind=Kind(row["arch"], number(row["width"], int), int(row["image_size"]), row["classes"]),
        settings=row["settings"], attack=row["attack"], target=label(row["target"]), training=row["training"],
        seed=int(row["seed"]), acc=float(row["acc"]), asr=number(row["asr"]), channels=statistic(row[CHANNELS]),
        margins=statistic(row[MARGINS]), cleanse=lists[CLEANSE], margins_label=label(row["margins_label"]),
        cleanse_labels=lists["cleanse_labels"], flagged=label(row["flagged"]),
        seconds_training=float(row["seconds_training"]), seconds=float(row["seconds"]), seen=row.get("seen") == SEEN)


def read_rows(path: str | Path = TABLE) -> list[Measured]:
    """The rows of the table; [] if there is no file. Raises UserError for a file that is no such table."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            return [parse_row(row) for row in reader]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error, UserError) as error:
        raise UserError(f"{path}: line {reader.line_num}: not a row of a table of studies.calibrate_audit: "
                        f"{error}") from None


def as_row(row: Measured, weighed: Weighed) -> dict:
    """A line of the table."""
    def text(value: float | str | None):
        return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    own = {name: getattr(row, name) for name in COLUMNS if hasattr(row, name)}
    own |= {"arch": row.kind.arch, "width": row.kind.width, "image_size": row.kind.image_size,
            "classes": row.kind.classes, "seen": SEEN if row.seen else "", CLEANSE: ";".join(map(text, row.cleanse)),
            "cleanse_labels": ";".join(map(text, row.cleanse_labels))}
    said = weighed.judgment
    own |= {f"p_{name}": weighed.p_values.get(name) for name in WITNESSES}
    own |= {"combined": said.combined, "verdict": said.verdict, "target_named": said.target,
            "searches": weighed.searches}
    return {name: text(value) for name, value in own.items()}


def write_rows(path: str | Path, rows: Sequence[Measured], alpha: float = ALPHA) -> None:
    """Write the table. Every p-value and verdict in it is worked out anew from the statistics, since each model that is
    added to the reference changes them."""
    weighed = {id(row): population.weigh(row, alpha=alpha) for population in populations_of(rows)
               for row in population.rows}
    write_table(path, COLUMNS, (as_row(row, weighed[id(row)]) for row in rows))
