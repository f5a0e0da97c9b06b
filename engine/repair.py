"""Fine-tuning on the defender's clean images, the second half of most repairs, and the control of it alone."""
import json
import logging
import math
from pathlib import Path

from engine.suspect import default_folder
from engine.training import evaluate, train_epoch

log = logging.getLogger("backdoor")


def fine_tune(run, model, batches, test, optimizer, epochs, amp):
    """Train `model` for `epochs` of the Run, tested on TestImages after each; returns the last TestScore."""
    after = None
    for epoch in run.epochs(epochs, model=model, optimizer=optimizer):
        train_score = train_epoch(model, batches, optimizer, amp)
        after = evaluate(model, test)
        run.log(epoch, optimizer.param_groups[0]["lr"], train_score, after)
    return after or evaluate(model, test)  # none yet where the last epoch was done before a stop


def read_control(checkpoint, name):
    """What fine-tuning alone made of the same model in the run `name`, {"acc", "asr"} as in results.json; None if there
    is no such run."""
    try:
        results = json.loads((Path(default_folder(checkpoint, name)) / "results.json").read_text())
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
