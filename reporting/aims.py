"""What a reader must know of runs whose trigger has another aim than one target for images of all other classes."""
from engine.attacking.aim import unmet
from reporting.candidates import has_usual_aim
from reporting.document import Text
from reporting.shares import percent


def aims(runs):
    """A Text for each run of an attack with another aim."""
    return tuple(Text(f"{run.name}: {aim(run.results)}") for run in runs if not has_usual_aim(run))


def aim(results):
    """The aim of a trigger in sentences, by results.json."""
    parts = []
    if results.get("all_to_all"):
        parts.append("All-to-all: ASR is the share of triggered images that are given the class after their own.")
    if results.get("sources"):
        sources = ", ".join(f"{label:g}" for label in results["sources"])
        parts.append(f"Only images of the classes {sources} are poisoned, and ASR counts these classes alone.")
    if results.get("asr_other_classes"):
        parts.append(f"Of triggered images of other classes, {percent(results['asr_other_classes'])} % are given the "
                     "label that the attacker wants for images of the source classes.")
    return " ".join(parts)


def suppositions(runs):
    """A Text for each thing that a method supposes of a trigger and that does not hold in some of `runs`."""
    names = {}
    for run in runs:
        for sentence in unmet(run.script, run.results):
            names.setdefault(sentence, []).append(run.name)
    return tuple(Text(f"{', '.join(found)}: {sentence}.") for sentence, found in names.items())
