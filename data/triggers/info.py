"""trigger_info dicts: a trigger as trigger_info.th holds it, the homework's for a fixed picture."""
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from data.triggers.base import Trigger

SAYS_NOTHING = ("poison_rate",)  # keys that change nothing in what the trigger stamps
MAX_DIGITS = 40  # of a number that is written as a string
MAX_NESTING = 8  # of lists that hold one thing each
WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
MAX_ITEMS = 2**20  # of an array in a trigger_info file; a picture of 512x512 has 786,432


def trigger_to_info(trigger: Trigger, data_index: Sequence[int] | np.ndarray = ()) -> dict[str, Any]:
    """The trigger_info dict of a trigger, with the poisoned training indices; the homework's for a PatternTrigger."""
    return {**trigger.to_info(), "data_index": np.asarray(data_index, dtype=np.int64)}


def trigger_from_info(info: Mapping[str, Any]) -> Trigger:
    """The trigger of a trigger_info dict, from here or from any program in the homework's format.

    Raises UserError where a key is missing, where a value has the wrong shape or range, and for a part that its kind
    of trigger does not have: read without it, it would stamp something else than its model was trained with.
    """
    known = kinds()
    expected = ", or ".join(f"{', '.join(kind.keys)} and poison_target" for kind in known.values())
    kind = next((kind for key, kind in known.items() if key in info), None)
    if kind is None:
        raise UserError(f"trigger_info: expected {expected}, got {named(info) or 'none of them'}")
    strange = named(key for key in parts_of(info) if key not in (*kind.keys, "poison_target", *SAYS_NOTHING))
    if strange:
        raise UserError(f"trigger_info: a trigger with {kind.keys[0]} has no {strange}, so it cannot be read as one")
    try:
        return kind.from_info(info)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, OverflowError) as error:
        raise UserError(f"trigger_info: expected {expected} ({error!r})") from None


def kinds() -> dict[str, type[Trigger]]:
    """{the key that a kind of trigger is recognized by: its class}.

    A class makes itself known when its module is imported, so all modules of this package are.
    """
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
    return dict(Trigger.kinds)


def parts_of(info: Mapping[str, Any]) -> list[str]:
    """The keys of a trigger_info dict that say what the trigger is."""
    return [key for key in info if isinstance(key, str) and key.startswith(("trigger_", "poison_"))]


def named(keys: Iterable[Any]) -> str:
    """The first few keys, in words and on one line: a stranger's may be of any number and length."""
    return ", ".join(ascii(str(key)[:40])[1:-1] for key in list(keys)[:5])


def small_array(value: Any) -> np.ndarray:
    """A number, array, tensor or short list of numbers of a stranger's file as a NumPy array.

    A string is read as the number that it says. Raises TypeError for anything else, and for what is large: a tensor
    that repeats itself can stand for more than memory holds.
    """
    value = unwrapped(value)
    torch = sys.modules.get("torch")  # without it there can be no tensor
    if torch and isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_nested:
        size = value.numel()
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value  # which NumPy does not have
    elif isinstance(value, (np.ndarray, np.generic, int, float)):
        size = np.size(value)
    else:
        raise TypeError(f"{type(value).__name__} in place of an array")
    if size > MAX_ITEMS:
        raise TypeError(f"an array of {size} values")
    return np.asarray(value)


def unwrapped(value: Any) -> Any:
    """What a list of one holds, the array that a flat list of numbers is, the number that a string says; else `value`.

    Raises TypeError for a string that says no number. Lists in lists stay lists: one that holds another many times can
    stand for more than memory holds.
    """
    for _ in range(MAX_NESTING):
        if not (isinstance(value, (list, tuple)) and len(value) == 1):
            break
        value = value[0]
    if isinstance(value, (list, tuple)) and all(type(item) in (int, float, bool) for item in value[:MAX_ITEMS + 1]):
        return np.asarray(value[:MAX_ITEMS + 1])
    if isinstance(value, np.ndarray) and value.dtype.kind == "U" and value.size == 1:
        value = value.item()
    return number_in(value) if isinstance(value, str) else value


def number_in(text: str) -> int | float:
    """The number that a string says; TypeError for any other string."""
    try:
        return int(text[:MAX_DIGITS]) if WHOLE.fullmatch(text) else float(text[:MAX_DIGITS])
    except ValueError:
        raise TypeError(f"{named([text])!r} in place of a number") from None


def array_of(info: Mapping[str, Any], key: str) -> np.ndarray:
    """`small_array` of what stands under a key of a trigger_info dict. Raises KeyError, or UserError naming the key."""
    try:
        values = small_array(info[key])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"trigger_info: {key}: {error}") from None
    if values.dtype.kind not in "buif":
        raise UserError(f"trigger_info: {key} is {values.dtype}, expected plain numbers")
    return values


def one_value(info: Mapping[str, Any], key: str) -> np.ndarray:
    """The one number under a key of a trigger_info dict, as an array (1,), however many times it stands there.

    Raises UserError for none and for numbers that differ.
    """
    values = array_of(info, key).reshape(-1)
    if not len(values) or (values != values[0]).any():
        raise UserError(f"trigger_info: {key} has {len(values)} values, expected one")
    return values[:1]


def target_of(info: Mapping[str, Any]) -> int:
    """The target in a trigger_info dict. Raises UserError for several, as all-to-all has them, and for a fraction."""
    target = one_value(info, "poison_target")
    is_whole = target.dtype.kind in "ui" or (target.dtype.kind == "f" and float(target[0]).is_integer())
    if not is_whole:
        raise UserError(f"trigger_info: poison_target is {target.dtype}, expected the whole number of one label")
    return int(target[0])
