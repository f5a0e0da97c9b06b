"""The control beside a repair: what fine-tuning alone does."""
import logging
import math
from argparse import Namespace

from common.files import hash_file
from common.inputs import are_of
from common.untrusted import read_json
from engine.command_line.normalization import INPUT_FLAGS
from engine.defending.suspect import find_run

# What a repair and its control have to share; not the seed, nor what only one of the two has.
SHARED = ("dataset", "data_dir", "image_size", "classes", "trigger_info", *INPUT_FLAGS, "val_frac", "epochs",
          "batch_size", "lr", "momentum", "weight_decay", "milestones", "label_smoothing", "crop_padding", "flip")
log = logging.getLogger("backdoor")


def find_control(args: Namespace, name: str, how: str) -> dict | None:
    """The figures {"acc", "asr"}, as in results.json, of the run `name` that only fine-tuned the same weights, on the
    same images and by the same schedule as the flags `args`; None if there is no such run.

    Logs them; or why there are none, and the flags `how` that make them.
    """
    folder = find_run(args.checkpoint, name)
    try:
        config, results = read_json(folder / "config.json"), read_json(folder / "results.json")
        before, is_same = config["arguments"], are_of(config["inputs"], hash_file(args.checkpoint))
        now = {flag: getattr(args, flag) for flag in SHARED if hasattr(args, flag)}
        other = [f"--{flag.replace('_', '-')} {before[flag]}, not {now[flag]}" for flag in now
                 if flag in before and before[flag] != now[flag]]
        control = {key: results[key] for key in ("acc", "asr")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        log_control(None, how)
        return None
    if not is_same:
        log.info("control: %s is of other weights; run it again with %s", folder, how)
    elif other:
        log.info("control: %s was made with %s; run it with %s and this run's other flags", folder, ", ".join(other),
                 how)
    else:
        log_control(control, how)
        return control
    return None


def log_control(control: dict | None, how: str = "") -> None:
    """Log the figures {"acc", "asr"} of a control; None: that there are none, and the flags `how` that make them."""
    if control is None:
        log.info("control: fine-tuning alone has not been run; run it with %s and this run's other flags", how)
    else:
        acc, asr = (math.nan if control[key] is None else control[key]["value"] for key in ("acc", "asr"))
        log.info("control, fine-tuning alone: ASR %.4f, ACC %.4f", asr, acc)
