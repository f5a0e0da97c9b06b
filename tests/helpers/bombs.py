"""Files that ask for more memory than there is; what they cost the suite is printed.

    python -m helpers.bombs FOLDER KIND

FOLDER holds a sound file of every kind that helpers/readers.py names. The one of KIND is replaced by each bomb in turn
and read; a line each says its number and the largest memory that this process has had until then, in MB.
"""
import io
import json
import resource
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import torch
from PIL import Image

from common.errors import UserError
from helpers.readers import READERS

GB, MB = 2**30, 2**20
CLAIMED = (((10**9, 32, 32, 3), "|u1"), ((10**6, 32, 32, 3), "|u1"), ((10**10,), "<i8"), ((2**62,), "|u1"),
           ((-1, 32, 32, 3), "|u1"))  # shape and type


def array_header(shape, kind):
    """The beginning of an .npy file that claims a shape and a type."""
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def packed(members):
    """A small archive whose members are 800 MB each."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            with archive.open(member, "w", force_zip64=True) as file:
                for _ in range(800):
                    file.write(bytes(MB))
    return content.getvalue()


def archives():
    """Of archives and arrays."""
    yield packed(["archive/data.pkl", "archive/data/0", "pattern.npy"]), None
    for claim in CLAIMED:
        yield array_header(*claim), None
        yield array_header(*claim), 4 * GB


def texts():
    """Of JSON, YAML and lines: deep, long, and YAML whose references multiply."""
    yield b"[" * 10**6, None
    yield b'{"a":' * 10**6, None
    yield b"[" + b"{}," * 4 * 10**6 + b"{}]", None
    yield b"9" * 10**7, None
    yield b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        f"b{i}: &b{i} [{','.join(['*' + (f'b{i - 1}' if i else 'a')] * 9)}]\n".encode() for i in range(12)), None


def pictures():
    """Of images: many pixels in few bytes, and a header that claims more."""
    for mode in ("RGB", "I;16"):
        content = io.BytesIO()
        Image.new(mode, (9000, 9000)).save(content, "PNG")
        yield content.getvalue(), None
    claim = b"IHDR" + struct.pack(">II5B", 60000, 60000, 8, 2, 0, 0, 0)
    yield b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + claim + struct.pack(">I", zlib.crc32(claim)), None


def weights():
    """Of what torch.save makes: tensors that have few bytes and stand for many."""
    for claim in (torch.zeros(1).expand(10**10), torch.empty(10**12, device="meta"),
                  torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (10**12,))):
        content = io.BytesIO()
        torch.save({"state_dict": {"conv1.weight": claim, "linear.weight": claim}, "trigger_mask": claim,
                    "trigger_pattern": claim, "trigger_encoder": {"a": claim}, "encoder": {"a": claim},
                    "decoder": {}}, content)
        yield content.getvalue(), None
    yield b"\x80\x02cbuiltins\nbytes\nJ" + struct.pack("<i", 2**31 - 1) + b"\x85R.", None


def attack_results():
    """Of BackdoorBench's file: many operations in a pickle that no loader of PyTorch's reads."""
    sound = io.BytesIO()
    torch.save({}, sound)
    for operations in (b"\x8f" * 4 * 10**6, b"cos\nx\n" * 4 * 10**6, b"X\0\x10\0\0" + bytes(2**12) + b"2" * 10**7):
        content = io.BytesIO()
        with zipfile.ZipFile(sound) as whole, zipfile.ZipFile(content, "w") as archive:
            for info in whole.infolist():
                own = b"\x80\x02cPIL.Image\nImage\n" + operations + b"."
                archive.writestr(info.filename, own if info.filename.endswith("data.pkl") else whole.read(info))
        yield content.getvalue(), None


def safetensors():
    """Of safetensors: a header that claims much, is deep, or is long."""
    claim = {"conv1.weight": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    for text in (json.dumps(claim), "{" * 10**6):
        yield struct.pack("<Q", len(text)) + text.encode(), None
    yield struct.pack("<Q", 2**63), None


OF_SUFFIXES = {archives: (".th", ".npz", ".npy"), texts: (".json", ".jsonl", ".yaml", ".log", ".txt"),
               pictures: (".png", ".jpg"), weights: (".th",), attack_results: (".th",),
               safetensors: (".safetensors",)}


def bombs(path):
    """(content, length) of each bomb of a file's kind; a length in bytes makes it so long by a hole at its end."""
    yield path.read_bytes(), 5 * GB
    yield b"", 5 * GB
    for make, suffixes in OF_SUFFIXES.items():
        if path.suffix in suffixes:
            yield from make()


def write(path, content, length):
    """Write a bomb."""
    path.write_bytes(content)
    if length:
        with open(path, "r+b") as file:
            file.truncate(length)


def main(root, kind):
    name, read = READERS[kind]
    path = root / name
    sound = path.read_bytes()
    for number, bomb in enumerate(bombs(path)):
        write(path, *bomb)
        try:
            read(root)
        except UserError as error:
            assert len(str(error)) < 2000
        print(number, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10)
        path.write_bytes(sound)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
