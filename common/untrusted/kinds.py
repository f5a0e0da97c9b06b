"""What a file is that was given in place of weights, by how it begins, and what to do about it."""
import os
import zipfile
from pathlib import Path

HEAD = 4096  # bytes that are looked at
WEB_PAGE = "a web page, as a download link leaves one that leads to a page; download the file itself"
UNPACK = "; unpack it, and name the file of weights in it"
STARTS = (  # in lower case, after blanks
    (b"version https://git-lfs", "a Git LFS pointer, which only names the weights; `git lfs pull` fetches them"),
    (b"<!doctype", WEB_PAGE), (b"<html", WEB_PAGE), (b"<head", WEB_PAGE),
    (b"<?xml", "an XML text, as a server sends one in place of a file that it does not give; download it again"),
    (b"\x89hdf\r\n", "an HDF5 file, which Keras writes; only PyTorch's files and .safetensors are read"),
    (b"gguf", "a GGUF file, of a language model"),
    (b"\x93numpy", "a NumPy array, and no network's weights"),
    (b"\x89png", "a picture"), (b"\xff\xd8\xff", "a picture"), (b"gif8", "a picture"),
    (b"\x1f\x8b", f"a gzip archive{UNPACK}"), (b"bzh", f"a bzip2 archive{UNPACK}"),
    (b"\xfd7zxz", f"an xz archive{UNPACK}"), (b"7z\xbc\xaf", f"a 7-Zip archive{UNPACK}"),
    (b"rar!", f"a RAR archive{UNPACK}"))


def foreign_kind(path: str | os.PathLike) -> str | None:
    """What the file at `path` is, in words that go behind "it is"; None for a PyTorch or safetensors file, or unknown.

    Nothing in it is unpacked: its first bytes decide, and of a zip archive the names of its entries.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if not head:
        return "empty"
    if zipfile.is_zipfile(path):
        return _archive_kind(path)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    found = next((words for begin, words in STARTS if start.startswith(begin)), None)
    if found or head[257:262] == b"ustar":
        return found or f"a tar archive{UNPACK}"
    if Path(path).suffix == ".onnx" or (head[:1] == b"\x08" and b"pytorch" in head[:40]):
        return "an ONNX file; only PyTorch's files and .safetensors are read"
    return "a text" if _is_text(head) else None


def _archive_kind(path: str | Path):
    """The kind of a zip archive that is not one of torch.save's; None for one of those, or a torn one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None
    if any(name.endswith("/constants.pkl") or name == "constants.pkl" for name in names):
        return "a TorchScript archive, which is a program; save model.state_dict() of it with torch.save"
    if any(name.endswith("data.pkl") for name in names):
        return None
    if "model.weights.h5" in names:
        return "a Keras model; only PyTorch's files and .safetensors are read"
    if names and all(name.endswith(".npy") for name in names):
        return "NumPy's arrays (.npz); only PyTorch's files and .safetensors are read"
    return f"a zip archive{UNPACK}"


def _is_text(head: bytes):
    """Whether bytes are printable ASCII, which no weights are."""
    return head.isascii() and all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)


def is_safetensors(path: str | os.PathLike) -> bool:
    """Whether a file begins as a .safetensors file: the length of a JSON object that fits into it, and its brace."""
    with open(path, "rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and length + 8 <= Path(path).stat().st_size
