"""Of which images a trigger's attacker wants which label, in words, and what a method supposes of that."""
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from data.triggers import Trigger
from engine.catalogue import BY_MODULE
from engine.command_line.aim_flags import called
from engine.command_line.command import running
from engine.runs.run import Run

IS = {"all_to_all": "all-to-all", "sources": "for images of some classes alone"}
log = logging.getLogger("backdoor")


def aim_in_words(trigger: Trigger, classes: Sequence[str]) -> str:
    """Of which classes' images the trigger wants which label; `classes` has the names in label order."""
    words = ("all-to-all, the target of each class is the next one" if trigger.target is None
             else f"target class {called(trigger.target, classes)}")
    if trigger.sources is not None:
        words += f"; source classes {', '.join(called(label, classes) for label in trigger.sources)}"
    return words


def facts_of(trigger: Trigger) -> dict[str, Any]:
    """What results.json says of a trigger's aim: all_to_all and sources; nothing of one target for all others."""
    facts = {"all_to_all": True} if trigger.target is None else {}
    return facts if trigger.sources is None else {**facts, "sources": list(trigger.sources)}


def unmet(script: str, facts: Mapping[str, Any]) -> list[str]:
    """Sentences on what a script, by its module, supposes of a trigger and does not find in one with these facts_of."""
    if script not in BY_MODULE:
        return []
    row = BY_MODULE[script]
    return [f"{row.title} supposes {row.supposes[name]}; this trigger is {words}, so it may go unnoticed"
            for name, words in IS.items() if facts.get(name) and name in row.supposes]


def log_aim(trigger: Trigger, classes: Sequence[str]) -> None:
    """Log the trigger's aim, and what the script that runs supposes of a trigger and does not hold of this one."""
    log.info("%s", aim_in_words(trigger, classes))
    for sentence in unmet(running(), facts_of(trigger)):
        log.warning("%s", sentence)


def note_aim(run: Run, trigger: Trigger, classes: Sequence[str]) -> None:
    """log_aim, and have the run's results.json say the trigger's aim."""
    log_aim(trigger, classes)
    run.facts = facts_of(trigger)
