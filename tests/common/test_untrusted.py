import ast
import io
import json
import os
import re
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from PIL import Image

from common.errors import UserError
from common.untrusted import (
    archives,
    is_count,
    is_number,
    is_text,
    read_archive,
    read_array,
    read_json,
    read_json_lines,
    read_object,
    read_text,
    read_yaml,
    sound_fields,
)
from common.untrusted.archives import check_archive, unpack_tar
from common.untrusted.images import read_picture
from common.untrusted.weights import fault_of_weight, is_plain, is_weight, read_tensors

OPENERS = {"torch.load", "np.load", "safetensors.torch.load_file", "safetensors.safe_open", "Image.open",
           "PillowImage.open", "zipfile.ZipFile", "tarfile.open", "pickle.load", "pickle.loads", "yaml.safe_load",
           "yaml.load", "json.load", "json.loads"}
OF_OUR_OWN = {  # what opens files or text that this program itself has just made, or that the repository holds
    "data/triggers/table.py": {"Image.open"},  # the picture that Blend lays over images
    "reporting/page.py": {"Image.open"},  # pictures that were drawn or cleaned before
    "reporting/pdf.py": {"PillowImage.open"},  # the same
    "engine/runs/resume.py": {"json.loads"}, "workflow/steps.py": {"json.loads"},  # flags as JSON would give them back
    "workflow/request.py": {"json.loads"},  # what python -m workflow packed for the Snakefile
    "benchmarks/": {"json.loads", "np.load", "tarfile.open"},  # what a benchmark left or packs
    "docs/": {"json.loads", "Image.open"}}  # what results/ holds


def opened_in(path):
    """The names out of OPENERS that a source file calls."""
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)} & OPENERS


def test_no_file_but_the_door_opens_what_may_be_a_strangers():
    found = {}
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith((".", "tests/", "output/", "results/", "common/untrusted/")):
            continue
        own = next((names for start, names in OF_OUR_OWN.items() if name.startswith(start)), set())
        if opened_in(path) - own:
            found[name] = opened_in(path) - own
    assert not found


def test_the_door_itself_is_seen_to_open_files():
    assert {name for path in (ROOT / "common/untrusted").glob("*.py") for name in opened_in(path)} == {
        "torch.load", "safetensors.torch.load_file", "np.load", "Image.open", "zipfile.ZipFile", "tarfile.open",
        "yaml.safe_load", "json.loads"}


def test_public_functions_of_the_ground_floor_say_what_they_take_and_give():
    bare = [f"{path.name}: {node.name}" for path in (ROOT / "common").rglob("*.py")
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
            and not (ast.get_docstring(node) and node.returns and all(each.annotation for each in node.args.args))]
    assert bare == []


@pytest.mark.parametrize("tensor, plain", [
    (torch.ones(3, 4), True), (torch.ones(3, 4).T, True), (torch.ones(3, 4)[:, 1:], True), (torch.ones(0), True),
    (torch.ones(1).expand(3), False), (torch.ones(3).to_sparse(), False), (torch.ones(3, device="meta"), False)])
def test_a_tensor_is_plain_if_its_memory_holds_each_of_its_values(tmp_path, tensor, plain):
    assert is_plain(tensor) == plain
    torch.save({"epoch": 3, "optimizer": {"state": {0: [tensor]}}}, tmp_path / "m.th")
    if plain:
        again = read_tensors(tmp_path / "m.th")["optimizer"]["state"][0][0]
        assert torch.equal(again, tensor)
    else:
        with pytest.raises(UserError, match=r"m\.th: refused, 0 is sparse, nested or without memory"):
            read_tensors(tmp_path / "m.th")


def test_a_tensor_in_a_tuple_is_looked_at_too(tmp_path):
    torch.save({"sizes": (1, torch.ones(1).expand(3))}, tmp_path / "m.th")
    with pytest.raises(UserError, match="refused, sizes is sparse, nested or without memory"):
        read_tensors(tmp_path / "m.th")


def test_arrays_of_numpy_1_are_read_too(tmp_path):
    torch.save({"a": np.arange(3)}, tmp_path / "m.th", _use_new_zipfile_serialization=False)
    content = (tmp_path / "m.th").read_bytes()
    assert b"numpy._core" in content
    (tmp_path / "m.th").write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    assert read_tensors(tmp_path / "m.th")["a"].tolist() == [0, 1, 2]


def test_an_array_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    """NumPy makes one of any size of its shape alone, where its values should follow."""
    class Claim:
        def __reduce__(self):
            return np._core.multiarray._reconstruct, (np.ndarray, (10**7,), b"b")
    torch.save({"conv1.weight": Claim()}, tmp_path / "m.th")
    with pytest.raises(UserError, match=r"refused, conv1\.weight is an array of more than the file holds"):
        read_tensors(tmp_path / "m.th")
    torch.save({"conv1.weight": np.ones(10**5)}, tmp_path / "m.th")
    assert len(read_tensors(tmp_path / "m.th")["conv1.weight"]) == 10**5


def test_lists_that_stand_for_more_than_memory_holds_are_walked_once(tmp_path):
    value = [0] * 1000
    for _ in range(8):
        value = [value] * 1000  # 1000**9 numbers in 40 kB
    torch.save(value, tmp_path / "m.th")
    assert len(read_tensors(tmp_path / "m.th")) == 1000


@pytest.mark.parametrize("name, tensor, sound", [
    ("weight", torch.tensor([-1.0]), True), ("weight", torch.tensor([float("nan")]), False),
    ("weight", torch.tensor([float("inf")]), False), ("weight", torch.tensor([1]), False),
    ("bn1.num_batches_tracked", torch.tensor(1), True),
    ("bn1.num_batches_tracked", torch.tensor(1, dtype=torch.int32), True),
    ("bn1.running_var", torch.tensor([-1.0]), False), ("bn1.running_var", torch.tensor([0.0]), True),
    ("weight", torch.ones(1, dtype=torch.complex64), False)])
def test_a_weight_is_a_finite_real_number(name, tensor, sound):
    assert is_weight(name, tensor) == sound


@pytest.mark.parametrize("tensor, said", [
    (torch.tensor([1]), "is of int64, expected floating point; save it before quantization"),
    (torch.tensor([torch.inf]), "holds NaN or infinity"),
    (torch.tensor([-1.0]), "holds values below 0")])
def test_what_is_wrong_with_a_weight_is_said(tensor, said):
    assert re.match(said, fault_of_weight(tensor))


def save_picture(path, size=(40, 20), mode="RGB", form="PNG"):
    Image.new(mode, size, 7).save(path, form)
    return path


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP"])
def test_a_picture_comes_decoded_whatever_it_is_called(tmp_path, form):
    image = read_picture(save_picture(tmp_path / "x.jpg", form=form))
    assert image.size == (40, 20) and abs(int(np.asarray(image.convert("RGB")).max()) - 7) <= 2


@pytest.mark.parametrize("limits, said", [
    ({"formats": ["JPEG"]}, "not a readable image"), ({"most": 10}, "bytes; expected at most 10"),
    ({"max_side": 39}, "40x20 pixels; expected at most 39 a side")])
def test_a_picture_beyond_its_limits_is_refused(tmp_path, limits, said):
    path = save_picture(tmp_path / "x.png")
    assert read_picture(path, most=path.stat().st_size, max_side=40).size == (40, 20)
    with pytest.raises(UserError, match=said):
        read_picture(path, **limits)


def test_a_picture_may_be_too_high_as_well_as_too_wide(tmp_path):
    with pytest.raises(UserError, match="20x40 pixels; expected at most 39 a side"):
        read_picture(save_picture(tmp_path / "x.png", (20, 40)), max_side=39)


def test_a_photograph_beside_its_small_copy_is_one_picture_and_an_animation_is_none(tmp_path):
    first, second = Image.new("RGB", (40, 20)), Image.new("RGB", (4, 2), "red")
    first.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[second])
    assert read_picture(tmp_path / "x.jpg").size == (40, 20)
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second.resize(first.size)])
    with pytest.raises(UserError, match="expected one picture, got an animation; save the frame that is meant"):
        read_picture(tmp_path / "x.gif")


@pytest.mark.parametrize("size", [(9500, 9500), (14000, 14000)])
def test_a_picture_that_unpacks_to_too_much_is_refused(tmp_path, size):
    with pytest.raises(UserError, match=r"x\.png: not a readable image \(Image size"):
        read_picture(save_picture(tmp_path / "x.png", size, "1"))


@pytest.mark.parametrize("read", [read_picture, read_array, read_archive, read_tensors])
def test_what_is_missing_is_named(tmp_path, read):
    with pytest.raises(UserError, match="none: "):
        read(tmp_path / "none")


@pytest.mark.parametrize("read", [
    read_picture, read_array, read_archive, read_tensors, read_text, read_json, read_yaml])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError):
        read(tmp_path / "pipe")


def test_an_array_is_not_taken_for_an_archive_nor_an_archive_for_an_array(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    np.savez(tmp_path / "b.npz", x=np.arange(3))
    assert read_array(tmp_path / "a.npy").tolist() == read_archive(tmp_path / "b.npz")["x"].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="not an archive"):
        read_archive(tmp_path / "a.npy")
    with pytest.raises(UserError, match="expected one NumPy array"):
        read_array(tmp_path / "b.npz")


def test_an_archive_that_unpacks_to_more_than_it_holds_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "packed.npz", a=np.zeros(10**4))
    with zipfile.ZipFile(tmp_path / "shared.npz", "w") as archive:
        archive.writestr("a.npy", bytes(1000))
        archive.filelist *= 9  # nine names of the same bytes
    for name in ("packed.npz", "shared.npz"):
        with pytest.raises(UserError, match=rf"{name}: refused, it holds \d+ bytes and claims to unpack to"):
            read_archive(tmp_path / name)


def test_an_archive_with_a_long_directory_is_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", **{f"array{i}": np.zeros(1) for i in range(9)})
    check_archive(tmp_path / "a.npz")
    monkeypatch.setattr(archives, "MAX_DIRECTORY", 500)
    with pytest.raises(UserError, match=r"a\.npz: refused, a directory of \d+ bytes"):
        check_archive(tmp_path / "a.npz")


def test_an_archive_with_two_directories_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(1))
    content = (tmp_path / "a.npz").read_bytes()
    start = int.from_bytes(content[-6:-2], "little")
    (tmp_path / "a.npz").write_bytes(content[:-22] + content[start:-22] + content[-22:])
    with pytest.raises(UserError, match=r"a\.npz: refused, its archive has more than one directory"):
        read_archive(tmp_path / "a.npz")


def test_an_archive_that_says_nowhere_where_its_directory_is_is_refused_for_that(tmp_path):
    """One with a comment behind it, and one that points to a record of large archives that it has not."""
    np.savez(tmp_path / "a.npz", a=np.zeros(1))
    content = (tmp_path / "a.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.comment = b"mine"
    (tmp_path / "b.npz").write_bytes(content[:-10] + b"\xff" * 8 + content[-2:])
    for name in ("a.npz", "b.npz"):
        with pytest.raises(UserError, match=rf"{name}: refused, its archive does not end with the place of its dire"):
            read_archive(tmp_path / name)
    (tmp_path / "c.npz").write_bytes(content[:-10] + b"\xff" * 4 + content[-6:])
    with pytest.raises(UserError, match=r"c\.npz: not an archive of NumPy arrays"):
        read_archive(tmp_path / "c.npz")


def test_an_archive_to_unpack_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nope\.tar: no such file"):
        unpack_tar(tmp_path / "nope.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_text_has_a_largest_size_and_one_encoding(tmp_path):
    (tmp_path / "a.txt").write_bytes("ä\n".encode())
    assert read_text(tmp_path / "a.txt") == "ä\n"
    with pytest.raises(ValueError, match="3 bytes; expected at most 2"):
        read_text(tmp_path / "a.txt", 2)
    (tmp_path / "a.txt").write_bytes("ä".encode("latin-1"))
    with pytest.raises(ValueError):
        read_text(tmp_path / "a.txt")
    assert read_text(tmp_path / "a.txt", errors="replace") == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("line", ["NaN", "[Infinity]", "1e999", "{", "[" * 10**5])
def test_json_is_what_the_standard_says(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f'{{"a": 1}}\n{line}\n')
    for read in (read_json, read_json_lines):
        with pytest.raises(ValueError):
            read(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[2]\n')
    assert read_json_lines(tmp_path / "a.jsonl") == [{"a": 1}, [2]]


def test_an_object_is_no_list_and_yaml_is_shorter_than_other_text(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected an object"):
        read_object(tmp_path / "a.json")
    (tmp_path / "a.yaml").write_text("a: 1\n" + "#" * 2**20)
    assert len(read_text(tmp_path / "a.yaml")) > 2**20
    with pytest.raises(UserError, match="bytes; expected at most 1048576"):
        read_yaml(tmp_path / "a.yaml")


def test_only_fields_that_are_sound_are_taken():
    fields = {"name": is_text, "n": is_count, "share": is_number}
    found = json.loads('{"name": "x", "n": 3, "share": 0.5, "more": 1}')
    assert sound_fields(found, fields) == {"name": "x", "n": 3, "share": 0.5}
    assert sound_fields({"name": 1, "n": True, "share": float("nan")}, fields) == {}
    assert sound_fields({"n": 0, "share": 0}, fields) == {"n": 0, "share": 0}
    assert sound_fields({"n": -1, "share": 10**400}, fields) == sound_fields({"n": 2.0}, fields) == {}
    assert sound_fields(["name"], fields) == {}


def write_tar(path, names, kind="w:xz"):
    with tarfile.open(path, kind) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 100
            tar.addfile(member, io.BytesIO(bytes(100)))
    return path


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:xz"])
def test_a_tar_archive_is_unpacked(tmp_path, kind):
    unpack_tar(write_tar(tmp_path / "a.tar", ["train/a/1.png", "test/a/1.png"], kind), tmp_path / "out")
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")) == [
        "test/a/1.png", "train/a/1.png"]


@pytest.mark.parametrize("names, most, said", [
    (["../outside.png"], 1000, "not a tar archive of images"), (["a.png", "b.png"], 150, "more than 150 bytes")])
def test_a_tar_archive_that_leads_out_or_is_too_large_leaves_nothing(tmp_path, names, most, said):
    path = write_tar(tmp_path / "a.tar", names)
    with pytest.raises(UserError, match=said):
        unpack_tar(path, tmp_path / "out", most)
    assert os.listdir(tmp_path) == ["a.tar"]


@pytest.mark.parametrize("kind", ["w:gz", "w:xz"])
def test_a_torn_tar_archive_is_unpacked_whole_or_leaves_nothing(tmp_path, kind):
    content = write_tar(tmp_path / "a.tar", [f"{i}.png" for i in range(99)], kind).read_bytes()
    for number, length in enumerate(range(0, len(content), max(1, len(content) // 30))):
        (tmp_path / "a.tar").write_bytes(content[:length])
        try:
            unpack_tar(tmp_path / "a.tar", tmp_path / f"out{number}")
        except UserError:
            assert not (tmp_path / f"out{number}").exists()
        else:  # only its last bytes, behind the files, are gone
            assert length > 0.8 * len(content) and len(os.listdir(tmp_path / f"out{number}")) == 99


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_is_read_as_windows_writes_it(tmp_path, encoding, end):
    (tmp_path / "a.txt").write_bytes(f"No \t ä{end}1{end}".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "No \t ä\n1\n"
