"""Which runs are the same thing with other seeds, and what each is called."""
import re
from pathlib import PurePosixPath

from engine.catalogue import gifts
from reporting.found import USUAL_ARCH
from reporting.scripts import MASKS, PRUNING, leaves_model, repair_name

SEED_PART = re.compile(r"(^|[-_])seed[-_]?\d+$")
# Unlearning's two controls, by what they patch with.
CONTROLS = {"clean": "NC control, no trigger", "original": "NC control, true trigger"}
HIDDEN = {"dataset", "width", "arch", "task", "mode", "poison_type", "eval_trigger", "track_losses"}  # said elsewhere
NONE = "none"


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
