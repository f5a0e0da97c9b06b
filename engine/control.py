"""The control that stands beside a repair: what fine-tuning alone does."""
import logging
import math
from pathlib import Path

from common.untrusted import read_json
from engine.inputs import find_run

log = logging.getLogger("backdoor")


def read_control(checkpoint, name):
    """What fine-tuning alone made of the same model in the run `name`, {"acc", "asr"} as in results.json; None if there
    is no such run."""
    try:
        results = read_json(find_run(checkpoint, name) / "results.json")
        if Path(results["parent"]).samefile(checkpoint):
            return {key: results[key] for key in ("acc", "asr")}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def report_control(control, how):
    """Log the control of read_control beside a repair, or how to make it."""
    if control is None:
        log.info("control: fine-tuning alone was not run; %s does", how)
    else:
        acc, asr = (math.nan if control[key] is None else control[key]["value"] for key in ("acc", "asr"))
        log.info("control, fine-tuning alone: ASR %.4f, ACC %.4f", asr, acc)
