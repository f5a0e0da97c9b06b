"""What each defense gained on each attack."""
import math
from dataclasses import dataclass
from pathlib import PurePosixPath

from engine.measuring.doubt import IMPLAUSIBLE
from reporting.behind import attack_behind
from reporting.groups import NONE, attacks, base_name, defenses, group


def mean(values):
    """Mean of numbers; nan if there is none or one is not known."""
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def value_range(values):
    """Lowest to highest in words; nothing for one value."""
    known = [value for value in values if value == value]
    return f"{min(known):.2f} to {max(known):.2f}" if len(known) > 1 else ""


def figures_of(run, holder=None):
    """(ACC, ASR) of a run in %, or of one of its method's entries such as "before"; nan where unknown."""
    of = (run.method.get(holder) or {}) if holder else None
    return 100 * run.share("acc", of), 100 * run.share("asr", of)


def defense_effect(before, after):
    """DER, the defense effectiveness rating, in %: ((ASR drop)+ - (ACC drop)+ + 1) / 2, of (ACC, ASR) in % each.

    50 is a defense that does nothing; 100 one that removes a sure backdoor for nothing. nan where a figure is unknown.
    """
    (acc_before, asr_before), (acc, asr) = before, after
    if any(value != value for value in (*before, *after)):
        return math.nan
    return (max(0.0, asr_before - asr) - max(0.0, acc_before - acc) + 100) / 2


def is_plausible(accuracy, classes):
    """Whether an accuracy in % can be that of a trained model; classes: how many there are, None where unknown."""
    return not classes or accuracy >= 100 * (1 / classes + (1 - 1 / classes) * IMPLAUSIBLE)


@dataclass(frozen=True)
class Effect:
    """A defense on an attack: its runs, and what was there before each, (ACC, ASR) in %.

    kind: the defense; name: the same with the settings that tell it from others of its kind.
    """

    attack: str
    kind: str
    name: str
    runs: tuple
    before: tuple

    @property
    def after(self):
        """(ACC, ASR) in %, means over the runs."""
        return tuple(map(mean, zip(*map(figures_of, self.runs), strict=True)))

    @property
    def ratings(self):
        """Each run's DER against its own model; nan where that was too seldom right for a trained model, as on images
        that it does not know, so that there was hardly any accuracy to lose."""
        return [defense_effect(before, figures_of(run))
                if is_plausible(before[0], run.spec.get("num_classes")) else math.nan
                for run, before in zip(self.runs, self.before, strict=True)]

    def values(self, name):
        """The runs' shares in %."""
        return [100 * run.share(name) for run in self.runs]

    @property
    def seconds(self):
        return mean(run.results["seconds"] for run in self.runs)


def before_of(run, attack):
    """(ACC, ASR) in % of the model that `run` defends: as itself measured it, otherwise as the attack did."""
    own = figures_of(run, "before")
    return figures_of(attack) if attack and any(value != value for value in own) else own


def effects(runs):
    """Every Effect, with the undefended model first for each attack; defenses of models whose attack is not here come
    under their checkpoint's folder."""
    groups, found = attacks(runs), []
    behind = {run.name: attack_behind(run, groups) for run in defenses(runs)}
    under = {member.name: name for name, own in groups.items() for member in own}
    by_attack = {name: [] for name in groups}
    for run in defenses(runs):
        attack = behind[run.name]
        parent = run.results.get("parent")
        name = under[attack.name] if attack else f"model in {PurePosixPath(str(parent)).parent}" if parent else (
            f"data of {run.name}")
        by_attack.setdefault(name, []).append(run)
    for name, own in by_attack.items():
        if name in groups:
            found.append(Effect(name, NONE, NONE, tuple(groups[name]), tuple(map(figures_of, groups[name]))))
        for label, alike in group(own).items():
            found.append(Effect(name, base_name(alike[0]), label, tuple(alike),
                                tuple(before_of(run, behind[run.name]) for run in alike)))
    return found
