"""A table of published figures, and the runs that measured the same cells.

The figures are those of the Anti-Backdoor Learning paper (Li et al., 2021) as the lecture prints them: CIFAR-10,
WRN-16-1, 10 % of the training images poisoned. The rows of lecture-abl.csv are named as the cells of a matrix.
"""
import csv
import math
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from common.files import write_table
from engine.catalogue import BY_MODULE
from reporting.behind import attack_behind
from reporting.effects import mean
from reporting.groups import NONE, attacks, defenses

FILE = Path(__file__).with_name("lecture-abl.csv")
ARCH, BENIGN = "wrn16-1", "benign"
APART = 0.005  # two shares of the training images that differ by less are one
POISONED, ISOLATED = 0.1, 0.01  # share of the training images, and ABL's isolation rate
COLUMNS = ("attack", "defense", "seed", "poison_rate", "acc", "ca9", "asr", "published_asr", "published_ca", "epochs",
           "in_average", "folder")


@cache
def published():
    """{(attack, defense): (ASR, CA) in %}; the defense is "none" for the model as the attack left it."""
    with FILE.open(encoding="utf-8") as lines:
        return {(row["attack"], row["defense"]): (float(row["asr"]), float(row["ca"])) for row in csv.DictReader(lines)}


@dataclass(frozen=True)
class Measured:
    """A run beside the published cell that it repeats; shares in %, nan where it did not measure one.

    acc: on all clean test images. ca9: on those of the classes that the attacker does not want, which CA stands for in
    the publication. poison_rate: of the training images; nan where none are poisoned, or batches are while training.
    left_out: why it does not count in the averages over the attacks, "" where it does.
    """

    attack: str
    defense: str
    seed: int | None
    poison_rate: float
    acc: float
    ca9: float
    asr: float
    epochs: int | None
    folder: str
    left_out: str = ""

    @property
    def published(self):
        """(ASR, CA) in %."""
        return published()[self.attack, self.defense]

    def row(self):
        """The dict of a CSV's row, with the columns COLUMNS."""
        asr, ca = self.published
        own = {name: round(getattr(self, name), 2) for name in ("poison_rate", "acc", "ca9", "asr")}
        return {"attack": self.attack, "defense": self.defense, "seed": self.seed, **own, "published_asr": asr,
                "published_ca": ca, "epochs": self.epochs, "in_average": self.in_average, "folder": self.folder}

    @property
    def in_average(self):
        """Whether it counts in the averages over the attacks, in words."""
        why_not = "no attack" if self.attack == BENIGN else self.left_out
        return f"no: {why_not}" if why_not else "yes"


def cell_name(run):
    """The name in matrices of what a run did: of its script's cells the one with most flags that the run had; "" for
    none."""
    if run.script not in BY_MODULE:
        return ""
    fitting = [cell for cell in BY_MODULE[run.script].cells
               if all(run.arguments.get(flag) == value for flag, value in cell.flags.items())]
    return max(fitting, key=lambda cell: len(cell.flags)).name if fitting else ""


def poisoned_share(run):
    """The share of the training images that a run poisoned; nan for none, or where it does not say."""
    share, isolated = run.method.get("of_training_set"), run.method.get("isolated")
    if share is None and isolated:  # ABL's runs once said only how many images they poisoned and isolated
        return (run.method.get("poisoned") or 0) * (run.arguments.get("isolation_rate") or 0) / isolated or math.nan
    return share or math.nan  # a benign run's 0 is no rate, so none that differs


def share_behind(run, attack):
    """The share of the training images that was poisoned for a run on an `attack`; nan where neither says it.

    ABL trains on a set of its own. Where the attack controls training, ABL's set has another share than its batches.
    """
    own = poisoned_share(run)
    return poisoned_share(attack) if math.isnan(own) else own


def is_usual(poisoned):
    """Whether a share of the training images is as in the published table; nan, which no run says, is."""
    return not abs(poisoned - POISONED) > POISONED / 10 + 1e-9  # 0.09 lies within


def has_usual_rates(run, attack):
    """Whether a run poisoned and isolated as many images as in the published table; attack: its own, or itself."""
    return is_usual(share_behind(run, attack)) and isolates_as_usual(run)


def isolates_as_usual(run):
    return run.arguments.get("isolation_rate") in (None, ISOLATED)


def is_as_published(run):
    """Whether a run is of the published network and images: CIFAR-10, by the name of the data set or of its folder."""
    return run.arch == ARCH and bool(re.search(r"cifar[-_ ]?10(?!0)", run.results.get("dataset") or "", re.I))


def measured(runs):
    """The Measured of all finished `runs` as published and at the published rates, in the published order.

    A defense that trains on a set of its own, with another share poisoned than in the attack's, is there and left out
    of the averages; so is a seed that not all of an attack's columns have.
    """
    groups, own = attacks(runs), [run for run in runs if is_as_published(run)]
    named = [(run, run, NONE) for run in own if run.is_attack and has_usual_rates(run, run)]
    named += [(run, attack, cell_name(run)) for run in defenses(own) for attack in [attack_behind(run, groups)]
              if attack and is_usual(poisoned_share(attack)) and isolates_as_usual(run)]
    order = list(published())
    named = [entry for entry in named if (cell_name(entry[1]), entry[2]) in published()]
    found = [(order.index((cell_name(attack), defense)), run.name, of_run(run, attack, defense))
             for run, attack, defense in named]
    return with_seeds_left_out([one for *_, one in sorted(found, key=lambda entry: entry[:2])])


def with_seeds_left_out(found):
    """The Measured, with those left out whose seed is not in all columns of their attack: a mean over other seeds says
    nothing about a defense. Where the columns share no seed, all stay."""
    columns = {}
    for one in found:
        columns.setdefault(one.attack, {}).setdefault(one.defense, set()).add(one.seed)
    shared = {attack: set.intersection(*own.values()) for attack, own in columns.items()}
    return [replace(one, left_out=one.left_out or f"seed {one.seed} is not in every column")
            if shared[one.attack] and one.seed not in shared[one.attack] else one for one in found]


def of_run(run, attack, defense):
    """The Measured of a FinishedRun that repeats a published cell; attack: the attack's run behind it, or itself."""
    acc, ca9, asr = (100 * run.share(name) for name in ("acc", "acc_outside_target", "asr"))
    poisoned = share_behind(run, attack)
    left_out = "" if is_usual(poisoned) else f"{100 * poisoned:.0f} % poisoned, not {100 * POISONED:.0f} %"
    return Measured(cell_name(attack), defense, run.results.get("seed"), 100 * poisoned, acc, ca9, asr,
                    run.results.get("epochs"), run.name, left_out)


def leave_table(path, runs):
    """Write a CSV with a row for each Measured among the runs; no file where there is none."""
    found = measured(runs)
    if found:
        write_table(path, COLUMNS, [one.row() for one in found])


def means(found):
    """{(attack, defense): (ASR, CA-9) in %, means over seeds}; of a cell all of whose runs are left out, of these."""
    cells = {}
    for one in found:
        cells.setdefault((one.attack, one.defense), []).append(one)
    counted = {key: [one for one in own if not one.left_out] or own for key, own in cells.items()}
    return {key: tuple(mean(getattr(one, name) for one in own) for name in ("asr", "ca9"))
            for key, own in counted.items()}


def averages(figures):
    """{defense: (ASR, CA-9) in %}: means over the attacks of {(attack, defense): (ASR, CA-9)}, benign left out."""
    names = dict.fromkeys(defense for _, defense in figures)
    return {name: tuple(map(mean, zip(*(own for (attack, defense), own in figures.items()
                                        if defense == name and attack != BENIGN), strict=True))) for name in names
            if any(attack != BENIGN and defense == name for attack, defense in figures)}
