"""The flags that say how thoroughly an audit's witnesses look, shared by the audit and its calibration."""
from engine.command_line.parser import Group, Parser, integer, positive


def add_witness_flags(parser: Parser, note: str) -> Group:
    """MM-BD's climb and Neural Cleanse's searches, None where a flag is not given. note: what then counts."""
    group = parser.add_argument_group("witnesses", note)
    group.add_argument("--starts", type=integer(1), help="MM-BD: random images from which each class climbs")
    group.add_argument("--steps", type=integer(2), help="MM-BD: largest number of steps")
    group.add_argument("--step", type=positive, help="MM-BD: what the margin's gradient is multiplied by in each step")
    group.add_argument("--searches", type=integer(1), help="Neural Cleanse: searches, each from another seed")
    group.add_argument("--batches", type=integer(1), help="Neural Cleanse: batches of clean images in a step")
    group.add_argument("--batch-size", type=integer(1), help="Neural Cleanse: clean images for each label at a time")
    group.add_argument("--budget", type=integer(1), help="Neural Cleanse: largest number of steps for each label")
    group.add_argument("--patience", type=integer(1),
                       help="Neural Cleanse: steps without a smaller norm after which a label is done")
    return group
