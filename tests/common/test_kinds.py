"""What is given in place of weights is called by what it is."""
import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.untrusted.kinds import foreign_kind
from common.untrusted.weights import read_tensors
from models import build_model


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, bytes(1000))
    return buffer.getvalue()


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("model.th"))
    return buffer.getvalue()


def written(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


FOREIGN = {
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer, .*git lfs"),
    "web page": (b"<!DOCTYPE html><html>", "a web page"), "plain page": (b"\n  <html lang='en'>", "a web page"),
    "marked page": (b"\xef\xbb\xbf<!DOCTYPE html>", "a web page"), "empty zip": (zipped(), "a zip archive; unpack it"),
    "server's refusal": (b"<?xml version='1.0'?><Error>", "an XML text"),
    "json": (b'{"message": "Not Found"}', "a text"), "csv": (b"epoch,acc\n1,0.5\n", "a text"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file, which Keras writes"),
    "keras": (zipped("config.json", "model.weights.h5"), "a Keras model"), "npz": (zipped("a.npy"), "NumPy's arrays"),
    "npy": (written(lambda file: np.save(file, np.zeros(3))), "a NumPy array"), "zip": (zipped("a/model.th"),
                                                                                       "a zip archive; unpack it"),
    "tar": (tarred(), "a tar archive; unpack"), "gzip": (b"\x1f\x8b\x08" + bytes(99), "a gzip archive; unpack"),
    "picture": (written(lambda file: Image.new("RGB", (4, 4)).save(file, "PNG")), "a picture"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x062.0.0", "an ONNX file"), "nothing": (b"", "empty")}


@pytest.mark.parametrize("content, said", FOREIGN.values(), ids=FOREIGN)
def test_another_file_is_called_by_what_it_is(tmp_path, content, said):
    """The kind: any file that is no weights. The users met a Git LFS pointer, a web page and an .h5 file."""
    for name in ("m.th", "m.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: not a \w+( file)?; it is {said}") as told:
            read_tensors(tmp_path / name)
        assert "\n" not in str(told.value) and "refused" not in str(told.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_archive_is_called_so(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"a TorchScript archive, .* save model\.state_dict"):
        read_tensors(tmp_path / "m.pt")


def test_a_model_that_was_pickled_whole_is_told_what_to_save(tmp_path):
    torch.save(build_model("resnet18", 1, 2), tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"refers to models.resnet.ResNet, .*save model\.state_dict\(\)"):
        read_tensors(tmp_path / "m.pt")


def test_a_folder_is_not_called_missing(tmp_path):
    with pytest.raises(UserError, match="a folder; expected a file of weights"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("new_format", [True, False])
def test_files_of_torch_are_not_called_foreign(tmp_path, new_format):
    torch.save({"a": torch.zeros(1)}, tmp_path / "m.th", _use_new_zipfile_serialization=new_format)
    assert foreign_kind(tmp_path / "m.th") is None and set(read_tensors(tmp_path / "m.th")) == {"a"}


def test_a_network_of_another_program_is_known_by_its_name_and_strange_bytes_are_called_no_checkpoint(tmp_path):
    for name, said in (("m.onnx", "it is an ONNX file"), ("m.th", "neither torch.save nor safetensors writes this")):
        (tmp_path / name).write_bytes(b"\x08\x07" + bytes(99))
        with pytest.raises(UserError, match=f"{name}: not a checkpoint.*{said}"):
            read_tensors(tmp_path / name)
