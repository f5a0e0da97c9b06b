"""Runs side by side: which are the same thing with other seeds, which attack a defence was run on, what it gained."""
import math
import re
from dataclasses import dataclass

from reporting.found import FINISHED, SHARES

SEED_PART = re.compile(r"seed[-_]?\d+")
ATTACKERS = ("train_backdoor.py", "train_pruning_aware.py")
DEFENCES = {"ANP": "ANP", "Fine-Pruning": "Fine-Pruning", "fine-tuning": "fine-tuning", "pruning": "pruning",
            "unlearning": "NC unlearning", "ABL": "ABL"}  # by a result's method name
ABL_SHARED = ("poison_type", "poison_rate", "poison_target", "trigger_alpha", "trigger_image", "clb_dir", "encoder",
              "width", "dataset")
HIDDEN = {"dataset", "width", "arch", "task", "mode", "poison_type", "eval_trigger"}  # said elsewhere


@dataclass(frozen=True)
class Group:
    """Runs that did the same but for the seed."""

    name: str
    runs: tuple

    def mean(self, name, of=None):
        """Mean over the runs of a share, in %; `of` picks the holder from a run's method."""
        return mean_percent([run.share(name, run.method.get(of) or {} if of else None) for run in self.runs])

    def values(self, name):
        """The runs' shares in %."""
        return [100 * run.share(name) for run in self.runs]

    @property
    def seconds(self):
        return sum(run.results["seconds"] for run in self.runs) / len(self.runs)


def mean_percent(values):
    """Mean of fractions, in %; nan if there is none or one is not known."""
    return 100 * sum(values) / len(values) if values else math.nan


def defence_effect(before, after):
    """DER, the defence effectiveness rating, in %: ((ASR drop)+ - (ACC drop)+ + 1) / 2, of (ACC, ASR) in % each.

    50 is a defence that does nothing; 100 one that removes a sure backdoor for nothing. nan where a figure is unknown.
    """
    (acc_before, asr_before), (acc, asr) = before, after
    if any(value != value for value in (*before, *after)):
        return math.nan
    return (max(0.0, asr_before - asr) - max(0.0, acc_before - acc) + 100) / 2


def base_name(run):
    """What a run is called beside its rivals: an attack by its folder, without its seed's; a defence by its method."""
    if run.script in ATTACKERS:
        return "/".join(part for part in run.name.split("/") if not SEED_PART.fullmatch(part)) or run.name
    return DEFENCES.get(run.method.get("name"), str(run.method.get("name")))


def settings(run):
    """What decides a run's outcome beside its kind, the seed and the model that it is given.

    Of a pruned model also how its masks were made.
    """
    own = {name: value for name, value in run.did.items() if name not in HIDDEN}
    if run.script == "prune_network.py" and run.above and run.above.script == "generate_mask.py":
        own = {**run.above.did, **own}
    if run.method.get("patch_with"):
        own["patch_with"] = run.method["patch_with"]
    return own


def name_apart(kinds):
    """Names for [(base name, settings)]: the base, with up to three settings that tell it from others of that base."""
    names = []
    for base, own in kinds:
        rivals = [other for name, other in kinds if name == base]
        telling = [name for name in sorted({name for other in rivals for name in other})
                   if len({repr(other.get(name)) for other in rivals}) > 1]
        said = ", ".join(f"{name.replace('_', ' ')} {say(own[name])}" for name in telling[:3] if name in own)
        names.append(f"{base} ({said})" if said else base)
    return names


def say(value):
    """A setting's value in few letters."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value).rstrip("/").rsplit("/", 1)[-1]


def group(runs):
    """Groups of runs that have base name, setting (data set and width) and settings in common, in their order."""
    found = {}
    for run in runs:
        key = (base_name(run), run.setting, repr(sorted(settings(run).items())))
        found.setdefault(key, []).append(run)
    names = name_apart([(key[0], {**settings(own[0]), "data": run_setting(own[0])}) for key, own in found.items()])
    return [Group(name, tuple(own)) for name, own in zip(names, found.values(), strict=True)]


def run_setting(run):
    """A run's data set and width in words."""
    dataset, width = run.setting
    return f"{dataset}, width {width}"


def attacks(runs):
    """Groups of the finished attacks."""
    return group([run for run in runs if run.state == FINISHED and run.script in ATTACKERS])


def defences(runs):
    """The finished runs that leave a repaired model."""
    return [run for run in runs if run.state == FINISHED and run.method.get("name") in DEFENCES
            and run.results.get("acc")]


def attack_behind(run, groups):
    """The Group of the attack that made the model which `run` defends; None if it is not among `groups`.

    The nearest folder above the run's that holds an attack; otherwise, as for a model of the zoo, the attack in a
    folder of the same name as the checkpoint's; for ABL, which has no model, an attack with the same poison.
    """
    members = {own.folder: own_group for own_group in groups for own in own_group.runs}
    above = next((members[folder] for folder in run.folder.parents if folder in members), None)
    if above or run.method.get("name") != "ABL":
        parent = str(run.results.get("parent") or "").split("/")
        named = [own_group for folder, own_group in members.items() if folder.name == (parent[-2:] or [""])[0]]
        return above or (named[0] if len(parent) > 1 and named else None)
    same = [own_group for own_group in groups if own_group.runs[0].script == "train_backdoor.py"
            and all(own_group.runs[0].arguments.get(name) == run.arguments.get(name) for name in ABL_SHARED)]
    return min(same, key=lambda own: abs(own.runs[0].arguments["epochs"] - run.arguments["epochs"]), default=None)


@dataclass(frozen=True)
class Effect:
    """A defence on an attack: Group of its runs, what was there before (ACC, ASR in %), and DER."""

    attack: str
    defence: str
    group: Group
    before: tuple

    @property
    def after(self):
        return self.group.mean("acc"), self.group.mean("asr")

    @property
    def rating(self):
        return defence_effect(self.before, self.after)


def effects(runs):
    """Every Effect, with "none" first for each attack; defences of models whose attack is not here under their name."""
    groups, by_attack = attacks(runs), {}
    for own in groups:
        by_attack[own.name] = (own, [])
    for run in defences(runs):
        behind = attack_behind(run, groups)
        name = behind.name if behind else f"model in {str(run.results.get('parent') or run.name).rsplit('/', 1)[0]}"
        by_attack.setdefault(name, (behind, []))[1].append(run)
    found = []
    for name, (behind, own) in by_attack.items():
        if behind:
            found.append(Effect(name, "none", behind, (behind.mean("acc"), behind.mean("asr"))))
        for one in group(own):
            before = one.mean("acc", "before"), one.mean("asr", "before")
            if behind and any(value != value for value in before):
                before = behind.mean("acc"), behind.mean("asr")
            found.append(Effect(name, one.name, one, before))
    return found


def spread(values):
    """Lowest to highest in words; nothing for one value."""
    known = [value for value in values if value == value]
    return f"{min(known):.2f} to {max(known):.2f}" if len(known) > 1 else ""


__all__ = ["SHARES", "Effect", "Group", "attack_behind", "attacks", "base_name", "defence_effect", "defences",
           "effects", "group", "mean_percent", "run_setting", "spread"]
