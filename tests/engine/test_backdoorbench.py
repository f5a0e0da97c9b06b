"""BackdoorBench's attack_result.pt: its weights and its target are read, and nothing in it is run."""
import io
import json
import logging
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.untrusted import inert
from common.untrusted.inert import Inert, walk
from common.untrusted.weights import read_tensors
from data.triggers import build_trigger
from defenses import neural_cleanse, strip
from engine.defending.suspect import log_told
from engine.weights.checkpoint import load_model, saved_image_size
from models import build_model

CANARY = "canary"


class Reduced:
    """Unpickles into a call that makes a file."""

    def __reduce__(self):
        return open, (CANARY, "w")


class Stateful:
    """Makes a file when its state is set."""

    def __init__(self):
        self.inside = 3

    def __setstate__(self, state):
        open(CANARY, "w").close()


class Built(dict):
    """Makes a file when it is made, and when an item is set."""

    def __new__(cls, *_):
        open(CANARY, "w").close()
        return super().__new__(cls)

    def __setitem__(self, key, value):
        open(CANARY, "w").close()
        super().__setitem__(key, value)


class Slotted:
    __slots__ = ("a",)


class OldDataSet:
    """As the first BackdoorBench has it, saved whole."""

    def __init__(self, labels, chosen):
        self.targets, self.poison_indicator, self.transform = labels, chosen, Stateful()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return build_model("resnet18", 2, 10)


def rows(target, count=6, picture=None):
    """A container's rows: {index: (image, label given, own label)}."""
    picture = picture or Image.new("RGB", (4, 4), 7)
    return {np.int64(i): (picture, target if target is not None else (i + 1) % 10, i % 10) for i in range(count)}


def state(target, **options):
    """What a data set of BackdoorBench leaves."""
    return {"bd_data_container": {"save_folder_path": None, "data_dict": rows(target, **options),
                                  "save_file_format": ".png"},
            "getitem_all": True, "original_index_array": np.arange(6), "poison_indicator": np.ones(6),
            "save_folder_path": None}


def result_of(net, **changes):
    """The content of an attack_result.pt."""
    return {"model_name": "resnet18", "num_classes": 10, "model": net.state_dict(), "data_path": "../data",
            "img_size": [32, 32, 3], "clean_data": "cifar10", "bd_train": state(3), "bd_test": state(3), **changes}


@pytest.fixture
def saved(net, tmp_path, monkeypatch):
    """saved(changes): the path of such a file; afterwards nothing may have been run."""
    monkeypatch.chdir(tmp_path)

    def save(**changes):
        torch.save(result_of(net, **changes), "attack_result.pt")
        for path in tmp_path.glob(CANARY):  # what was made by pickling
            path.unlink()
        return str(tmp_path / "attack_result.pt")
    yield save
    assert not os.path.exists(CANARY)


def test_the_fixtures_classes_do_run_in_pickles_own_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for made in (Reduced(), Stateful(), Built()):
        content = pickle.dumps(made, 2)
        (tmp_path / CANARY).unlink(missing_ok=True)
        pickle.loads(content)
        assert (tmp_path / CANARY).exists(), made


def slotted():
    made = Slotted()
    made.a = Stateful()
    return made


STRANGERS = {  # what else may lie in the file; made in the test, since some run when they are made
    "pictures": dict, "a call": lambda: {"more": Reduced()}, "slots": lambda: {"more": slotted()},
    "a call in a list": lambda: {"more": [1, (Reduced(), {"a": Reduced()})]}, "a state": lambda: {"more": Stateful()},
    "a new object": lambda: {"more": Built()}, "a function": lambda: {"more": os.system},
    "a class": lambda: {"more": Stateful}, "a module": lambda: {"more": torch.nn.Linear(2, 2)},
    "an array of objects": lambda: {"more": np.array([Reduced()], dtype=object)},
    "an object as a key": lambda: {"more": {Slotted: 1, (1, (Stateful,)): 2}}, "a set": lambda: {"more": {1, Stateful}},
    "an own picture": lambda: {"bd_train": state(3, picture=Reduced())}}


@pytest.mark.parametrize("changes", STRANGERS.values(), ids=STRANGERS)
def test_weights_and_target_are_read_beside_whatever_lies_there_and_nothing_is_run(changes, saved, net):
    path = saved(**changes())
    found = load_model(path)
    weights = net.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in found.model.state_dict().items()
               if name in weights and "num_batches" not in name and name not in ("mean", "std"))
    assert found.result.target == 3 and "bd_test" in found.result.why


def test_pixels_enter_as_the_files_data_set_has_it_unless_a_flag_says_otherwise(saved):
    from models.pixel_input import NORMALIZATIONS, PixelInput
    path = saved(clean_data="gtsrb", img_size=(48, 48, 3))
    spec = load_model(path).model.spec
    assert (spec["mean"], spec["std"]) == NORMALIZATIONS["none"] and spec["image_size"] == saved_image_size(path) == 48
    given = load_model(path, given=PixelInput(*NORMALIZATIONS["imagenet"])).model.spec
    assert (given["mean"], given["std"]) == NORMALIZATIONS["imagenet"]
    assert load_model(saved()).model.spec["std"] == (0.247, 0.243, 0.261)


def test_tensors_and_arrays_are_those_that_were_saved(saved):
    """Parts of one tensor, a parameter, and numbers in the other order of bytes."""
    whole = torch.arange(6.0)
    weights = {"first": whole[:2], "rest": whole[2:], "turned": whole.view(2, 3).T, "own": torch.nn.Parameter(whole)}
    found = read_tensors(saved(model=weights, more=np.arange(3, dtype=">i8")))
    assert found["more"].tolist() == [0, 1, 2]
    assert all(torch.equal(found["model"][name], value) for name, value in weights.items())


ON_DISK = {"save_folder_path": "record/x", "data_dict": {
    i: {"path": f"{i}.png", "other_info": [5, i]} for i in range(4)}}
OLD = {"x": torch.zeros(4, 3, 2, 2), "y": torch.full((4,), 6)}
LABELS = {  # what bd_test and bd_train are: the target, and what is said of it
    "in memory": ({}, 3, "images of its bd_test"),
    "pictures on the disk": ({"bd_test": {"bd_data_container": ON_DISK}}, 5, "images of its bd_test"),
    "NumPy's labels": ({"bd_test": state(np.int64(7))}, 7, "images of its bd_test"),
    "an older file": ({"bd_test": OLD}, 6, "images of its bd_test"),
    "an older file of plain values": ({"bd_test": OLD, "bd_train": None}, 6, "images of its bd_test"),
    "an object": ({"bd_test": OldDataSet([4, 4, 0, 4], np.array([1, 1, 0, 1]))}, 4, "images of its bd_test"),
    "the training images alone": ({"bd_test": None}, 3, "images of its bd_train"),
    "poisoned ones of an older file": ({"bd_test": None, "bd_train": {"y": torch.ones(4).long(), "original_index":
                                                                      np.arange(4)}}, 1, "images of its bd_train"),
    "all training images": ({"bd_test": None, "bd_train": {"y": torch.ones(4).long(), "original_index": None}}, None,
                            "no labels of triggered images"),
    "a target for each class": ({"bd_test": state(None)}, None, "have 6 labels, as of an attack with a target for"),
    "nothing": ({"bd_test": None, "bd_train": Stateful()}, None, "no labels of triggered images"),
    "a class that is not there": ({"bd_test": state(10)}, None, "labeled 10, which is none of its classes"),
    "texts": ({"bd_test": state("cat"), "bd_train": None}, None, "no labels of triggered images")}


@pytest.mark.parametrize("changes, target, said", LABELS.values(), ids=LABELS)
def test_the_target_is_the_label_of_the_triggered_images(changes, target, said, saved):
    result = load_model(saved(**changes)).result
    assert result.target == target and said in result.why


@pytest.mark.parametrize("changes, said", [
    ({"model_name": "vit_b_16"}, "of the network 'vit_b_16'; of its networks, preactresnet18, resnet18"),
    ({"model_name": "preactresnet18"}, "says that it holds preactresnet18, but its weights are of resnet18"),
    ({"num_classes": 43}, "says that it has 43 classes, but its weights have 10"),
    ({"model": {"features.0.weight": torch.ones(2)}}, "expected the weights of one of the networks"),
    ({"model": Stateful()}, "refused, it refers to"), ({"model": {}}, "refused, it refers to"),
    ({"model": {"conv1.weight": Stateful()}}, "refused, it refers to"), ({"model_name": 3}, "refused, it refers to"),
    ({"model_name": Stateful()}, "refused, it refers to"),
    ({"model": {"conv1.weight": torch.zeros(1).expand(10**9)}}, "without memory of its own"),
    ({"model": {"conv1.weight": torch.zeros(3).to_sparse()}}, "refused, it refers to")])
def test_what_cannot_be_its_model_is_one_line(changes, said, saved):
    with pytest.raises(UserError, match=said) as refused:
        load_model(saved(**changes))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [
    {"state_dict": {}, "more": Reduced()}, {"model": {"a": torch.ones(1)}, "args": Stateful()}, torch.nn.Linear(2, 2),
    {"model_name": "resnet18", "more": Reduced()}, [Reduced()], Reduced()])
def test_another_file_with_objects_in_it_is_refused_as_ever(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for new_format in (True, False):
        torch.save(content, "m.pt", _use_new_zipfile_serialization=new_format)
        with pytest.raises(UserError, match=r"m\.pt: refused, it refers to"):
            read_tensors("m.pt")
    assert not os.path.exists(CANARY)


def test_a_torn_or_changed_file_is_refused_or_read_as_what_it_is(saved, tmp_path):
    whole = Path(saved(more=Reduced())).read_bytes()
    rng = np.random.default_rng(0)
    for length in range(0, len(whole), len(whole) // 40):
        (tmp_path / "torn.pt").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"torn\.pt: "):
            load_model(tmp_path / "torn.pt")
    for _ in range(60):
        changed = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 20_000), 3):  # the pickle comes first
            changed[place] = rng.integers(256)
        (tmp_path / "changed.pt").write_bytes(changed)
        try:
            load_model(tmp_path / "changed.pt")
        except UserError as error:
            assert 0 < len(str(error)) < 2000
        assert not os.path.exists(CANARY)


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("made", [
    None, True, -1, 2**80, 0.5, "ä", b"\xff", [1, [2]], {"a": {"b": (1, 2, 3, 4)}}, (), [(1,), (1, 2)], {}])
def test_plain_values_are_walked_as_they_are(protocol, made):
    found = walk(pickle.dumps(made, protocol))
    assert found == made or (isinstance(found, Inert) and made == b"\xff" and protocol < 3)


@pytest.mark.parametrize("protocol", range(5))
def test_an_object_is_walked_to_its_name_and_its_parts(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = [Stateful(), {1, 2}, frozenset([3]), Built]
    found = walk(pickle.dumps([shared, shared, OldDataSet([1], [True])], protocol))
    assert found[0] is found[1] and isinstance(found[0][0], Inert) and found[0][0].attributes() == {"inside": 3}
    assert found[2].attributes()["targets"] == [1] and not os.path.exists(CANARY)
    assert found[0][3].name == f"{Built.__module__}.Built" and found[0][3].arguments is None


DEEP = b")" + b"\x85" * 2 * 10**5  # a tuple in a tuple in a tuple


@pytest.mark.parametrize("content, said", [
    (b"", "exhausted"), (b"N", "exhausted"), (b"N.", None), (b".", "not a sound pickle"), (b"0.", "not a sound pickle"),
    (b"\x82\x01.", "not a sound pickle"), (b"h\x05.", "not a sound pickle"), (b"t.", "not a sound pickle"),
    (b"\xff.", "opcode"), (b"X\xff\xff\xff\x7fa.", "expected"), (b"\x8e" + b"\xff" * 7 + b"\x00a.", "expected"),
    (b"NNs.", "not a sound pickle"), (DEEP + b".", None), (b"}](" + DEEP + b"Nu.", None),
    (b"r\xff\xff\xff\x7f.", "not a sound pickle")])
def test_strange_operations_end_in_a_value_or_an_error(content, said):
    if said is None:
        walk(content)
    else:
        with pytest.raises(ValueError, match=said):
            walk(content)


def test_a_walk_of_too_many_operations_ends(monkeypatch):
    monkeypatch.setattr(inert, "MAX_STEPS", 100)
    assert walk(b"N" * 99 + b".") is None
    with pytest.raises(ValueError, match="more than 100 operations"):
        walk(b"N" * 100 + b".")


def test_a_dict_whose_key_is_deep_loses_that_pair_and_keeps_the_rest():
    assert walk(b"}(" + DEEP + b"NX\x01\x00\x00\x00aK\x05u.") == {"a": 5}


def bad_archive(net, **records):
    """An attack_result.pt with some of its records replaced."""
    content, changed = io.BytesIO(), io.BytesIO()
    torch.save(result_of(net, more=Reduced()), content)
    with zipfile.ZipFile(content) as whole, zipfile.ZipFile(changed, "w") as archive:
        for info in whole.infolist():
            name = info.filename.partition("/")[2]
            archive.writestr(info.filename, records.get(name, whole.read(info)))
    return changed.getvalue()


@pytest.mark.parametrize("records", [{"data/0": b""}, {"data/0": b"abc"}, {"byteorder": b"big"}, {"data.pkl": b"N."}])
def test_weights_that_are_not_all_there_are_refused(records, net, tmp_path):
    (tmp_path / "m.pt").write_bytes(bad_archive(net, **records))
    with pytest.raises(UserError, match=r"m\.pt: "):
        load_model(tmp_path / "m.pt")


@pytest.fixture(scope="module")
def known(small_run):
    """Weights that know the digits a little."""
    return load_model(small_run / "model_last.th").model


@pytest.mark.parametrize("changes, given, said", [
    ({}, None, ["tells the target, class 3 (d): all triggered images of its bd_test"]),
    ({}, 3, ["tells the target, class 3 (d)"]), ({}, 4, ["tells the target", "another target, class 4"]),
    ({"bd_test": state(None)}, None, ["tells no target: the triggered images of its bd_test have 6 labels"])])
def test_the_log_says_where_the_target_comes_from(changes, given, said, saved, caplog):
    trigger = None if given is None else build_trigger("badnets", given)
    with caplog.at_level(logging.INFO):
        log_told(load_model(saved(**changes)), trigger, tuple("abcdefghij"))
    assert all(words in line for words, line in zip(said, caplog.messages, strict=True))


@pytest.mark.slow
def test_defenses_run_on_it(known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(result_of(known), "attack_result.pt")
    common = ["--checkpoint", "attack_result.pt", "--dataset", "digits"]
    strip.main([*common, "--overlays", "2", "--calibration", "20", "--inspect", "20", "--output-dir", "strip"])
    neural_cleanse.main([*common, "--seeds", "1", "--budget", "2", "--batches", "1", "--output-dir", "nc"])
    for name in ("strip", "nc"):
        assert "tells the target, class 3: " in (tmp_path / name / "output.log").read_text()
        assert json.loads((tmp_path / name / "results.json").read_text())["asr"] is None
