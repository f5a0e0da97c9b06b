"""The folders of two runs, compared file by file; what no two runs share, such as times, is left out."""
import io
import json
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

TIMES = {"time", "seconds", "peak_memory_mb", "peak_device_memory_mb", "started", "resumed"}
READ_WITH = {".th": lambda content: torch.load(io.BytesIO(content), weights_only=False),
             ".json": json.loads, ".jsonl": lambda content: [json.loads(line) for line in content.splitlines()],
             ".png": lambda content: Image.open(io.BytesIO(content)).load(),
             ".npy": lambda content: np.load(io.BytesIO(content), allow_pickle=False)}
SAME_BYTES = (".png", ".npz", ".csv")


def plain(value, aside=frozenset()):
    """A value without times and the keys `aside`, and with arrays as bytes, to compare."""
    if isinstance(value, dict):
        return {key: plain(entry, aside) for key, entry in value.items()
                if key not in TIMES | {"args", "output_dir"} | aside}
    if isinstance(value, (list, tuple)):
        return [plain(entry, aside) for entry in value]
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    return (str(value.dtype), value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def log_lines(path):
    """The log without what tells when: dates, the Time column, arguments, and what a start says again."""
    lines = [re.sub(r"^\[.*?\] - ", "", line) for line in path.read_text().splitlines()]
    lines = [re.sub(r"^(\d+ \t [\d.]+ \t )[\d.]+", r"\1", line) for line in lines]
    again = ("Namespace(", "resumed after", "finished;", "stopped with")
    return list(dict.fromkeys(line for line in lines if not line.startswith(again)))  # in order, said once


def same_content(one, other, aside=frozenset()):
    """Whether two files say the same, the keys `aside` not looked at."""
    if one.suffix in SAME_BYTES:
        return one.read_bytes() == other.read_bytes()
    if one.suffix in READ_WITH:
        read = READ_WITH[one.suffix]
        return repr(plain(read(one.read_bytes()), aside)) == repr(plain(read(other.read_bytes()), aside))
    return log_lines(one) == log_lines(other)


def compare(one, other, aside=frozenset()):
    """What differs between the folders of two runs, a line each. config.json is not compared."""
    names = [{path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
             for folder in (one, other)]
    differing = [f"only one has {name}" for name in sorted(names[0] ^ names[1])]
    return differing + [f"{name} differs" for name in sorted(names[0] & names[1])
                        if Path(name).name != "config.json" and not same_content(one / name, other / name, aside)]
