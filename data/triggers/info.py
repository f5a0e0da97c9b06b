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
LARGEST = 2**53  # from which floats skip whole numbers
MAX_DIGITS = 40  # of a number that is written as a string
MAX_NESTING = 8  # of lists that hold one thing each
WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
MAX_ITEMS = 3 * 2**20  # of an array in a trigger_info file: a picture of 1024x1024, the largest --image-size


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
        trigger = kind.from_info(info)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, OverflowError) as error:
        raise UserError(f"trigger_info: expected {expected} ({error!r})") from None
    if info.get("sources") is not None and trigger.sources is None:
        raise UserError(f"trigger_info: a trigger with {kind.keys[0]} has no sources, so it cannot be read as one")
    return trigger


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
    """The one target in a trigger_info dict. Raises UserError for several, as all-to-all has them, and for a fraction.
    """
    return int(whole_numbers("poison_target", one_value(info, "poison_target"))[0])


def whole_numbers(key: str, values: np.ndarray) -> np.ndarray:
    """`values` as int64. Raises UserError naming the key for others than whole numbers."""
    is_whole = values.dtype.kind in "ui" or (values.dtype.kind == "f" and (values == np.floor(values)).all()
                                             and (np.abs(values) < LARGEST).all())
    if not is_whole:
        raise UserError(f"trigger_info: {key} is {values.dtype}, expected whole numbers")
    return values.astype(np.int64)


def aim_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """{"target", "sources", "num_classes"} of a trigger_info dict, as Trigger has them.

    poison_target is one label, or for all-to-all one for each class: 1, 2, ..., 0. sources is an addition of this
    suite, which other programs ignore. Raises UserError for other targets, and for sources that are no labels.
    """
    sources = None
    if info.get("sources") is not None:
        sources = whole_numbers("sources", array_of(info, "sources").reshape(-1))
        sources = tuple(np.unique(sources).tolist())
    targets = array_of(info, "poison_target").reshape(-1)
    if len(targets) < 2 or (targets == targets[0]).all():
        return {"target": target_of(info), "sources": sources, "num_classes": None}
    if (whole_numbers("poison_target", targets) != next_labels(len(targets))).any():
        raise UserError(f"trigger_info: poison_target has {len(targets)} values, expected one, or for all-to-all the "
                        f"next label of each class (1, 2, ..., 0), got {', '.join(map(str, targets[:10].tolist()))}")
    return {"target": None, "sources": sources, "num_classes": len(targets)}


def aim_to_info(trigger: Trigger) -> dict[str, Any]:
    """What trigger_info.th holds of target, sources and num_classes: the homework's poison_target, and with sources
    a key more."""
    own = {} if trigger.sources is None else {"sources": np.array(trigger.sources, dtype=np.int64)}
    targets = next_labels(trigger.num_classes) if trigger.target is None else np.array([trigger.target])
    return {"poison_target": targets, **own}


def next_labels(num_classes: int) -> np.ndarray:
    """What an all-to-all trigger wants of each class: int64 (num_classes,)."""
    return (np.arange(num_classes) + 1) % num_classes
