"""BackdoorBench's attack_result.pt: weights beside data sets, whose pictures and classes no safe loader reads.

Its pickle is walked (common.untrusted.inert), and of what it holds the plain values, tensors and arrays are kept.
"""
import os
import sys
import zipfile
from typing import Any

import numpy as np
import torch

from common.untrusted.inert import Inert, walk

MAX_PICKLE = 2**29  # bytes; 20,000 pictures of 64x64 pixels take half of it
MAX_DEPTH = 12  # of what is kept; a label lies 5 deep
STORAGES = {f"torch.{name}Storage": dtype for name, dtype in (
    ("Double", torch.float64), ("Float", torch.float32), ("Half", torch.float16), ("BFloat16", torch.bfloat16),
    ("Long", torch.int64), ("Int", torch.int32), ("Short", torch.int16), ("Char", torch.int8), ("Byte", torch.uint8))}
ARRAYS = tuple(f"{module}.multiarray.{name}" for module in ("numpy.core", "numpy._core")
               for name in ("_reconstruct", "scalar"))
KINDS = ("b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")  # of arrays, without byte order


def is_attack_result(content: Any) -> bool:
    """Whether plain content is of such a file: weights, beside the name of their network."""
    if not isinstance(content, dict) or not isinstance(content.get("model_name"), str):
        return False
    weights = content.get("model")
    return isinstance(weights, dict) and bool(weights) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items())


def read_attack_result(path: str | os.PathLike) -> dict | None:
    """What such a file holds, of plain values, tensors and arrays; None for any other file.

    Nothing in it is imported or called: an object is the dict of its attributes or items, and None without any. The
    file must have passed check_archive.
    """
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                return None
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}byteorder" in archive.namelist() and archive.read(
                    f"{root}byteorder").decode() != sys.byteorder:
                return None
            if archive.getinfo(pickles[0]).file_size > MAX_PICKLE:
                return None
            content = walk(archive.read(pickles[0]))
            if not isinstance(content, dict) or not isinstance(content.get("model_name"), str):
                return None
            plain = _Reader(archive, root).plain(content)
    except Exception:  # torn or strange bytes; the caller says what a safe loader had against the file
        return None
    return plain if is_attack_result(plain) else None


class _Reader:
    """Makes plain values of what `walk` gives. Each object is made once, so that shared ones stay shared."""

    def __init__(self, archive: Any, root: Any):
        self.archive, self.root = archive, root
        self.made, self.storages, self.kept = {}, {}, []

    def plain(self, value: Any, depth: int = 0):
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return value
        if id(value) not in self.made and depth < MAX_DEPTH:
            self.kept.append(value)  # or its id might become another's
            self.made[id(value)] = None  # of one that holds itself
            self.made[id(value)] = self.make(value, depth + 1)
        return self.made.get(id(value))

    def make(self, value: Any, depth: int):
        if isinstance(value, (list, tuple)):
            return [self.plain(part, depth) for part in value]
        if isinstance(value, dict):
            return self.items(value, depth)
        if value.name == "torch._utils._rebuild_tensor_v2":
            return self.tensor(*value.arguments[:4])
        if value.name == "torch._utils._rebuild_parameter":
            return self.plain(value.arguments[0], depth)
        if value.name in ARRAYS:
            return array_of(value)
        return self.items(value.items or value.attributes(), depth) or None

    def items(self, found: Any, depth: int):
        """A dict, its keys of NumPy's numbers as numbers; other objects as keys keep their pairs under a number."""
        made = {}
        for number, (key, part) in enumerate(found.items()):
            if isinstance(key, Inert):
                key = self.plain(key, depth)
                key = key if isinstance(key, (int, float, str)) else f"object {number}"
            made[key] = self.plain(part, depth)
        return made

    def tensor(self, storage: Any, offset: int, size: Any, stride: Any):
        """A tensor as torch.save writes it; PyTorch itself refuses one that leaves its storage."""
        kind, name, key, _, _ = storage.arguments
        if kind != "storage" or name.name not in STORAGES or not isinstance(key, str):
            raise ValueError("no storage of numbers")
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.root}data/{key}"))
            dtype = STORAGES[name.name]
            self.storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        if self.storages[key].dtype != STORAGES[name.name]:
            raise ValueError("a storage of two types")
        return self.storages[key].as_strided(size, stride, offset)


def array_of(value: Inert) -> np.ndarray | int | float | None:
    """The NumPy array or number that an Inert stands for; None for one of other things than numbers."""
    is_scalar = value.name.endswith("scalar")
    shape, dtype, content = ((), *value.arguments) if is_scalar else (value.state[1], value.state[2], value.state[4])
    order, kind = dtype.state[1], dtype.arguments[0]
    if kind not in KINDS or order not in ("<", ">", "|"):
        return None
    if isinstance(content, Inert):  # how Python 3 writes bytes for an older protocol: _codecs.encode(text, "latin1")
        content = content.arguments[0]
    content = content.encode("latin1") if isinstance(content, str) else content
    array = np.frombuffer(content, (order if order != "|" else "") + kind).reshape(shape)
    return array.item() if is_scalar else array.copy()
