"""What the report asks of the scripts that left runs; engine/catalogue.py says it."""
from engine.catalogue import BY_MODULE, defense_cells
from engine.former_names import script_of
from engine.rows import ATTACK, REPAIR

MASKS, PRUNING = (defense_cells()[cell][0].module for cell in ("anp-masks", "anp"))


def script_name(script, task=None):
    """A script's module, such as "defenses.strip", from what config.json or results.json calls it; task: its --task."""
    return script_of(script, task)


def trains_attack(script):
    """Whether the script of this name leaves a model with a backdoor."""
    return script in BY_MODULE and BY_MODULE[script].kind == ATTACK


def repairs(script):
    """Whether the script of this name leaves a repaired model."""
    return script in BY_MODULE and BY_MODULE[script].kind == REPAIR


def trains_repair(script):
    """Whether the script of this name trains a model of its own on poisoned data, as ABL does."""
    return repairs(script) and BY_MODULE[script].trains


def repair_name(script, method):
    """What a repair is called in tables: as its script, or where that has several modes as its own `method` entry of
    results.json says."""
    row = BY_MODULE[script]
    return row.title if len(row.cells) == 1 else method.get("name", row.title)


def leaves_model(script):
    """Whether the script of this name leaves a model that another run may start from."""
    return script not in BY_MODULE or BY_MODULE[script].leaves_model


def own_titles(script):
    """{place in "method": title} of the figures of a script, by its module's name; {} for a script that has none."""
    return BY_MODULE[script].figures if script in BY_MODULE else {}


def found_at(entry, place):
    """What lies at a place such as "rounds.gap" within a JSON object; None if nothing does.

    Where a list lies on the way, the list of what lies in each of its objects.
    """
    for name in place.split("."):
        if isinstance(entry, list):
            entry = [one.get(name) if isinstance(one, dict) else None for one in entry]
        else:
            entry = entry.get(name) if isinstance(entry, dict) else None
    return entry


def own_figures(script, method):
    """[(title, value)] of the declared figures that a run's `method` entry of results.json has.

    A value is a number, a share with its interval, or a list of those.
    """
    found = [(title, found_at(method, place)) for place, title in own_titles(script).items()]
    return [(title, value) for title, value in found if value is not None]
