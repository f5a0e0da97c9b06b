"""Runs side by side: which are the same thing with other seeds, which attack a defense was run on, what it gained."""
import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from common.files import hash_file
from common.inputs import are_of_others
from engine.catalogue import gifts
from engine.command_line.flags import POISON_FLAGS
from engine.measuring.doubt import IMPLAUSIBLE
from reporting.found import USUAL_ARCH
from reporting.scripts import MASKS, PRUNING, leaves_model, repair_name, trains_attack, trains_repair

SEED_PART = re.compile(r"(^|[-_])seed[-_]?\d+$")
# Unlearning's two controls, by what they patch with.
CONTROLS = {"clean": "NC control, no trigger", "original": "NC control, true trigger"}
ABL_SHARED = (*POISON_FLAGS, "crop_padding", "flip", "cutout", "label_smoothing")
HIDDEN = {"dataset", "width", "arch", "task", "mode", "poison_type", "eval_trigger", "track_losses"}  # said elsewhere
NONE = "none"


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


def without_seed(name):
    """A folder's name without what tells its seed: badnets/seed-1 and badnets-seed-1 are badnets."""
    parts = [SEED_PART.sub("", part) for part in name.split("/")]
    return "/".join(part for part in parts if part) or name


def base_name(run):
    """What a run is called beside its rivals: an attack by its folder; a defense by its method, and by what it was run
    on where that is itself a repaired model."""
    if run.is_attack:
        return without_seed(run.name)
    name = CONTROLS.get(run.method.get("patch_with")) or repair_name(run.script, run.method)
    on = model_above(run)
    return f"{name} after {base_name(on)}" if on and on.leaves_repaired else name


def model_above(run):
    """The nearest run above that leaves a model: past the masks that a pruned model is pruned by."""
    above = run.above
    while above and not leaves_model(above.script):
        above = above.above
    return above


def settings(run):
    """What decides a run's outcome beside its kind, the seed and the model that it is given.

    Of a pruned model also how its masks were made.
    """
    own = {name: value for name, value in run.did.items() if name not in HIDDEN}
    if run.script == PRUNING and run.above and run.above.script == MASKS:
        own = {**{name: value for name, value in run.above.did.items() if name not in HIDDEN}, **own}
    if run.leaves_out:  # by the folder of the detector that left the file
        own["leave_out"] = PurePosixPath(str(own["leave_out"])).parent.name
    made = {"start_from", "second", "reversed_trigger", *(gift.flag for _, gift in gifts().values())} & own.keys()
    return {**own, **{flag: of_no_seed(own[flag]) for flag in made}}


def of_no_seed(made):
    """A path, or a list of them, of what was made for each seed anew, without its seed."""
    return [without_seed(str(one)) for one in made] if isinstance(made, list) else without_seed(str(made))


def say(value):
    """A setting's value in few letters."""
    if isinstance(value, list):
        return " ".join(map(say, value))
    return str(value).rstrip("/").rsplit("/", 1)[-1]


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


def group(runs):
    """{name: [runs]} of those that differ in nothing but their seed. Names are unique."""
    found = {}
    for run in runs:
        key = (base_name(run), str(run.arguments.get("poison_type")), run.setting,
               repr(sorted(settings(run).items(), key=lambda item: item[0])))
        found.setdefault(key, []).append(run)
    names = name_apart([(base, {**settings(own[0]), "data": run_setting(own[0])})
                        for (base, *_), own in found.items()])
    return {name if names.count(name) == 1 else f"{name}: {own[0].name}": own
            for name, own in zip(names, found.values(), strict=True)}


def run_setting(run):
    """A run's data set, network and width in words; the network is named where it is another than ResNet-18, and the
    width left out where the network has only one."""
    dataset, arch, width = run.setting
    parts = [dataset or "?", *([] if arch == USUAL_ARCH else [arch])]
    if width is not None or not run.spec:
        parts.append(f"width {'?' if width is None else width}")
    return ", ".join(parts)


def attacks(runs):
    """{name: [runs]} of the finished attacks."""
    return group([run for run in runs if run.is_attack])


def defenses(runs):
    """The finished runs that leave a repaired model."""
    return [run for run in runs if run.is_repair]


def shared_end(one, other):
    """How many parts two paths have in common at their ends; 0 where these are the seed alone."""
    count = 0
    for a, b in zip(reversed(one.parts), reversed(other.parts), strict=False):
        if a != b:
            break
        count += 1
    return count if any(SEED_PART.sub("", part) for part in one.parts[len(one.parts) - count:]) else 0


def may_have_made(attack, run):
    """Whether an attack's run can have made the model which `run` defends: unless its weights are there, and others."""
    model, inputs = attack.folder / PurePosixPath(run.results.get("parent") or "none").name, run.config.get("inputs")
    return not (model.is_file() and are_of_others(inputs, hash_file(model)))


def all_above(run):
    """The runs in whose folders a run lies, the nearest first."""
    while run.above:
        run = run.above
        yield run


def trained_alike(run, others, names):
    """Those of `others` that train_backdoor trained from fresh weights on the data set, network and width of a run
    and with the same flags `names`; where there are any with the run's seed, only those."""
    same = [one for one in others if one.script == "train_backdoor" and one.setting == run.setting
            and run.arguments and one.arguments and not one.arguments.get("start_from")
            and all(one.arguments.get(name) == run.arguments.get(name) for name in names)]
    return [one for one in same if one.results.get("seed") == run.results.get("seed")] or same


def attack_behind(run, groups):
    """The attack's run that made the model which `run` defends; None if it is not among `groups` for certain.

    A defense that trains a model of its own is set against an attack with the same poison. The other way to find it is
    the nearest folder above that holds an attack, none if that is not finished; otherwise, as for a model of the zoo,
    `nearest_by_path`.
    """
    members = [member for own in groups.values() for member in own]
    if trains_itself(run):
        found = with_same_poison(run, members)
        if found or run.arguments.get("poison_type") != "stored":  # whose trigger is that of a run with no such set
            return found
    above = next((one for one in all_above(run) if one in members or (
        trains_attack(one.script) and not one.leaves_out)), None)
    if above:
        return above if above in members else None  # a training that is not finished, so it made no other's model
    return nearest_by_path(run, members)


def trains_itself(run):
    """Whether a defense is given no model: ABL, and a training without what is suspected."""
    return run.leaves_out or trains_repair(run.script)


def with_same_poison(run, attacks):
    """The attack with the same poison in a folder above; else the one with the same poison and augmentation, of those
    the one whose number of epochs is nearest; None where there is none."""
    above = trained_alike(run, [one for one in all_above(run) if one in attacks], POISON_FLAGS)
    if above:
        return above[0]
    epochs = run.arguments.get("epochs") or 0
    return min(trained_alike(run, attacks, ABL_SHARED), default=None,
               key=lambda one: abs((one.results.get("epochs") or 0) - epochs))


def nearest_by_path(run, attacks):
    """The attack of the same data set, network and width whose path ends most like the checkpoint's and whose weights
    are no others; None where none or several are so."""
    parent = PurePosixPath(str(run.results.get("parent") or "")).parent
    likeness = {one.name: shared_end(parent, PurePosixPath(one.name)) for one in attacks
                if one.setting == run.setting and may_have_made(one, run)}
    best = max(likeness.values(), default=0)
    nearest = [one for one in attacks if best and likeness.get(one.name) == best]
    return nearest[0] if len(nearest) == 1 else None


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
