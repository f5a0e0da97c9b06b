"""Strangers' archives: a zip file (.npz, PyTorch's) is looked into before it is read; a tar file is unpacked."""
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import atomic_folder
from common.untrusted.limits import MAX_DIRECTORY, MAX_UNPACKED

NOT_HERE = 2**32 - 1  # in a zip file's last record: see the record of large archives


def check_archive(path: str | os.PathLike) -> None:
    """UserError for a zip archive that is not as torch.save and savez write it: nothing packed, one directory.

    Packed entries are how a small file takes much memory. Readers look for the directory in different ways, so that
    one with a second directory would be read as something else than was checked. Any other file passes.
    """
    if not zipfile.is_zipfile(path):
        return  # its reader will say so
    held, places, size = Path(path).stat().st_size, *directory_of(path)
    if not places:
        raise UserError(f"{path}: refused, its archive does not end with the place of its directory, as torch.save and "
                        "savez leave it (a comment stands there, or it is damaged)")
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


def directory_of(path: str | os.PathLike) -> tuple[set[int], int]:
    """(places, size) of a zip archive's directory as the records at its very end say; no places where there are none.

    The record of large archives, where there is one, counts too, and stands directly before its locator.
    """
    held = Path(path).stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, held - 98))  # 56 bytes of the large record, 20 of its locator, 22 of the end
        tail = file.read()
    end, locator, large = tail[-22:], tail[-42:-22], tail[-98:-42]
    if end[:4] != b"PK\x05\x06":
        return set(), 0
    size, place = struct.unpack("<II", end[12:20])
    places, sizes = {place}, [size]
    if locator[:4] == b"PK\x06\x07":
        if large[:4] != b"PK\x06\x06" or struct.unpack("<Q", locator[8:16])[0] != held - 98:
            return set(), 0
        size, place = struct.unpack("<QQ", large[40:56])
        places, sizes = places | {place}, [*sizes, size]
    return places - {NOT_HERE}, max((size for size in sizes if size != NOT_HERE), default=0)


def unpack_tar(path: str | os.PathLike, folder: str | os.PathLike, most: int = MAX_UNPACKED) -> None:
    """Unpack a tar archive, compressed or not, into the new folder `folder`, whole or not at all, and nowhere else.

    Raises UserError for another file, for one that leads out of the folder, and for more than `most` bytes in all.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    total = 0

    def within(member: Any, target: Any):
        nonlocal total
        total += member.size
        if total > most:
            raise UserError(f"{path}: refused, it unpacks to more than {most} bytes")
        return tarfile.data_filter(member, target)
    with atomic_folder(folder) as made:
        try:
            with tarfile.open(path) as tar:
                tar.extractall(made, filter=within)
        except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
            raise UserError(f"{path}: not a tar archive of images ({error})") from None
