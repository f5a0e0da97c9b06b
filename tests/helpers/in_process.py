"""The cells of a study without a process each: most of a small cell's time is PyTorch's start."""
import importlib

from common.errors import UserError
from engine.catalogue import BY_MODULE
from helpers.runs import main_of
from studies import calibrate_audit


def call(script, *arguments):
    """What engine.cells.call does, in this process; what a script says when it refuses goes to stderr."""
    try:
        main_of(script)([str(word) for word in arguments])
    except SystemExit as ended:
        if ended.code:
            raise UserError(f"{script} ended with status {ended.code}") from None


def stay(patch):
    """Let sweeps and the calibration of audits call their cells so, until `patch`, a MonkeyPatch, is undone."""
    sweeps = [importlib.import_module(name) for name, script in BY_MODULE.items() if script.is_sweep]
    for study in (calibrate_audit, *sweeps):
        patch.setattr(study, "call", call)
