"""What the report asks of the scripts that left runs; engine/catalogue.py says it."""
from engine.catalogue import ATTACK, BY_MODULE, REPAIR, defense_cells, script_of

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


def repair_name(script, method):
    """What a repair is called in tables: as its script, or where that has several modes as its own `method` entry of
    results.json says."""
    row = BY_MODULE[script]
    return row.title if len(row.cells) == 1 else method.get("name", row.title)


def leaves_model(script):
    """Whether the script of this name leaves a model that another run may start from."""
    return script not in BY_MODULE or BY_MODULE[script].leaves_model
