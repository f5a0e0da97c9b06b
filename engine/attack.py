"""What the flags of engine.flags.add_poison_flags make of a training set."""
import logging

from common.errors import UserError
from common.untrusted.weights import read_tensors
from data.poison_cifar import poison_training_set
from engine import flags

log = logging.getLogger("backdoor")


def poison_by(args, train):
    """(poisoned ImageSet, Trigger) of the attacker's images `train` by the parsed flags. Raises UserError."""
    flags.check_target(args.poison_target, train.classes)
    encoder = load_encoder(args.encoder) if args.encoder else {}
    if encoder and encoder.get("accepted") is not True:
        log.info("notice: %s was not accepted when it was trained; its bits are hard to read, or easy to see",
                 args.encoder)
    return poison_training_set(train, args.poison_type, args.poison_target, args.poison_rate, args.trigger_alpha,
                               args.trigger_image, args.clb_dir, args.eval_trigger, args.seed, encoder.get("encoder"))


def load_encoder(path):
    """What attacks.issba_encoder left in `path`: {"encoder", "decoder": state_dicts, ...}. Raises UserError."""
    content = read_tensors(path)
    if not (isinstance(content, dict) and all(isinstance(content.get(key), dict) for key in ("encoder", "decoder"))):
        raise UserError(f"{path}: expected an encoder and a decoder as attacks.issba_encoder leaves them")
    return content
