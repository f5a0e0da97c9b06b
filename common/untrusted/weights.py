"""Strangers' weights and whatever else torch.save or safetensors wrote; none of it runs code."""
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from common.errors import UserError
from common.untrusted.archives import check_archive
from common.untrusted.attack_result import read_attack_result
from common.untrusted.kinds import foreign_kind, is_safetensors
from common.untrusted.limits import MAX_WEIGHTS, check_size


def _numpy_rebuilders() -> list:
    """What NumPy's own pickles call: harmless, but refused by weights_only unless allowed by name.

    A file from NumPy 1 names them numpy.core, one from NumPy 2 numpy._core; either may be read by the other.
    """
    array = np.zeros(1)
    rebuild, scalar = array.__reduce__()[0], array[0].__reduce__()[0]
    named = [(rebuild, f"{module}.multiarray._reconstruct") for module in ("numpy.core", "numpy._core")]
    named += [(scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")]
    named += [(bytes, f"{module}.bytes") for module in ("builtins", "__builtin__")]  # an empty array's content
    kinds = {type(np.dtype(kind)) for kind in ("bool", "u1", "i2", "i4", "i8", "f2", "f4", "f8")}
    return [*named, np.ndarray, np.dtype, *kinds]


NUMPY_REBUILDERS = _numpy_rebuilders()
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)  # of num_batches_tracked
SAFE_RELEASE = (2, 10)  # of PyTorch; requirements.txt shuts out what is older


def read_tensors(path: str | os.PathLike) -> Any:
    """What a PyTorch file holds, on the CPU: tensors, NumPy arrays and plain values; of .safetensors {name: tensor}.

    Which of the two it is, its content says; its name decides only where the content is neither. Every tensor in it is
    dense, and has its own memory for each of its values. Of BackdoorBench's attack_result.pt, what is plain in it.
    Raises UserError, naming the file, in one line, for anything else, and says what it is where that can be told.
    """
    if Path(path).is_dir():
        raise UserError(f"{path}: a folder; expected a file of weights in it")
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    check_size(path, MAX_WEIGHTS)
    content = _read_safetensors(path) if is_safetensors(path) else _read_torch(path)
    _check_tensors(path, content)
    return content


def _read_torch(path: str | Path):
    check_loader()
    kind = foreign_kind(path)
    if kind:
        wanted = "safetensors file" if Path(path).suffix == ".safetensors" else "checkpoint"
        raise UserError(f"{path}: not a {wanted}; it is {kind}")
    if Path(path).suffix == ".safetensors" and not _begins_as_torch(path):
        return _read_safetensors(path)  # which says what is wrong with it
    check_archive(path)
    try:
        with open(path, "rb") as file, torch.serialization.safe_globals(NUMPY_REBUILDERS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever torch has to say of a strange file, the error below says once
            return torch.load(file, map_location="cpu", weights_only=True)  # by a name it would judge
    except pickle.UnpicklingError as error:
        result = read_attack_result(path)
        if result is not None:
            return result
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not found and not _begins_as_torch(path):
            raise UserError(f"{path}: not a checkpoint (neither torch.save nor safetensors writes this)") from None
        reason = (f"it refers to {found[1]}, which could run code; save model.state_dict() by itself, without other "
                  "objects" if found else "it holds more than tensors and plain values, or is damaged")
        raise UserError(f"{path}: refused, {reason}") from None
    except Exception as error:  # torn or strange bytes make the readers raise almost anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a checkpoint ({reason[:120]})") from None


def _begins_as_torch(path: str | Path):
    """Whether a file begins as one of torch.save, a zip archive or, before PyTorch 1.6, a pickle."""
    with open(path, "rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _read_safetensors(path: str | Path):
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from None


def check_loader(release: str = torch.__version__) -> None:
    """UserError if PyTorch's `release` has a loader that a file can make run code or write out of bounds."""
    if tuple(map(int, re.findall(r"\d+", release)[:2])) < SAFE_RELEASE:
        raise UserError(f"PyTorch {release}: a stranger's file can make its loader run code (CVE-2025-32434, "
                        f"CVE-2026-24747); install {'.'.join(map(str, SAFE_RELEASE))} or later")


def _check_tensors(path: str | Path, content: Any):
    """UserError if any tensor or array in dicts and lists stands for more than the file holds; each is seen once."""
    size = Path(path).stat().st_size
    seen, waiting = set(), [("its content", content)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            if not is_plain(value):
                raise UserError(f"{path}: refused, {str(name)[:200]} is sparse, nested or without memory of its own")
        elif isinstance(value, np.ndarray) and value.nbytes > size:
            raise UserError(f"{path}: refused, {str(name)[:200]} is an array of more than the file holds")
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.items() if isinstance(value, dict) else ((name, part) for part in value)


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is dense, and its memory holds each of its values: a small file can claim to be a large one."""
    if tensor.is_meta or tensor.is_nested or tensor.layout != torch.strided:
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def is_weight(name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor of read_tensors is of finite real numbers, and of at least 0 if its name is a variance's.

    A count of batches, which no output depends on, may be of any whole type too.
    """
    if name.endswith("num_batches_tracked") and tensor.dtype in COUNTS:
        return True
    if tensor.dtype not in NUMBERS or not torch.isfinite(tensor).all():
        return False
    return not name.endswith("running_var") or bool((tensor >= 0).all())


def fault_of_weight(tensor: torch.Tensor) -> str:
    """What is wrong with a tensor that is_weight refuses, in words that go behind its name."""
    if tensor.is_quantized or tensor.dtype not in NUMBERS:
        return f"is of {str(tensor.dtype).removeprefix('torch.')}, expected floating point; save it before quantization"
    if not torch.isfinite(tensor).all():
        return "holds NaN or infinity"
    return "holds values below 0, which a variance cannot have"
