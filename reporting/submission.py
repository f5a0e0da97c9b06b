"""What a folder holds that another implementation of the homework left: logs of trainings, and tables of pruning."""
import re
from pathlib import Path

from common.errors import UserError
from reporting.log import Log, read_pruning, read_trainings

ATTACKS = ("badnets", "blend", "clean-label")
ALIASES = {"badnet": "badnets", "clb": "clean-label", "cleanlabel": "clean-label"}
TABLES = "pruning_by_*.txt"  # the homework's; the course's own program puts the threshold into the name


def attack_named(word: str | None) -> str | None:
    """The homework's attack that a word begins with: badnets-10, clb_model, badnetsmodel_last. None for another."""
    word = (word or "").replace("_", "-").lower()
    for attack in (*ATTACKS, *ALIASES):
        if re.match(rf"{attack}(?:model)?(?:-|$)", word):
            return ALIASES.get(attack, attack)
    return None


def log_files(folder: Path) -> list[Path]:
    """The logs in a folder: output.log first, then others by name."""
    return sorted(folder.glob("*.log"), key=lambda path: (path.name != "output.log", path.name))


def trainings_in(folder: Path) -> list[Log]:
    """The trainings, with rows, of all logs in a folder. Raises UserError if output.log cannot be read."""
    found = []
    for path in log_files(folder):
        try:
            found += [log for log in read_trainings(path) if log.rows or log.complaint]
        except UserError:
            if path.name == "output.log":
                raise
    return found


def attack_in(folder: Path, log: Log) -> str | None:
    """The attack that a training is of: by the arguments in its log, and where it has none by the names of the log, the
    folder, the one above, and the models in the folder, if these are of one attack."""
    if log.poison_type:
        return attack_named(log.poison_type)
    of_models = {attack_named(path.stem) for path in folder.glob("*model_last.th")} - {None}
    words = [log.path.stem, folder.name, folder.parent.name, *(of_models if len(of_models) == 1 else ())]
    return next((attack for attack in map(attack_named, words) if attack), None)


def training_of(folder: Path, attack: str) -> tuple[Log, int] | None:
    """(the training of an attack that a folder is judged by, how many of that attack there are); None for none.

    The one with the most epochs, since others were broken off; of several as long the last. Never by what it scored.
    """
    own = [log for log in trainings_in(folder) if log.rows and attack_in(folder, log) == attack]
    return (max(reversed(own), key=lambda log: log.rows[-1]["epoch"]), len(own)) if own else None


def pruning_tables(folder: Path) -> list[Path]:
    """The tables of pruning in a folder that no run of ours wrote."""
    ours = any((folder / name).exists() for name in ("results.json", "config.json"))
    return [] if ours else sorted(path for path in folder.glob(TABLES) if path.is_file())


def pruning_rows(folder: Path) -> list[dict]:
    """The rows of all these tables as read_pruning has them, each with its "file"."""
    return [{**row, "file": path.name} for path in pruning_tables(folder) for row in read_pruning(path)]
