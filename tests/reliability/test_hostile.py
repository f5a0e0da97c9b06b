"""Strangers' files of every kind that a script reads: none runs code, none costs memory, each ends in one line.

What reads a file is called itself, for speed; the scripts, as a user calls them, at the end.
"""
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.paths import ROOT, SMALL
from helpers.readers import READERS, TEXT
from PIL import Image

import prune_network
import train_backdoor
from attacks import issba_encoder
from common.errors import UserError
from common.untrusted import read_array, read_json
from defenses import fine_prune, strip
from engine.command_line.inherit import inherit
from engine.weights.checkpoint import load_model
from reporting.log import read_log
from workflow.matrix import read_matrix

CANARY = "canary"  # what code that was run would have left in the current folder


class Call:
    """Unpickles into a call."""

    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


def calls():
    """{name: object} that call something when they are unpickled."""
    return {"os.system": Call(os.system, f"touch {CANARY}"),
            "builtins.eval": Call(eval, f"open('{CANARY}', 'w')"),
            "torch.hub": Call(torch.hub.load, "stranger/repository", "model"),
            "subprocess": Call(subprocess.call, ["touch", CANARY]),
            "its own": Call(open, CANARY, "w")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_run, masked):
    """A folder with a sound file of every kind."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.raises(SystemExit):  # one epoch makes an encoder that is sound and of no use
        issba_encoder.main(["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--bits", "4",
                            "--width", "2", "--epochs", "1", "--batch-size", "256", "--output-dir",
                            str(root / "issba")])
    for name, source in (("model.th", small_run / "model_last.th"), ("trigger.th", small_run / "trigger_info.th"),
                         ("encoder.th", root / "issba/encoder.th"), ("masks.txt", masked / "mask_values.txt")):
        shutil.copy(source, root / name)
    weights = torch.load(root / "model.th", weights_only=True)["state_dict"]
    safetensors.torch.save_file(weights, root / "model.safetensors")
    torch.save({"model_name": "resnet18", "num_classes": 10, "model": weights, "bd_train": None, "bd_test": {
        "bd_data_container": {"data_dict": {0: (Image.new("RGB", (32, 32)), 3, 0)}}}}, root / "attack_result.th")
    import generate_clb_attack
    generate_clb_attack.main(["--dataset", "digits", "--checkpoint", str(root / "model.th"), "--poison-rate", "0.3",
                              "--no-pgd", "--output-dir", str(root / "clb")])
    strip.main(["--dataset", "digits", "--checkpoint", str(root / "model.th"), "--overlays", "2",
                       "--calibration", "20", "--inspect", "20", "--output-dir", str(root / "strip")])
    shutil.copytree(small_run, root / "run")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    Image.fromarray(noise).save(root / "trigger.png")
    Image.fromarray(noise[..., :3]).save(root / "image.png")
    Image.fromarray(noise[..., :3]).save(root / "image.jpg")
    for name, path in (("matrix.yaml", "matrices/digits.yaml"), ("audit.yaml", "audits/digits.yaml")):
        shutil.copy(ROOT / "workflow" / path, root / name)
    return root


@pytest.fixture
def spoilt(whole, tmp_path, monkeypatch):
    """spoilt(kind, content): what reads a file of that kind, called with one of these bytes; None, or the one line.

    Anything but a UserError is raised, and so is a file that was left in the current folder.
    """
    shutil.copytree(whole, tmp_path / "all")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def read(kind, content):
        name, reader = READERS[kind]
        (tmp_path / "all" / name).write_bytes(content)
        line = None
        try:
            reader(tmp_path / "all")
        except UserError as error:
            line = " ".join(str(error).split())
            assert 0 < len(line) < 2000
        assert not any((tmp_path / "here").iterdir()), "something was run or written"
        return line
    return read


@pytest.mark.parametrize("kind", list(READERS))
def test_a_whole_file_is_read(kind, whole, spoilt):
    assert spoilt(kind, (whole / READERS[kind][0]).read_bytes()) is None


@pytest.mark.parametrize("kind", list(READERS))
def test_a_file_that_is_torn_at_any_hundredth_is_refused(kind, whole, spoilt):
    content = (whole / READERS[kind][0]).read_bytes()
    lines = [spoilt(kind, content[:len(content) * percent // 100]) for percent in range(100)]
    if kind not in TEXT | {"results", "config"}:  # of a run, a report says that it is broken
        assert [percent for percent, line in enumerate(lines) if line is None] == []


@pytest.mark.parametrize("kind", list(READERS))
def test_random_bytes_are_refused_or_read_as_what_they_are(kind, whole, spoilt):
    rng = np.random.default_rng(0)
    content = (whole / READERS[kind][0]).read_bytes()
    for length in (0, 1, 7, 100, 5000):
        spoilt(kind, rng.bytes(length))
        spoilt(kind, content[:length] + rng.bytes(length))
    for _ in range(60):  # a few bytes of it are others
        changed = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            changed[place] = rng.integers(256)
        spoilt(kind, bytes(changed))


@pytest.mark.parametrize("kind", list(READERS))
def test_no_file_runs_code(kind, spoilt, whole):
    for evil in calls().values():
        zipped, array = io.BytesIO(), io.BytesIO()
        torch.save({"state_dict": evil, "trigger_pattern": evil, "encoder": evil}, zipped)
        with np.errstate(all="ignore"):
            np.save(array, np.array([evil], dtype=object), allow_pickle=True)
        archive = io.BytesIO()
        np.savez(archive, pattern=np.array([evil], dtype=object), allow_pickle=True)
        old = io.BytesIO()
        torch.save(evil, old, _use_new_zipfile_serialization=False)
        for content in (zipped.getvalue(), array.getvalue(), archive.getvalue(), old.getvalue(), pickle.dumps(evil),
                        b"\x93NUMPY\x01\x00" + struct.pack("<H", 60) + b"{'descr': '|O', 'fortran_order': False, "
                        b"'shape': (1,)}".ljust(60) + pickle.dumps(evil)):
            assert spoilt(kind, content) is not None or kind in TEXT | {"results", "config"}
    for yaml in ("a: !!python/object/apply:os.system ['touch canary']", "!!python/object/new:os.system [touch canary]"):
        assert spoilt(kind, yaml.encode()) is not None or kind in TEXT | {"results", "config"}
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(canary) (w) file closefile\n"
    assert spoilt(kind, postscript) is not None or kind in TEXT | {"results", "config"}


def test_weights_of_other_kinds_are_refused(spoilt, whole):
    sound = torch.load(whole / "model.th", weights_only=True)["state_dict"]
    odd = {"quantized": torch.quantize_per_tensor(torch.ones(10), 0.1, 0, torch.qint8),
           "sparse": torch.ones(10).to_sparse(), "complex": torch.ones(10, dtype=torch.complex64),
           "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
           "expanded": torch.ones(1).expand(10), "nan": torch.full((10,), torch.nan),
           "infinite": torch.full((10,), torch.inf), "text": "ten", "number": 3, "none": None,
           "list": [0.0] * 10, "meta": torch.ones(10, device="meta"), "bool": torch.ones(10, dtype=torch.bool),
           "bytes": torch.ones(10, dtype=torch.int8), "float8": torch.empty(10, dtype=torch.float8_e4m3fn)}
    encoder = torch.load(whole / "encoder.th", weights_only=True)
    first = next(iter(encoder["encoder"]))
    for name, value in odd.items():
        for kind, weights in (("checkpoint", {**sound, "linear.bias": value}),
                              ("encoder", {**encoder, "encoder": {**encoder["encoder"], first: value}})):
            content = io.BytesIO()
            torch.save(weights, content)
            is_number = name in ("bool", "bytes", "float8") and kind == "encoder"
            assert spoilt(kind, content.getvalue()) is not None or is_number, (kind, name)


def test_keys_that_are_paths_are_only_names(spoilt, whole, tmp_path):
    sound = torch.load(whole / "model.th", weights_only=True)["state_dict"]
    content = io.BytesIO()
    torch.save({**sound, "../../escaped.th": torch.ones(3)}, content)
    assert "escaped" in spoilt("checkpoint", content.getvalue())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../escaped.npy", b"x")
    for kind in ("clean-label trigger", "checkpoint"):
        assert spoilt(kind, archive.getvalue()) is not None
    assert spoilt("masks", b"No \t Layer Name \t Neuron Idx \t Mask Score\n0 \t ../../escaped \t 0 \t 0.5\n")
    assert spoilt("matrix", b"output: out\nseeds: [0]\nattacks: {../../escaped: {}}\ndefenses: {anp: {}}\n")
    assert not list(tmp_path.rglob("*escaped*"))


def test_an_archive_with_a_second_directory_is_refused(spoilt, whole):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"")  # or it would be told to be no file of PyTorch's
        archive.writestr("archive/data/0", bytes(10**6))
    packed = content.getvalue()
    start = struct.unpack("<I", packed[-6:-2])[0]
    real, end = packed[start:-22], packed[-22:]
    for decoy in (real[:24] + real[20:24] + real[28:], real):  # one that says that nothing is packed, and its like
        assert "refused" in spoilt("checkpoint", packed[:start] + real + decoy + end)


@pytest.mark.parametrize("value", ["lists", "expanded", "large"])
def test_values_that_stand_for_more_than_memory_holds_are_refused(value, spoilt):
    lists = [0] * 1000
    made = {"lists": [[lists] * 1000] * 1000, "expanded": torch.zeros(1, dtype=torch.int64).expand(10**10),
            "large": torch.zeros(2**22)}[value]
    for key in ("trigger_pattern", "poison_target", "trigger_mask"):
        content = io.BytesIO()
        torch.save({"trigger_pattern": np.zeros((1, 32, 32, 3), np.uint8), "trigger_mask": np.ones((1, 32, 32, 1)),
                    "trigger_alpha": 1.0, "poison_target": np.array([0]), key: made}, content)
        assert spoilt("trigger", content.getvalue()), key


def test_devices_and_pipes_are_no_files(tmp_path):
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    for name in ("zero", "pipe"):
        for read in (read_json, read_matrix, read_array, load_model, read_log):
            with pytest.raises((UserError, ValueError)):
                read(tmp_path / name)


@pytest.mark.parametrize("arguments", [
    {"val_frac": "x"}, {"val_frac": 7}, None, [1], {"trigger_info": 5}, {"data_dir": "a\0b"}, {"data_dir": "/proc"},
    {"dataset": "x"}, {"checkpoint": ["x"]}])
def test_what_a_config_beside_strangers_masks_says_is_taken_only_where_it_makes_sense(arguments, masked, tmp_path):
    shutil.copytree(masked, tmp_path / "anp")
    (tmp_path / "anp/config.json").write_text(json.dumps({"arguments": arguments}))
    args = inherit(prune_network.parse_args(["--mask-file", str(tmp_path / "anp/mask_values.txt")]))
    assert (args.val_frac, args.data_dir, args.dataset) == (0.01, "data", "cifar10")
    assert args.trigger_info is None and args.checkpoint == str(tmp_path / "model_last.th")


@pytest.mark.parametrize("text", ['a: !!int ""', 'a: !!float ""', "a: !!bool maybe", "a: !!timestamp x"])
def test_yaml_that_its_own_constructors_trip_over_is_one_line(text, spoilt):
    assert "not YAML" in spoilt("matrix", text.encode())


def test_a_cache_that_does_not_fit_its_folder_is_not_used(image_folder):
    from data.image_folder import cache_name, fingerprint, list_files, read_image_folder
    folder = image_folder()
    arrays, classes = read_image_folder(folder)
    stamp = fingerprint({split: list_files(folder / split, classes) for split in arrays}, classes)
    for data in (np.zeros((3, 32, 32, 3), np.uint8), np.zeros((12, 32, 32, 3)), np.zeros(12, np.uint8)):
        np.savez(folder / cache_name(), stamp=np.array(stamp), **{f"{split}_{part}": data if part == "data" else targets
                 for split, (_, targets) in arrays.items() for part in ("data", "targets")})
        again, _ = read_image_folder(folder)
        for split in arrays:
            np.testing.assert_array_equal(again[split][0], arrays[split][0])


@pytest.mark.parametrize("name", ["output.log", "model_last.th", "results.json"])
def test_nothing_is_written_through_a_link(name, tmp_path, refused):
    kept, folder = tmp_path / "kept", tmp_path / "run"
    kept.write_text("mine")
    folder.mkdir()
    (folder / name).symlink_to(kept)
    for flag in ("--overwrite", "--resume"):
        assert "a symbolic link" in refused(train_backdoor.main, *SMALL, "--output-dir", folder, flag)
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("main, words", [
    (fine_prune.main, ["--checkpoint", "{}"]), (fine_prune.main, ["--trigger-info", "{}", "--checkpoint", "{model}"]),
    (train_backdoor.main, ["--poison-type", "issba", "--encoder", "{}"]),
    (train_backdoor.main, ["--trigger-image", "{}"]),
    (prune_network.main, ["--mask-file", "{}", "--checkpoint", "{model}"])])
def test_a_script_says_it_in_one_line_and_leaves_nothing(main, words, whole, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, evil in calls().items():
        torch.save({"state_dict": evil}, tmp_path / "evil")
        said = refused(main, *(word.format(tmp_path / "evil", model=whole / "model.th") for word in words),
                       "--dataset", "digits", "--output-dir", tmp_path / "out")
        assert "evil" in said, name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil"]


@pytest.mark.long
@pytest.mark.parametrize("kind", list(READERS))
def test_bombs_stay_under_2_gb(kind, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "all")
    done = subprocess.run([sys.executable, "-m", "helpers.bombs", str(tmp_path / "all"), kind], cwd=ROOT, text=True,
                          capture_output=True, timeout=600,
                          env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
    assert done.returncode == 0, done.stdout + done.stderr
    peaks = [int(line.split()[1]) for line in done.stdout.splitlines()]
    print(kind, peaks)
    assert len(peaks) >= 2 and max(peaks) < 2000
