"""The one door through which strangers' files come in: sizes, text, JSON, arrays and archives, each checked first."""
import json
import math
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np

from common.errors import UserError

MAX_JSON = 16 * 2**20  # bytes; results.json of a long sweep has some 200 kB
MAX_ARRAY = 2**29  # bytes; CIFAR-10's training images are 154 MB
MAX_DIRECTORY = 2**20  # bytes of an archive's list of entries; a checkpoint's has some 10 kB
NOT_HERE = 2**32 - 1  # in a zip file's last record: see the record of large archives


def read_archive(path, most=MAX_ARRAY):
    """{name: array} of a .npz file of plain values. Raises UserError, naming the file, if it is not one.

    Of at most `most` bytes, and as savez writes it: an archive that unpacks to more than it holds is refused.
    """
    try:
        check_size(path, most)
        check_archive(path)
        if not zipfile.is_zipfile(path):
            raise ValueError("no zip file")  # which NumPy would read as whatever else it is
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except UserError:
        raise
    except Exception as error:  # strange bytes make the zip reader raise almost anything
        raise UserError(f"{path}: not an archive of NumPy arrays ({error})") from None


def check_archive(path):
    """UserError for a zip archive that is not as torch.save and savez write it: nothing packed, one directory.

    Packed entries are how a small file takes much memory. Readers look for the directory in different ways, so that
    one with a second directory would be read as something else than was checked.
    """
    if not zipfile.is_zipfile(path):
        return  # no archive, which its reader will say
    held, places, size = Path(path).stat().st_size, *directory_of(path)
    if size > MAX_DIRECTORY:
        raise UserError(f"{path}: refused, a directory of {size} bytes")
    try:
        with zipfile.ZipFile(path) as archive:
            entries, start = archive.infolist(), archive.start_dir
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return
    unpacked = sum(info.file_size for info in entries)
    packed = any(info.compress_type or info.file_size != info.compress_size for info in entries)
    if packed or unpacked > held:
        raise UserError(f"{path}: refused, it holds {held} bytes and claims to unpack to {unpacked}")
    if places != {start}:
        raise UserError(f"{path}: refused, its archive has more than one directory")


def directory_of(path):
    """(places, size) of a zip archive's directory as the records at its very end say; no places where there are none.

    The record of large archives, where there is one, counts too, and stands directly before its locator.
    """
    held = Path(path).stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, held - 98))  # 56 bytes of the large record, 20 of its locator, 22 of the end
        tail = file.read()
    end, locator, large = tail[-22:], tail[-42:-22], tail[-98:-42]
    if end[:4] != b"PK\x05\x06":
        return set(), 0  # a comment behind it, or something else
    size, place = struct.unpack("<II", end[12:20])
    places, sizes = {place}, [size]
    if locator[:4] == b"PK\x06\x07":
        if large[:4] != b"PK\x06\x06" or struct.unpack("<Q", locator[8:16])[0] != held - 98:
            return set(), 0
        size, place = struct.unpack("<QQ", large[40:56])
        places, sizes = places | {place}, [*sizes, size]
    return places - {NOT_HERE}, max(size for size in sizes if size != NOT_HERE)


def read_text(path, most, errors="strict"):
    """A UTF-8 file's text. Raises OSError, or ValueError for one of more than `most` bytes or that is no text."""
    fault = fault_of(path, most)
    if fault:
        raise ValueError(fault)
    return Path(path).read_text(encoding="utf-8", errors=errors)


def read_json(path):
    """What a JSON file holds. Raises OSError, or ValueError for one that is larger than MAX_JSON, nested beyond all
    reason or no JSON, which has neither NaN nor infinity."""
    def refuse(constant):
        raise ValueError(f"{constant} is not a figure")

    def finite(word):
        return float(word) if math.isfinite(float(word)) else refuse(word)
    try:
        return json.loads(read_text(path, MAX_JSON), parse_constant=refuse, parse_float=finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_object(path):
    """The dict in a JSON file; as read_json, and ValueError for anything but an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    return value


def read_array(path):
    """Read a .npy file that holds plain values. Raises UserError, naming the file, if it is not one, or too large."""
    try:
        check_size(path, MAX_ARRAY)
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UserError:
        raise
    except Exception as error:  # strange bytes make NumPy's reader raise almost anything
        raise UserError(f"{path}: not a NumPy array of plain values ({error})") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: expected one NumPy array, got an archive of them")
    return array


def fault_of(path, most):
    """What is wrong with reading a file of at most `most` bytes, in words, None if nothing is; OSError for none.

    A device or a pipe has no size and may have no end.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        return "no plain file"
    return f"{status.st_size} bytes; expected at most {most}" if status.st_size > most else None


def check_size(path, most):
    """Raise UserError for a file of more than `most` bytes, or for a device or a pipe; OSError for none."""
    fault = fault_of(path, most)
    if fault:
        raise UserError(f"{path}: refused, {fault}")
