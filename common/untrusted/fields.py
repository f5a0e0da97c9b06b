"""Entries of an object whose values are what they should be."""
import sys
from collections.abc import Callable, Mapping
from typing import Any


def sound_fields(found: Any, fields: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    """The entries of the dict `found` that `fields` names and whose values pass its test; {} of anything but a dict."""
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name, is_sound in fields.items() if name in found and is_sound(found[name])}


def is_text(value: Any) -> bool:
    """Whether it is a string."""
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; true and false are none."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # also of an int that no float holds


def is_count(value: Any) -> bool:
    """Whether it is a whole number of at least 0; true and false are none."""
    return type(value) is int and value >= 0
