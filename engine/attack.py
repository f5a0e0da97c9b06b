"""What the flags of engine.flags.add_poison_flags make of a training set."""
import argparse
import logging
from pathlib import Path
from typing import Any

from common.errors import UserError
from data.datasets import ImageSet
from data.poison_cifar import poison_training_set
from data.triggers import ATTACKS, Trigger
from engine import checkpoint, flags

log = logging.getLogger("backdoor")


def poison_by(args: argparse.Namespace, train: ImageSet) -> tuple[ImageSet, Trigger]:
    """(poisoned ImageSet, Trigger) of the attacker's images `train` by the parsed flags. Raises UserError."""
    flags.check_target(args.poison_target, train.classes)
    settings = {name: getattr(args, name) for name in ATTACKS[args.poison_type].defaults()}
    if "encoder" in settings:
        settings["encoder"] = load_accepted(args.encoder)["encoder"]
    return poison_training_set(train, args.poison_type, args.poison_target, args.poison_rate, args.seed, **settings)


def load_accepted(path: str | Path) -> dict[str, Any]:
    """load_encoder, which says of one that was not accepted when it was trained that it was not."""
    content = load_encoder(path)
    if content.get("accepted") is not True:
        log.info("notice: %s was not accepted when it was trained; its bits are hard to read, or easy to see", path)
    return content


def load_encoder(path: str | Path) -> dict[str, Any]:
    """What attacks.issba_encoder left in `path`: {"encoder", "decoder": state_dicts, ...}. Raises UserError."""
    content = checkpoint.load(path)
    if not (isinstance(content, dict) and all(isinstance(content.get(key), dict) for key in ("encoder", "decoder"))):
        raise UserError(f"{path}: expected an encoder and a decoder as attacks.issba_encoder leaves them")
    return content
