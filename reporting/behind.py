"""Which attack made the model that a defense was run on."""
from pathlib import PurePosixPath

from common.files import hash_file
from common.inputs import are_of_others
from engine.command_line.poison_flags import POISON_FLAGS
from reporting.groups import SEED_PART
from reporting.scripts import trains_attack, trains_repair

ABL_SHARED = (*POISON_FLAGS, "crop_padding", "flip", "cutout", "label_smoothing")


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
