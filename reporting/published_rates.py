"""ABL at other poisoning and isolation rates than those of the published table, beside what is published of them.

lecture-abl-rates.csv has what the lecture prints for half and seven tenths of the training images poisoned, with 1 %
isolated. Of other isolation rates it prints curves alone.
"""
import csv
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.catalogue import defense_cells
from reporting.behind import attack_behind
from reporting.groups import NONE, attacks
from reporting.published import (
    APART,
    ISOLATED,
    POISONED,
    cell_name,
    has_usual_rates,
    is_as_published,
    poisoned_share,
    published,
    share_behind,
)

FILE = Path(__file__).with_name("lecture-abl-rates.csv")
ABL = defense_cells()["abl"][0].module


@cache
def published_rates():
    """{(attack, share poisoned, defense): (ASR, CA) in %}; the main table's cells among them."""
    with FILE.open(encoding="utf-8") as lines:
        found = {(row["attack"], float(row["poisoned"]), row["defense"]): (float(row["asr"]), float(row["ca"]))
                 for row in csv.DictReader(lines)}
    return found | {(attack, POISONED, defense): figures for (attack, defense), figures in published().items()
                    if attack in {name for name, *_ in found} and defense in (NONE, "abl")}


@dataclass(frozen=True)
class AtRates:
    """A run of ABL, or the undefended model beside such, at its rates.

    poisoned: share of the training images. isolated: isolation rate, None for the undefended model.
    """

    attack: str
    poisoned: float
    isolated: float | None
    run: object

    @property
    def published(self):
        """(ASR, CA) in %, or None."""
        if self.isolated not in (None, ISOLATED):
            return None
        defense = NONE if self.isolated is None else "abl"
        return next((figures for (attack, share, name), figures in published_rates().items()
                     if (attack, name) == (self.attack, defense) and abs(share - self.poisoned) < APART), None)

    @property
    def order(self):
        return self.attack, round(self.poisoned, 2), self.isolated or 0, self.has_even_steps, self.run.name

    @property
    def has_even_steps(self):
        """Whether its third stage climbs in steps of one length."""
        return bool(self.run.arguments.get("even_steps"))


def at_rates(runs):
    """[AtRates] of ABL's finished runs on the published network and of the models that they stand beside, where there
    is one at other rates than the published table's; [] elsewhere."""
    own = [run for run in runs if is_as_published(run)]
    groups, found = attacks(own), []
    pairs = [(run, attack_behind(run, groups)) for run in own if run.is_repair and run.script == ABL]
    pairs = [(run, attack) for run, attack in pairs if attack and not math.isnan(share_behind(run, attack))]
    if all(has_usual_rates(run, attack) for run, attack in pairs):
        return []
    for attack in {attack.name: attack for _, attack in pairs}.values():
        if not math.isnan(poisoned_share(attack)):
            found.append(AtRates(cell_name(attack), poisoned_share(attack), None, attack))
    found += [AtRates(cell_name(attack), share_behind(run, attack), run.arguments.get("isolation_rate"), run)
              for run, attack in pairs]
    return sorted(found, key=lambda one: one.order)
