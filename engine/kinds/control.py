"""The control beside a repair: what fine-tuning alone does."""
import logging
import math
from pathlib import Path

from common.untrusted import read_json
from engine.kinds.inputs import find_run

log = logging.getLogger("backdoor")


def read_control(checkpoint: str | Path, name: str) -> dict | None:
    """The figures {"acc", "asr"}, as in results.json, of the run `name` that only fine-tuned the same model; None if
    there is no such run."""
    try:
        results = read_json(find_run(checkpoint, name) / "results.json")
        if Path(results["parent"]).samefile(checkpoint):
            return {key: results[key] for key in ("acc", "asr")}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def log_control(control: dict | None, how: str) -> None:
    """Log the figures of read_control, or the flags `how` that would make them."""
    if control is None:
        log.info("control: fine-tuning alone has not been run; run it with %s", how)
    else:
        acc, asr = (math.nan if control[key] is None else control[key]["value"] for key in ("acc", "asr"))
        log.info("control, fine-tuning alone: ASR %.4f, ACC %.4f", asr, acc)
