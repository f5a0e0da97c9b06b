"""Logs in the homework's format, ours and those of other implementations."""
import math
import re
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.untrusted import read_text

COLUMNS = ("epoch", "lr", "time", "train_loss", "train_acc", "poison_loss", "poison_acc", "clean_loss", "clean_acc")
ACCURACIES = ("train_acc", "poison_acc", "clean_acc")
HEADINGS = ("Epoch", "EPOCHS", "Iter", "No")  # what a line of column names begins with
PREFIX = re.compile(r"^\[[^\]]*\]\s*(?:-\s*)?")  # what a logger puts before the line: [2026/11/24 15:09:40] -
POISON_TYPE = re.compile(r"poison[_-]type\W{1,4}([\w-]+)")


@dataclass(frozen=True)
class Log:
    """`rows`: dicts of COLUMNS and "line", counted from 1. `poison_type` as its line of arguments names it.

    `complaint` says what is wrong with rows that look like a training's and are none.
    """

    path: Path
    rows: tuple
    poison_type: str | None
    complaint: str = ""

    @property
    def last(self):
        """The last row whose epoch was tested, by its ACC, whose ASR may be nan; without one the last, or None."""
        tested = [row for row in self.rows if not math.isnan(row["clean_acc"])]
        return next(reversed(tested or self.rows), None)


def row_of(words, line):
    """A row of the log from its words; None if it is none: an epoch that counts from 1 up, finite losses."""
    if len(words) != len(COLUMNS):
        return None
    try:
        row = {name: float(word) for name, word in zip(COLUMNS, words, strict=True)}
        row["epoch"] = int(words[0])
    except ValueError:
        return None
    return {**row, "line": line} if row["epoch"] >= 1 else None


def are_shares(row):
    """Whether a row's accuracies are fractions, or nan where there was nothing to count."""
    return all(0 <= row[name] <= 1 or row[name] != row[name] for name in ACCURACIES)


def read_lines(path):
    """A text file's lines, whatever their bytes are. Raises UserError if it cannot be read or is too large."""
    try:
        return read_text(path, errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; not a log") from None


def read_log(path):
    """The Log of a training in the homework's format, tab- or blank-separated. Raises UserError if it is unreadable.

    A log to which several trainings were appended is read from where its last one begins: at a line of column names, or
    at an epoch that is not greater than the one before. Tables of other columns are passed over.
    """
    rows, poison_type, wrong, reading = [], None, [], True
    for number, text in enumerate(read_lines(path), 1):
        named = POISON_TYPE.search(text)
        poison_type = named.group(1) if named else poison_type
        words = PREFIX.sub("", text).split()
        if words and words[0] in HEADINGS:
            reading = words[0] == "Epoch"
            rows, wrong = ([], []) if reading else (rows, wrong)
        row = row_of(words, number) if reading else None
        if row and not are_shares(row):
            wrong.append(number)
        elif row:
            rows = [row] if rows and row["epoch"] <= rows[-1]["epoch"] else [*rows, row]
    complaint = f"line {wrong[0]}: expected accuracies as fractions in [0, 1]; write 99.9 % as 0.999" if wrong else ""
    return Log(Path(path), tuple(rows), poison_type, complaint)


def read_pruning(path):
    """Rows {pruned, threshold, poison_acc, clean_acc, line} of a pruning_by_threshold.txt. Raises UserError.

    The columns are the homework's: No, Layer Name, Neuron Idx, Mask, PoisonLoss, PoisonACC, CleanLoss, CleanACC.
    """
    rows = []
    for number, text in enumerate(read_lines(path), 1):
        words = PREFIX.sub("", text).split()
        try:
            _, _, _, threshold, _, poison_acc, _, clean_acc = words
            row = {"pruned": float(words[0]), "threshold": None if threshold == "None" else float(threshold),
                   "poison_acc": float(poison_acc), "clean_acc": float(clean_acc), "line": number}
        except ValueError:
            continue
        if 0 <= row["poison_acc"] <= 1 and 0 <= row["clean_acc"] <= 1:
            rows.append(row)
    return rows
