"""Logs in the homework's format, ours and those of other implementations."""
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from common.untrusted import read_text

HOMEWORK = ("Epoch", "lr", "Time", "TrainLoss", "TrainACC", "PoisonLoss", "PoisonACC", "CleanLoss", "CleanACC")
COLUMNS = ("epoch", "lr", "time", "train_loss", "train_acc", "poison_loss", "poison_acc", "clean_loss", "clean_acc")
# The names that a column goes by in lower case, without what is no letter.
NAMES = dict(zip(COLUMNS, (
    "epochs?", "lr|learningrate", "time(?:sec(?:onds)?|min|s)?", "trainloss", "trainacc(?:uracy)?", "poison(?:ed)?loss",
    "poison(?:ed)?acc(?:uracy)?|asr", "(?:clean|test|valid|val)loss", "(?:clean|test|valid|val)?acc(?:uracy)?"),
    strict=True))
ACCURACIES = ("train_acc", "poison_acc", "clean_acc")
HEADINGS = ("Epoch", "EPOCHS", "Iter", "No")  # what a line of column names begins with
# What a logger puts before the line: [2026/11/24 15:09:40] -, 2026-11-24 15:09:40,123 - INFO -, INFO:root:
PREFIX = re.compile(
    r"^(?:\[[^\]]*\]|\d{4}[-/]\d\d[-/]\d\d[ T][\d:.,]+|[A-Z]+:\w*:)\s*(?:-\s*)?(?:[A-Za-z]+\s*[-:]\s*)*")
POISON_TYPE = re.compile(r"poison[_-]type\W{1,4}([\w-]+)")


@dataclass(frozen=True)
class Log:
    """`rows`: dicts of COLUMNS and "line", counted from 1. `poison_type` as its line of arguments names it.

    `complaint` says what is wrong with rows that look like a training's and do not count.
    """

    path: Path
    rows: tuple
    poison_type: str | None
    complaint: str = ""

    @property
    def last(self) -> dict | None:
        """The last row whose epoch was tested, by its ACC, whose ASR may be nan; without one the last, or None."""
        tested = [row for row in self.rows if not math.isnan(row["clean_acc"])]
        return next(reversed(tested or self.rows), None)


def columns_of(words: list[str]) -> tuple[str, ...] | None:
    """COLUMNS in the order of a line of column names, by NAMES; None for a line that has others. A line that is cut off
    stands for the homework's own."""
    if len(words) < len(COLUMNS):
        return COLUMNS
    rest, order = re.sub(r"[^a-z]", "", " ".join(words).lower()), []
    while rest:
        known = [(name, match.end()) for name, pattern in NAMES.items() if (match := re.match(pattern, rest))]
        if not known:
            return None
        name, end = max(known, key=lambda one: one[1])
        order, rest = [*order, name], rest[end:]
    return tuple(order) if sorted(order) == sorted(COLUMNS) else None


def is_heading(words: list[str]) -> bool:
    """Whether a line is one of column names. One with a number is a sentence, as "Epoch 3 of 50"; so is one that begins
    with "epoch" and has not the names of all columns."""
    if not words or any(map(str.isdigit, "".join(words))):
        return False
    return words[0] in HEADINGS or (
        words[0] == "epoch" and len(words) >= len(COLUMNS) and columns_of(words) is not None)


def row_of(words: list[str], line: int, columns: tuple[str, ...] | None = COLUMNS) -> dict | None:
    """A row of the log from its words, in the order of `columns`; None for other lines. Its epoch counts from 1 up."""
    if len(words) != len(COLUMNS) or columns is None:
        return None
    try:
        row = {name: float(word) for name, word in zip(columns, words, strict=True)}
        row["epoch"] = int(words[0])
    except ValueError:
        return None
    return {**row, "line": line} if row["epoch"] >= 1 else None


def is_damaged_row(words: list[str]) -> bool:
    """Whether a line beneath the column names is a row of the table whose values are no plain numbers: 99.9%, 0,999."""
    return len(words) == len(COLUMNS) and words[0].isdecimal() and any(map(str.isdecimal, "".join(words[1:])))


def are_shares(row: dict) -> bool:
    """Whether a row's accuracies are fractions, or nan where there was nothing to count."""
    return all(0 <= row[name] <= 1 or row[name] != row[name] for name in ACCURACIES)


def read_lines(path: str | Path) -> list[str]:
    """A text file's lines, in UTF-8 or UTF-16, with a byte order mark or without.

    Raises UserError if it cannot be read or is too large.
    """
    try:
        return read_text(path, errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; not a log") from None


@dataclass
class Reading:
    """A training while its lines are read."""

    poison_type: str | None = None
    rows: list = field(default_factory=list)
    wrong: list = field(default_factory=list)
    unknown: str = ""  # what is wrong with a line of column names beneath which rows stand

    def goes_on_with(self, row: dict, poison_type: str | None) -> bool:
        """Whether a row is this training's: of the same attack, with a greater epoch."""
        return not self.rows or (row["epoch"] > self.rows[-1]["epoch"] and poison_type == self.poison_type)

    def as_log(self, path: str | Path) -> Log:
        complaint = (f"line {self.wrong[0]}: expected numbers, and accuracies as fractions in [0, 1]; write 99.9 % as "
                     "0.999"
                     if self.wrong else "")
        return Log(Path(path), tuple(self.rows), self.poison_type, self.unknown or complaint)


def read_trainings(path: str | Path) -> list[Log]:
    """The Logs of all trainings in a file in the homework's format, in order. Raises UserError if it is unreadable.

    A training begins at a line of column names, at an epoch that is not greater than the one before, or where the
    arguments before a row name another attack. Tables of other columns are passed over. At least one Log, which may
    have no rows.
    """
    found, poison_type, reading, columns, heading = [Reading()], None, True, COLUMNS, ""
    for number, text in enumerate(read_lines(path), 1):
        named = POISON_TYPE.search(text)
        poison_type = named.group(1) if named else poison_type
        words = PREFIX.sub("", text).split()
        if is_heading(words):
            reading = words[0].lower() == "epoch"
            found += [Reading(poison_type)] if reading else []
            columns, heading = columns_of(words), f"line {number}: expected the columns {', '.join(HOMEWORK)}, got " + (
                ", ".join(words[:len(COLUMNS)]))
        row = row_of(words, number, columns) if reading else None
        if reading and columns is None and len(words) == len(COLUMNS) and words[0].isdecimal():
            found[-1].unknown = heading
        elif reading and (not are_shares(row) if row else is_damaged_row(words)):
            found[-1].wrong.append(number)
        elif row:
            found += [] if found[-1].goes_on_with(row, poison_type) else [Reading()]
            found[-1].poison_type = poison_type
            found[-1].rows.append(row)
        elif not found[-1].rows:
            found[-1].poison_type = poison_type
    return [one.as_log(path) for one in found]


def read_log(path: str | Path) -> Log:
    """The Log of the last training in a file; `read_trainings` has all. Raises UserError if it is unreadable."""
    return read_trainings(path)[-1]


def read_pruning(path: str | Path) -> list[dict]:
    """Rows {pruned, threshold, poison_acc, clean_acc, line} of a pruning_by_threshold.txt. Raises UserError.

    The columns are the homework's: No, Layer Name, Neuron Idx, Mask, PoisonLoss, PoisonACC, CleanLoss, CleanACC; where
    the line of their names has clean before poisoned, so are they read.
    """
    rows, clean_first = [], False
    for number, text in enumerate(read_lines(path), 1):
        words = PREFIX.sub("", text).split()
        if words and words[0] == "No":
            clean_first = [word for word in words if word.endswith("ACC")] == ["CleanACC", "PoisonACC"]
        try:
            _, _, _, threshold, _, poison_acc, _, clean_acc = words
            if clean_first:
                poison_acc, clean_acc = clean_acc, poison_acc
            row = {"pruned": float(words[0]), "threshold": None if threshold == "None" else float(threshold),
                   "poison_acc": float(poison_acc), "clean_acc": float(clean_acc), "line": number}
        except ValueError:
            continue
        if 0 <= row["poison_acc"] <= 1 and 0 <= row["clean_acc"] <= 1:
            rows.append(row)
    return rows
