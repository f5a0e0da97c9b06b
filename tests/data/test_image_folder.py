import os

import numpy as np
import pytest
from PIL import Image

from data import image_folder as reader
from data.datasets import load_splits, load_train_and_test
from data.files import UserError


def test_folder_is_read_in_sorted_order_with_its_class_names(image_folder):
    folder = image_folder(("zebra", "ant", "bee"), count=4)
    train, test = load_train_and_test("cifar10", folder)
    assert train.classes == ("ant", "bee", "zebra") and train.name == "pictures"
    np.testing.assert_array_equal(train.targets, np.repeat([0, 1, 2], 4))
    np.testing.assert_array_equal(train.data[5], np.asarray(Image.open(folder / "train/bee/0001.png")))
    assert len(test) == 12 and train.data.dtype == np.uint8 and train.targets.dtype == np.int64


def test_second_start_decodes_nothing_and_a_changed_folder_is_read_anew(image_folder, monkeypatch):
    folder = image_folder()
    first, _ = load_train_and_test("cifar10", folder)
    decoded = []
    monkeypatch.setattr(reader, "decode", lambda rows, decode=reader.decode: decoded.append(1) or decode(rows))
    again, _ = load_train_and_test("cifar10", folder)
    assert not decoded
    np.testing.assert_array_equal(first.data, again.data)

    path = folder / "train/cat/0000.png"
    size, status = path.stat().st_size, path.stat()
    path.write_bytes(path.read_bytes())  # the same bytes at another time: cannot be told from a change
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert path.stat().st_size == size
    load_train_and_test("cifar10", folder)
    assert len(decoded) == 2
    (folder / "test/dog/0000.png").unlink()
    assert len(load_train_and_test("cifar10", folder)[1]) == 11


def test_a_damaged_cache_is_read_anew(image_folder):
    folder = image_folder()
    first, _ = load_train_and_test("cifar10", folder)
    cache = folder / reader.CACHE
    cache.write_bytes(cache.read_bytes()[:1000])
    again, _ = load_train_and_test("cifar10", folder)
    np.testing.assert_array_equal(first.data, again.data)


def test_other_sizes_are_resized_with_a_notice_and_other_files_ignored_with_one(image_folder, caplog):
    folder = image_folder(size=(48, 40), suffix=".jpg")
    (folder / "train/cat/notes.txt").write_text("not an image")
    with caplog.at_level("INFO", logger="backdoor.data"):
        train, _ = load_train_and_test("cifar10", folder)
    assert train.data.shape == (12, 32, 32, 3)
    assert "resized 12 of 12 images" in caplog.text and "ignored 1 entries" in caplog.text


def test_grey_and_transparent_pictures_become_rgb(image_folder):
    folder = image_folder()
    Image.new("L", (32, 32), 77).save(folder / "train/cat/0000.png")
    Image.new("RGBA", (32, 32), (1, 2, 3, 255)).save(folder / "train/cat/0001.png")
    train, _ = load_train_and_test("cifar10", folder)
    assert (train.data[0] == 77).all() and (train.data[1] == (1, 2, 3)).all()


def test_16_bit_grey_is_scaled_not_clipped(image_folder):
    folder = image_folder()
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(ramp).save(folder / "train/cat/0000.png")
    train, _ = load_train_and_test("cifar10", folder)
    np.testing.assert_allclose(train.data[0, ..., 0], ramp / 257, atol=0.51)


def test_odd_names_are_read(image_folder):
    folder = image_folder(("a b", "c$\\frac$", "\u732b"))
    (folder / "train/a b/0000.png").rename(folder / "train/a b/UPPER.PNG")
    os.rename(folder / "train/a b/0001.png", os.fsencode(folder / "train/a b") + b"/caf\xe9.png")
    train, _ = load_train_and_test("cifar10", folder)
    assert len(train) == 18 and train.num_classes == 3


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(image_folder, monkeypatch):
    def read_only(*_):
        raise OSError(30, "Read-only file system")
    folder = image_folder()
    monkeypatch.setattr(os, "fsync", read_only)
    assert len(load_train_and_test("cifar10", folder)[0]) == 12
    assert not list(folder.glob(".*"))


def test_a_class_without_an_attackers_image_is_refused(image_folder):
    folder = image_folder(("cat", "dog"), count=20)
    for path in sorted((folder / "train/dog").iterdir())[1:]:
        path.unlink()
    for attempt in range(30):  # whichever the permutation gives the defender
        try:
            load_splits("cifar10", folder, val_frac=attempt / 30)
        except UserError as error:
            assert "no training image of the class dog is left" in str(error)
            return
    pytest.fail("never refused")


def break_image(folder):
    path = folder / "train/dog/0003.png"
    path.write_bytes(path.read_bytes()[:60])


def empty_class(folder):
    for path in (folder / "train/dog").iterdir():
        path.unlink()


def empty_split(folder):
    for path in sorted((folder / "train").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("damage, named", [
    (break_image, "train/dog/0003.png"), (empty_class, "train/dog: expected PNG or JPEG"),
    (empty_split, "one folder per class"), (lambda folder: (folder / "test/owl").mkdir(), "owl")])
def test_bad_folders_are_refused_by_name(image_folder, damage, named):
    folder = image_folder()
    damage(folder)
    with pytest.raises(UserError, match=named):
        load_splits("cifar10", folder)
    assert not (folder / reader.CACHE).exists()


def test_one_class_is_refused(image_folder):
    with pytest.raises(UserError, match="at least 2 classes, got 1"):
        load_splits("cifar10", image_folder(("cat",)))
