"""The data sets that --dataset names, each read from tiny files in its own format, by the path that a user takes."""
import gzip
import hashlib
import pickle
import re
import struct

import numpy as np
import pytest
import scipy.io
import torchvision.datasets
from helpers.paths import ROOT
from PIL import Image

from common.errors import UserError
from data.datasets import load_clean, load_splits, load_train_and_test
from data.image_folder import cache_name
from data.sources import DATASETS, DEFAULT, SOURCES, comes_alone
from data.sources.folders import check_folder
from data.sources.signs import SIGNS
from engine.command_line import flags
from engine.command_line.inherit import holds_images

FINE = tuple(f"fine{number:02d}" for number in range(100))
RNG = np.random.default_rng(0)
SHAPES = {"mnist": (28, 28), "svhn": (32, 32, 3), "cifar100": (32, 32, 3)}
COUNTS = {"mnist": (10, (60, 20)), "svhn": (10, (60, 20)), "cifar100": (100, (300, 100)), "gtsrb": (43, (129, 43))}


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def noise(name):
    """{split: (images as the files have them, labels)}: every class equally often, no image equal to another."""
    classes, counts = COUNTS[name]
    return {split: (RNG.integers(0, 256, (count, *SHAPES[name]), dtype=np.uint8), np.arange(count) % classes)
            for split, count in zip(("train", "test"), counts, strict=True)}


def write_mnist(folder, made, monkeypatch):
    raw, sums = folder / "MNIST/raw", []
    raw.mkdir(parents=True)
    for split, start in (("train", "train"), ("test", "t10k")):
        images, labels = made[split]
        for name, header, array in (("images-idx3", struct.pack(">4I", 0x803, *images.shape), images),
                                    ("labels-idx1", struct.pack(">2I", 0x801, len(labels)), labels.astype(np.uint8))):
            path = raw / f"{start}-{name}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes()))
            sums.append((path.name, md5(path)))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)


def write_svhn(folder, made, monkeypatch):
    rows = {}
    for split, (images, labels) in made.items():
        path = folder / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
        rows[split] = ["http://127.0.0.1:9/", path.name, md5(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", rows)


def write_cifar100(folder, made, monkeypatch):
    whole = folder / "cifar-100-python"
    whole.mkdir()
    for split, (images, labels) in made.items():
        flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        (whole / split).write_bytes(pickle.dumps({"data": flat, "fine_labels": labels.tolist()}))
        monkeypatch.setattr(torchvision.datasets.CIFAR100, f"{split}_list", [[split, md5(whole / split)]])
    (whole / "meta").write_bytes(pickle.dumps({"fine_label_names": list(FINE)}))
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "meta", {
        "filename": "meta", "key": "fine_label_names", "md5": md5(whole / "meta")})


WRITE = {"mnist": write_mnist, "svhn": write_svhn, "cifar100": write_cifar100}
CLASSES = {"mnist": tuple("0123456789"), "svhn": tuple("0123456789"), "cifar100": FINE}


@pytest.mark.parametrize("name", WRITE)
def test_a_data_set_is_read_from_its_own_files(name, tmp_path, monkeypatch):
    made = noise(name)
    WRITE[name](tmp_path, made, monkeypatch)
    size = SHAPES[name][0]
    train, test = load_train_and_test(name, tmp_path, size)
    for images, (pixels, labels) in zip((train, test), made.values(), strict=True):
        expected = pixels if pixels.ndim == 4 else np.repeat(pixels[..., None], 3, axis=3)
        np.testing.assert_array_equal(images.data, expected)
        np.testing.assert_array_equal(images.targets, labels)
        assert (images.targets.dtype, images.classes, images.name) == (np.int64, CLASSES[name], name)
    attacker, defender, _ = load_splits(name, tmp_path)
    assert attacker.data.shape[1:] == (32, 32, 3) and attacker.data.dtype == np.uint8
    assert (len(defender), len(attacker)) == (len(train) // 10, len(train) - len(train) // 10)


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize("spoil", ["changed", "gone"])
def test_files_that_are_not_the_published_ones_are_not_read(name, spoil, tmp_path, monkeypatch):
    """Of CIFAR's, which are pickles, nothing is run."""
    WRITE[name](tmp_path, noise(name), monkeypatch)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no route to host")))
    path = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.name != "meta")[0]
    if spoil == "gone":
        path.unlink()
    else:
        path.write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(UserError, match=rf"--data-dir .*{SOURCES[name].title} could be neither read there nor "
                                        rf"downloaded \(.*no route to host.*without a network put") as refused:
        load_splits(name, tmp_path)
    assert "\n" not in str(refused.value) and SOURCES[name].by_hand in str(refused.value)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["mnist", "gtsrb"])
def test_a_download_without_a_network_leaves_nothing_that_looks_like_the_data_set(name, tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no route to host")))
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [])
    for _ in range(2):
        with pytest.raises(UserError, match="could be neither read there nor downloaded"):
            load_splits(name, tmp_path)
        assert not any(tmp_path.iterdir())


class Canary:
    """Unpickles into a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03" + b"\xff" * 12, b"\0\0\x0d\x03" + bytes(99)])
def test_an_unpacked_mnist_file_that_is_damaged_is_one_line(content, tmp_path, monkeypatch):
    write_mnist(tmp_path, noise("mnist"), monkeypatch)
    load_splits("mnist", tmp_path)
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(UserError, match="MNIST could be neither read") as refused:
        load_splits("mnist", tmp_path)
    assert "\n" not in str(refused.value)


def test_labels_beyond_the_classes_are_refused(tmp_path, monkeypatch):
    made = noise("svhn")
    made["test"][1][0] = 11
    write_svhn(tmp_path, made, monkeypatch)
    with pytest.raises(UserError, match="labels beyond its 10 classes"):
        load_splits("svhn", tmp_path)


TABLE = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
LAYOUTS = {  # training images, test images, table
    "the benchmark's archives": ("GTSRB/Final_Training/Images", "GTSRB/Final_Test/Images", "GT-final_test.csv"),
    "its folder alone": ("Final_Training/Images", "Final_Test/Images", "Final_Test/Images/GT-final_test.csv"),
    "torchvision's": ("gtsrb/GTSRB/Training", "gtsrb/GTSRB/Final_Test/Images", "gtsrb/GT-final_test.csv"),
    "Train and Test": ("gtsrb/Train", "gtsrb/Test", "gtsrb/Test/GT-final_test.csv"),
    "Train and Test at once": ("Train", "Test", "Test/GT-final_test.csv")}


def write_gtsrb(folder, layout="the benchmark's archives"):
    """43 classes of three training images and a test image each; {split: (pixels, labels)} as they are to be read."""
    training, test, table = (folder / part for part in LAYOUTS[layout])
    made, lines = {"train": ([], []), "test": ([], [])}, []
    for split, count, place in (("train", 3, training), ("test", 1, test)):
        for number in range(count * 43):
            label = number // 3 if split == "train" else 42 - number
            path = place / f"{label:05d}/{number % 3:05d}.ppm" if split == "train" else place / f"{number:05d}.ppm"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            made[split][0].append(pixels)
            made[split][1].append(label)
            lines += [f"{path.name};8;8;1;1;7;7;{label}\n"] * (split == "test")
        (training / "00000/GT-00000.csv").write_text(TABLE)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(TABLE + "".join(lines))
    return {split: tuple(map(np.array, pair)) for split, pair in made.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("error")
def test_gtsrb_is_read_from_a_folder_in_any_of_the_usual_nestings(layout, tmp_path):
    made = write_gtsrb(tmp_path, layout)
    train, test = load_train_and_test("gtsrb", tmp_path, 8)
    for images, (pixels, labels) in zip((train, test), made.values(), strict=True):
        np.testing.assert_array_equal(images.data, pixels)
        np.testing.assert_array_equal(images.targets, labels)
        assert (images.classes, images.name) == (SIGNS, "gtsrb")
    defender, again = load_clean("gtsrb", tmp_path)
    assert defender.data.shape == (12, 32, 32, 3) and len(again) == 43
    assert list(tmp_path.rglob(cache_name()))


@pytest.mark.parametrize("name, content, said", [
    ("GT-final_test.csv", None, "GTSRB_Final_Test_GT.zip"), ("GT-final_test.csv", TABLE, "names no image"),
    ("GT-final_test.csv", "Filename;Width\n00000.ppm;8\n", "expected a table with Filename and ClassId"),
    ("GT-final_test.csv", f"{TABLE}../x.ppm;8;8;1;1;7;7;3\n", "expected a file's name and a class of 0 to 42"),
    ("GT-final_test.csv", f"{TABLE}00000.ppm;8;8;1;1;7;7;43\n", "a class of 0 to 42, got '00000.ppm' and 43"),
    ("GT-final_test.csv", f"{TABLE}99999.ppm;8;8;1;1;7;7;3\n", "99999.ppm: No such file"),
    ("GTSRB/Final_Training/Images/00043/x.ppm", "", "00043: expected a class, 00000 to 00042"),
    ("GTSRB/Final_Training/Images/00001/00000.ppm", "P6", "00000.ppm: not a readable image")])
def test_a_folder_of_gtsrb_with_a_fault_is_refused_by_the_name_of_what_is_wrong(name, content, said, tmp_path):
    write_gtsrb(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content) if content is not None else path.unlink()
    with pytest.raises(UserError, match=said):
        load_splits("gtsrb", tmp_path)


def test_gtsrb_without_its_test_images_is_not_downloaded(tmp_path):
    (tmp_path / "GTSRB/Final_Training/Images/00000").mkdir(parents=True)
    with pytest.raises(UserError, match="expected Final_Test/Images or Test with the test images"):
        load_splits("gtsrb", tmp_path)


def test_gtsrb_is_downloaded_by_torchvision_where_it_is_not_there(tmp_path, monkeypatch):
    asked = []

    def download(root, split, download):
        asked.append(split)
        if split == "test":
            write_gtsrb(tmp_path, "torchvision's")
    monkeypatch.setattr("torchvision.datasets.GTSRB", download)
    train, _ = load_train_and_test("gtsrb", tmp_path)
    assert asked == ["train", "test"] and len(train) == 129


@pytest.mark.parametrize("name", DATASETS)
def test_class_names_sort_as_their_labels_do_and_can_be_folders(name):
    """So that an exported folder of such images, whose classes are numbered in sorted order, keeps the labels."""
    classes = SOURCES[name].classes
    assert sorted(set(classes)) == list(classes) and not any("/" in each for each in classes)


def test_the_flag_offers_what_the_table_has(capsys):
    parser = flags.Parser("")
    flags.add_data_flags(parser)
    assert [parser.parse_args(["--dataset", name]).dataset for name in SOURCES] == list(SOURCES)
    assert parser.parse_args([]).dataset == DEFAULT


@pytest.mark.parametrize("name", ["mnist", "svhn", "cifar100", "gtsrb", "cifar10"])
def test_nothing_is_downloaded_among_images_that_the_user_may_mean(name, tmp_path, monkeypatch):
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.setattr("torchvision.datasets." + {"gtsrb": "GTSRB"}.get(name, name.upper()), None)
    with pytest.raises(UserError, match="found a/"):
        load_splits(name, tmp_path)


def test_an_archive_that_lies_in_the_folder_is_taken_whatever_lies_beside_it(tmp_path, monkeypatch):
    for name in ("cifar-10-python.tar.gz", "cifar-100-python.tar.gz", "README"):
        (tmp_path / name).write_bytes(b"")
    check_folder("cifar10", tmp_path)
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    with pytest.raises(UserError, match="found README, cifar-100-python"):
        check_folder("cifar10", tmp_path)


def test_another_data_set_that_lies_in_the_folder_is_named(tmp_path):
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    with pytest.raises(UserError, match=r"found MNIST/ \(it has MNIST: --dataset mnist\)"):
        load_splits("cifar10", tmp_path)


def test_a_data_set_that_is_asked_for_by_name_is_taken_before_a_folder_of_images(tmp_path, monkeypatch, image_folder):
    folder = image_folder()
    assert not any(comes_alone(name, folder) for name in DATASETS if name != "digits")
    assert load_train_and_test("mnist", folder)[0].name == "pictures"
    made = noise("mnist")
    write_mnist(folder, made, monkeypatch)
    assert load_train_and_test("mnist", folder)[0].name == "mnist"
    assert load_train_and_test("cifar10", folder)[0].name == "pictures"


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_a_folder_that_strangers_masks_name_is_taken_only_if_it_holds_images(name, tmp_path):
    assert not holds_images(str(tmp_path))
    place = tmp_path / SOURCES[name].places[-1]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    assert holds_images(str(tmp_path))


@pytest.mark.parametrize("name", DATASETS)
def test_the_page_says_what_a_data_set_is_and_which_files_go_where(name):
    page = (ROOT / "docs/data.md").read_text()
    about, without_network = page.split("## Without a network")
    assert re.search(rf"^\| `{name}`", about, re.MULTILINE)
    for file in re.findall(r"\S+\.(?:gz|mat|csv)", SOURCES[name].by_hand):
        assert f"`{file}`" in without_network
    assert not SOURCES[name].places or re.search(rf"^\| .*`{name}`", without_network, re.MULTILINE)
