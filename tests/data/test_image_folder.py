import os
import shutil

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.untrusted.images import SUFFIXES
from data import image_folder as reader
from data.datasets import load_clean, load_splits, load_train_and_test


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
    monkeypatch.setattr(reader, "decode", lambda *args, decode=reader.decode: decoded.append(1) or decode(*args))
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


def test_an_image_that_was_replaced_by_one_of_the_same_time_and_another_size_is_read_anew(image_folder):
    folder = image_folder()
    first, _ = load_train_and_test("cifar10", folder)
    path = folder / "train/cat/0000.png"
    status = path.stat()
    Image.new("RGB", (32, 32)).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert first.data[0].any() and not load_train_and_test("cifar10", folder)[0].data[0].any()


def test_a_damaged_cache_is_read_anew(image_folder):
    folder = image_folder()
    first, _ = load_train_and_test("cifar10", folder)
    cache = folder / reader.cache_name()
    cache.write_bytes(cache.read_bytes()[:1000])
    again, _ = load_train_and_test("cifar10", folder)
    np.testing.assert_array_equal(first.data, again.data)


def test_other_sizes_are_resized_with_a_warning_and_other_files_ignored_with_one(image_folder, caplog):
    folder = image_folder(size=(48, 40), suffix=".jpg")
    (folder / "train/cat/notes.txt").write_text("not an image")
    with caplog.at_level("WARNING", logger="backdoor.data"):
        train, _ = load_train_and_test("cifar10", folder)
    assert train.data.shape == (12, 32, 32, 3)
    assert "resized 12 of 12 images" in caplog.text and "ignored 1 entries" in caplog.text


def test_images_of_another_size_are_resized_and_cached_beside_those_of_the_usual_one(image_folder, monkeypatch):
    folder = image_folder(size=(64, 64))
    usual, large = (load_train_and_test("cifar10", folder, size)[0] for size in (None, 48))
    assert usual.data.shape == (12, 32, 32, 3) and large.data.shape == (12, 48, 48, 3)
    expected = Image.open(folder / "train/cat/0000.png").resize((48, 48), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(large.data[0], np.asarray(expected))
    monkeypatch.setattr(reader, "decode", None)  # from here on the caches alone
    for size, before in ((None, usual), (48, large)):
        np.testing.assert_array_equal(load_train_and_test("cifar10", folder, size)[0].data, before.data)
    (folder / reader.cache_name(48)).replace(folder / reader.cache_name(40))
    with pytest.raises(TypeError):  # a cache of another size is not one of this size
        load_train_and_test("cifar10", folder, 40)


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
    (break_image, "train/dog/0003.png"), (empty_class, "train/dog: expected PNG, JPEG"),
    (empty_split, "one folder per class"), (lambda folder: (folder / "test/owl").mkdir(), "owl")])
def test_bad_folders_are_refused_by_name(image_folder, damage, named):
    folder = image_folder()
    damage(folder)
    with pytest.raises(UserError, match=named):
        load_splits("cifar10", folder)
    assert not (folder / reader.cache_name()).exists()


def test_one_class_is_refused(image_folder):
    with pytest.raises(UserError, match="at least 2 classes, got 1"):
        load_splits("cifar10", image_folder(("cat",)))


@pytest.fixture
def clean_folder(image_folder):
    """Make a folder <class>/* of clean images, without train/ and test/; returns its path."""
    return lambda **options: image_folder(**options) / "train"


def test_clean_images_by_class_are_halved_for_a_defense(clean_folder):
    folder = clean_folder(classes=("zebra", "ant", "bee"), count=7)
    defender, test = load_clean("cifar10", folder)
    assert defender.classes == test.classes == ("ant", "bee", "zebra") and defender.name == "train"
    assert abs(len(defender) - len(test)) == 1 and len(defender) + len(test) == 21
    seen = [{image.tobytes() for image in half.data} for half in (defender, test)]
    assert len(seen[0] | seen[1]) == 21 and not seen[0] & seen[1]
    for half in (defender, test):
        assert np.bincount(half.targets).min() >= 3
        assert len(set(half.targets[:len(half) // 2])) == 3  # not sorted by class, though the folder is
        for image, label in zip(half.data, half.targets, strict=True):
            names = [path.parent.name for path in folder.glob("*/*.png")
                     if np.asarray(Image.open(path)).tobytes() == image.tobytes()]
            assert names == [half.classes[label]]
    again, _ = load_clean("cifar10", folder)
    np.testing.assert_array_equal(again.data, defender.data)


def test_each_class_is_halved_by_itself(clean_folder):
    defender, test = load_clean("cifar10", clean_folder(classes=("ant", "bee", "zebra"), count=8))
    assert np.bincount(defender.targets).tolist() == np.bincount(test.targets).tolist() == [4, 4, 4]


def test_train_and_test_come_before_classes(image_folder):
    folder = image_folder(count=20)
    _, defender, test = load_splits("cifar10", folder)
    own, own_test = load_clean("cifar10", folder)
    np.testing.assert_array_equal(own.data, defender.data)
    np.testing.assert_array_equal(own_test.data, test.data)


def test_clean_images_by_class_are_not_for_training(clean_folder):
    with pytest.raises(UserError, match="holds classes but neither train/ nor test/"):
        load_splits("cifar10", clean_folder())


def test_a_class_of_one_clean_image_is_named(clean_folder):
    folder = clean_folder()
    for path in list((folder / "dog").iterdir())[1:]:
        path.unlink()
    with pytest.raises(UserError, match="one image of the class dog"):
        load_clean("cifar10", folder)


def test_an_empty_class_of_clean_images_is_named_and_hidden_folders_are_none(clean_folder):
    folder = clean_folder()
    (folder / ".thumbnails").mkdir()
    assert load_clean("cifar10", folder)[0].classes == ("cat", "dog")
    (folder / "eel").mkdir()
    with pytest.raises(UserError, match=r"eel: expected PNG, JPEG, .* files, found none"):
        load_clean("cifar10", folder)


@pytest.mark.parametrize("hidden", ["._0000.png", ".thumbnail.jpg", ".DS_Store", "__MACOSX/._0000.png", ".git/a.png"])
def test_hidden_files_and_folders_are_left_out_of_every_folder_that_is_read(image_folder, hidden, caplog):
    """The kind: what a system writes beside images is taken for the user's. Siblings: hidden files that are no copies,
    and hidden folders, in a class folder, among the classes, and in a folder that STRIP screens."""
    folder = image_folder()
    for place in (folder, folder / "train", folder / "train/cat"):
        (place / hidden).parent.mkdir(exist_ok=True)
        (place / hidden).write_bytes(b"\0\5\x16\7 not an image")
    train, test = load_train_and_test("cifar10", folder)
    assert (len(train), len(test), train.classes) == (12, 12, ("cat", "dog"))
    assert len(load_clean("cifar10", folder / "train")[0]) == 6
    assert len(reader.find_files(folder)) == 24 and all(record.levelname == "INFO" for record in caplog.records)


@pytest.mark.parametrize("suffix", [suffix for form in SUFFIXES.values() for suffix in form] + [".PPM", ".Jpg"])
def test_every_format_that_is_read_is_read_in_class_folders_too(image_folder, suffix):
    """The kind: a list of formats beside the reader's own. Siblings: suffixes in capitals, .pgm, .jfif."""
    folder = image_folder()
    form = next(form for form, known in SUFFIXES.items() if suffix.lower() in known)
    Image.new("RGB", (32, 32), (80, 80, 80)).save(folder / f"train/cat/9{suffix}", format=form)
    train, _ = load_train_and_test("cifar10", folder)
    assert len(train) == 13 and (train.data[6] == 80).all()
    assert reader.is_sorted_into_classes(folder / "train")


def test_what_a_script_left_beside_the_data_is_no_class(image_folder, tmp_path):
    made = tmp_path / "data/made"
    made.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(made / "clean_label_examples.png")
    (made / "config.json").write_text("{}")  # which a class may have too
    assert reader.is_sorted_into_classes(tmp_path / "data")
    (made / "output.log").write_text("")
    assert not reader.is_sorted_into_classes(tmp_path / "data")
    folder = image_folder()
    shutil.copytree(made, folder / "train/made")
    assert load_train_and_test("cifar10", folder)[0].classes == ("cat", "dog")


def test_a_16_bit_pgm_is_scaled_not_clipped(image_folder):
    ramp = np.linspace(0, 65535, 32 * 32).astype(">u2").reshape(32, 32)
    folder = image_folder()
    (folder / "train/cat/0000.pgm").write_bytes(b"P5 32 32 65535\n" + ramp.tobytes())
    (folder / "train/cat/0000.png").unlink()
    train, _ = load_train_and_test("cifar10", folder)
    np.testing.assert_allclose(train.data[0, ..., 0], ramp / 257, atol=0.51)


def float_picture(path):
    path.write_bytes(b"Pf\n32 32\n-1.0\n" + np.ones((32, 32), "<f4").tobytes())


def animation(path):
    frames = [Image.new("L", (32, 32), level) for level in (0, 255)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("write, said", [(float_picture, "got floating point"), (animation, "got an animation")])
def test_a_picture_with_two_readings_is_refused(image_folder, write, said):
    """The kind: a format that is now read, of which one reading would be taken silently: which frame, what white is."""
    folder = image_folder()
    write(folder / "train/cat/0000.png")
    with pytest.raises(UserError, match=f"cat/0000.png: expected .*{said}"):
        load_train_and_test("cifar10", folder)


def odd_exif(folder):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x09\0\x1a\x01\x05\0\1\0\0\0\xff\xff\xff\x7f"
    Image.new("RGB", (32, 32), (9, 9, 9)).save(folder / "train/cat/0000.jpg", exif=exif)


def odd_palette(folder):
    picture = Image.new("P", (32, 32), 1)
    picture.putpalette([0, 0, 0, 9, 9, 9])
    picture.save(folder / "train/cat/0000.png", transparency=b"\x80\xff")


@pytest.mark.parametrize("write", [odd_exif, odd_palette])
def test_pillows_warnings_do_not_come_through(image_folder, write, recwarn):
    """The kind: a library's warning with a path of its own. Both were seen to warn when Pillow reads them by itself."""
    folder = image_folder()
    write(folder)
    path = next((folder / "train/cat").glob("0000.jpg"), folder / "train/cat/0000.png")
    with Image.open(path) as image:
        image.convert("RGB")
    assert recwarn.list
    recwarn.clear()
    pixels, _ = reader.read_image(path)
    assert not recwarn.list and (np.abs(pixels.astype(int) - 9) <= 1).all()


def test_a_photograph_is_read_as_viewers_show_it(image_folder):
    folder, exif = image_folder(suffix=".jpg"), Image.Exif()
    exif[0x112] = 6  # written lying, held upright
    lying = np.zeros((32, 32, 3), np.uint8)
    lying[:, :16] = 255
    Image.fromarray(lying).save(folder / "train/cat/0000.jpg", exif=exif, quality=95)
    data = reader.read_image_folder(folder)[0]["train"][0]
    assert (data[0, :14] > 240).all() and (data[0, 18:] < 15).all()


@pytest.mark.parametrize("level, warned", [(1, True), (16, True), (255, False)])
def test_a_folder_of_another_scale_is_told(image_folder, caplog, level, warned):
    folder = image_folder()
    for path in folder.rglob("*.png"):
        Image.fromarray((np.asarray(Image.open(path)) > 127).astype(np.uint8) * np.uint8(level)).save(path)
    for _ in range(2):  # from the cache too
        caplog.clear()
        reader.read_image_folder(folder)
        assert ("were they saved on another scale" in caplog.text) == warned


def test_test_images_that_are_training_images_are_told(image_folder, caplog):
    folder = image_folder(count=10)
    reader.read_image_folder(folder)
    assert "in train/ too" not in caplog.text
    for name in ("cat/0000.png", "dog/0003.png"):
        (folder / "test" / name).write_bytes((folder / "train" / name).read_bytes())
    reader.read_image_folder(folder)
    assert "2 of the 20 images in test/ are in train/ too" in caplog.text


@pytest.mark.parametrize(("twins", "told"), [(1, False), (2, True)])
def test_one_in_a_hundred_test_images_may_be_a_training_image(twins, told, tmp_path, caplog):
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3), dtype=np.uint8)
    reader.warn_of_twins(tmp_path, images[:100], images[100 - twins:200 - twins])
    assert ("are in train/ too" in caplog.text) == told
