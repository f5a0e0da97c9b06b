"""What became of attacks under defenses, by finished runs: a Tried for each pair, setting and poisoned share."""
import math
from dataclasses import dataclass, replace

from reporting.behind import attack_behind
from reporting.candidates import has_usual_aim
from reporting.effects import mean
from reporting.found import FINISHED
from reporting.groups import attacks, without_seed
from reporting.published import APART, ARCH, POISONED, cell_name, share_behind

STOPPED, PASSES = 10, 50  # % of triggered images that get through


@dataclass(frozen=True)
class Tried:
    """Runs of a defense on an attack that differ in their seeds alone, and the attack's run behind each.

    poisoned: share of the training images; nan where no run says it.
    """

    attack: str
    poisoned: float
    runs: tuple
    attacked: tuple

    @property
    def before(self):
        """(ASR, ACC) in % of the attacked models."""
        return tuple(mean(100 * run.share(name) for run in self.attacked) for name in ("asr", "acc"))

    @property
    def setting(self):
        return self.attacked[0].setting

    @property
    def through(self):
        """% of what the defense is to stop that gets through."""
        return mean(through(run, attack) for run, attack in zip(self.runs, self.attacked, strict=True))

    @property
    def has_backdoor(self):
        """Whether the attack itself had worked."""
        return self.before[0] >= PASSES

    @property
    def verdict(self):
        if not self.has_backdoor:
            return "no backdoor to begin with"
        return "stopped" if self.through <= STOPPED else "passes" if self.through >= PASSES else "partly"


def through(run, attack):
    """% of what the defense is to stop that gets through one run: of triggered or poisoned images, or of one model."""
    method = run.method
    if run.is_repair:
        return 100 * run.share("asr")
    if "far" in method:
        return 100 * run.share("far", method)
    if "recall" in method:
        return 100 - 100 * run.share("recall", method)
    return 0 if attack.arguments.get("poison_target") in (method.get("targets") or []) else 100


def attack_under(run, groups):
    """The attack's run that `run` defends: the nearest above, or else as reporting.behind finds it; None if unsure."""
    above = run.above
    while above and not above.is_attack:
        above = above.above
    return above or attack_behind(run, groups)


def has_own_aim(attack):
    """Whether an attack's run aims as the attack does by itself: at all other classes, or as a trigger made of classes
    has to."""
    return has_usual_aim(attack) or bool(attack.method.get("sources"))


def defenses_in(run):
    """(name in matrices, the run as it ended) of each defense that a finished run was: Fine-Pruning prunes first, which
    is all that pruning does."""
    name = cell_name(run) if run.state == FINISHED and not run.is_attack else ""
    if name:
        yield name, run
    pruned = run.method.get("chosen") if name == "fine-pruning" else None
    if pruned:
        yield "pruning", replace(run, results={**run.results, "acc": pruned["acc"], "asr": pruned["asr"]})


def tried_cells(runs):
    """{(attack, defense): [Tried, one for each setting and poisoned share]} of finished `runs`. Of several in a place
    those with the shortest path are taken, which is the one without a suffix for its flags."""
    groups, found = attacks(runs), {}
    for defense, run in (ended for one in runs for ended in defenses_in(one)):
        attack = attack_under(run, groups)
        if attack and has_own_aim(attack) and not math.isnan(through(run, attack)):
            share = round(share_behind(run, attack), 3)
            own = found.setdefault((cell_name(attack), defense), {})
            place = own.setdefault((attack.setting, str(share)), {})  # as a text, since nan is not equal to nan
            place.setdefault(without_seed(run.name), []).append((run, attack))
    return {key: [Tried(key[0], float(share), *zip(*named[min(named, key=lambda name: (len(name), name))], strict=True))
                  for (_, share), named in places.items()] for key, places in found.items()}


def at_share(cells, attack, poisoned):
    """The Tried of an attack, only those with a share of its training images poisoned where `poisoned` names one."""
    return [tried for tried in cells.get(attack, []) if poisoned is None or abs(tried.poisoned - poisoned) < APART]


def ranked_settings(cells, named):
    """The settings of a defense's cells, {attack: [Tried]}, the best first: with the attack that keeps to the
    assumption, the first of `named`, [(attack, share poisoned or None)], with most of those named, with most attacks
    that worked, the published network, the widest."""
    having = [{tried.setting for tried in at_share(cells, *one)} for one in named]
    worked = {}  # {setting: the attacks that had worked there}
    for attack, own in cells.items():
        for tried in own:
            worked.setdefault(tried.setting, set()).update({attack} if tried.has_backdoor else ())
    return sorted(worked, key=lambda setting: (
        setting in having[0], sum(setting in own for own in having), len(worked[setting]), setting[1] == ARCH,
        setting[2] or 0, str(setting)), reverse=True)


def best(tried, settings):
    """Of a list of Tried the one in the first of `settings` that has one, with the poisoned share nearest to the
    published; None if there is none."""
    return min(tried, default=None, key=lambda one: (
        settings.index(one.setting), math.isnan(one.poisoned), abs(one.poisoned - POISONED)))


def least_stopped(cells, keeper, settings):
    """[the Tried of the attack that gets through most, each in the first setting in which it had worked], but for the
    one that keeps to the assumption; [] for none."""
    working = {attack: [tried for tried in own if tried.has_backdoor] for attack, own in cells.items()}
    tried = [best(own, settings) for attack, own in working.items() if own and attack != keeper]
    return [max(tried, key=lambda one: (one.through, one.attack))] if tried else []


def most_stopped(cells, keepers, settings):
    """[the Tried of which least gets through, if it is stopped], of the attacks `keepers` if one of them is, else of
    all."""
    stopped = [tried for own in cells.values() for tried in own if tried.verdict == "stopped"]
    return sorted(stopped, key=lambda one: (one.attack not in keepers, one.through, settings.index(one.setting)))[:1]
