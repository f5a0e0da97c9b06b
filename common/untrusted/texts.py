"""Strangers' text, JSON and YAML."""
import codecs
import json
import math
import os
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.untrusted.limits import MAX_JSON, MAX_TEXT, MAX_YAML, fault_of


def read_text(path: str | os.PathLike, most: int = MAX_TEXT, errors: str = "strict") -> str:
    """A file's text in UTF-8 or UTF-16 (as PowerShell's > writes it); errors: as of bytes.decode.

    Lines end in a line feed, whatever they end in there; a byte order mark is left out. Raises OSError, or ValueError
    for a file of more than `most` bytes or, with "strict", one in another encoding.
    """
    fault = fault_of(path, most)
    if fault:
        raise ValueError(fault)
    content = Path(path).read_bytes()
    return content.decode(encoding_of(content), errors).replace("\r\n", "\n").replace("\r", "\n")


def encoding_of(content: bytes) -> str:
    """The encoding of a text: by its byte order mark, and without one by where its first zero byte stands."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zero = content[:2].find(0)  # the upper half of a letter
    return "utf-8-sig" if zero < 0 else ("utf-16-be", "utf-16-le")[zero]


def parse_json(text: str) -> Any:
    """What JSON says. Raises ValueError for other text: NaN and infinity are no JSON; and for one nested too deeply."""
    def refuse(constant: str):
        raise ValueError(f"{constant} is not a figure")

    def finite(word: str):
        return float(word) if math.isfinite(float(word)) else refuse(word)
    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: str | os.PathLike) -> Any:
    """What a JSON file holds. Raises OSError, or ValueError as parse_json or for more than MAX_JSON bytes."""
    return parse_json(read_text(path, MAX_JSON))


def read_json_lines(path: str | os.PathLike) -> list:
    """What each line of a JSON Lines file holds; raises as read_json."""
    return [parse_json(line) for line in read_text(path, MAX_JSON).splitlines()]


def read_object(path: str | os.PathLike) -> dict:
    """The dict in a JSON file; raises as read_json, and ValueError for anything but an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    return value


def read_yaml(path: str | os.PathLike) -> Any:
    """What a YAML file holds, of plain values. Raises OSError, or UserError, naming the file, for anything else."""
    import yaml  # which only the workflow needs
    try:
        return yaml.safe_load(read_text(path, MAX_YAML))
    except OSError:
        raise
    except Exception as error:  # its constructors raise almost anything
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
