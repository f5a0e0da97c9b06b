"""Triggers: what an attacker puts into an image, the table of attacks on data, and how trigger_info.th tells of them.

base: what every trigger is. table: the attacks on data. info: trigger_info dicts. The others are a kind of trigger
each, or what several kinds share; those that need PyTorch are imported when they are used. docs/extending.md shows how
to add one.
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
