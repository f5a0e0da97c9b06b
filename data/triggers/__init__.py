"""Triggers: what an attacker puts into an image, the table of attacks on data, and how trigger_info.th tells of them.

base: what every trigger is. pattern: a fixed picture. encoder: a network (ISSBA), imported when it is used, since it
needs PyTorch. table: the attacks. info: trigger_info dicts. docs/extending.md shows how to add a trigger.
"""
from data.triggers.base import COVERS_IMAGE, Trigger
from data.triggers.info import trigger_from_info, trigger_to_info
from data.triggers.pattern import PatternTrigger, read_trigger_image
from data.triggers.table import (
    ATTACKS,
    Attack,
    Flag,
    build_trigger,
    checkerboard_1corner,
    checkerboard_4corner,
    gaussian_noise,
    patterns,
)

__all__ = ["ATTACKS", "COVERS_IMAGE", "Attack", "Flag", "PatternTrigger", "Trigger", "build_trigger",
           "checkerboard_1corner", "checkerboard_4corner", "gaussian_noise", "patterns", "read_trigger_image",
           "trigger_from_info", "trigger_to_info"]
