import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.datasets import fixed_permutation, in_label_order, load_clean, load_splits
from data.make_fixed_files import shuffled_indices


def test_digits_are_the_same_every_time_and_split_by_class():
    train, held_out, test = load_splits("digits", "nowhere")
    assert (len(train), len(held_out), len(test)) == (1294, 143, 360)
    assert train.data.shape[1:] == (32, 32, 3) and train.data.max() > 200 and train.num_classes == 10
    counts = np.bincount(test.targets)
    assert counts.min() >= 34 and counts.max() <= 38
    np.testing.assert_array_equal(train.data, load_splits("digits", "elsewhere")[0].data)


def test_digits_are_not_taken_in_place_of_a_folder_that_is_named_too(image_folder):
    with pytest.raises(UserError, match=r"comes with a library, but .* leave out --dataset or --data-dir"):
        load_splits("digits", image_folder())


def test_a_defense_does_not_take_digits_in_place_of_clean_images_that_are_named(image_folder, tmp_path, monkeypatch):
    clean = image_folder() / "test"
    assert len(load_clean("cifar10", clean)[0]) == 6
    with pytest.raises(UserError, match=r"comes with a library, but .* leave out --dataset or --data-dir"):
        load_clean("digits", clean)
    clean.rename(tmp_path / "data")  # the default, which nobody may have named
    monkeypatch.chdir(tmp_path)
    assert len(load_clean("digits", "data")[0]) == 143


def test_the_log_names_the_images_and_their_folder(image_folder, caplog):
    folder = image_folder(name="mine")
    with caplog.at_level("INFO", logger="backdoor"):
        load_splits("cifar10", folder), load_clean("cifar10", folder / "test"), load_splits("digits", "")
    said = [record.message for record in caplog.records if record.levelname == "INFO"]
    assert said == [f"images: mine in {folder}", f"images: test in {folder / 'test'}", "images: digits"]


@pytest.mark.parametrize("size", [16, 48])
def test_digits_have_the_size_that_is_asked_for_and_stay_the_same_digits(size):
    usual, other = (load_splits("digits", "", image_size=image_size)[0] for image_size in (None, size))
    assert other.data.shape == (1294, size, size, 3) and other.image_size == size
    np.testing.assert_array_equal(usual.targets, other.targets)
    back = np.stack([np.asarray(Image.fromarray(image).resize((32, 32))) for image in other.data[:50]]).astype(int)
    apart = np.abs(back[:, None] - usual.data[None, :50]).mean(axis=(2, 3, 4))
    assert (apart.argmin(axis=1) == np.arange(50)).all()


def test_images_are_others_with_one_other_pixel_or_one_other_label(images):
    data, targets = images.data.copy(), images.targets.copy()
    data[7, 0, 0, 0] ^= 1
    targets[7] = (targets[7] + 1) % 4
    others = (images, replace(images, data=data), replace(images, targets=targets))
    assert len({other.fingerprint() for other in others}) == 3
    assert images.subset(slice(None)).fingerprint() == images.fingerprint()


def test_in_another_order_of_the_classes_each_image_is_still_called_what_it_was_before_and_after_poisoning(images):
    poisoned = replace(images, targets=np.roll(images.targets, 1))
    other = in_label_order(replace(poisoned, original=images.targets), ("d", "b", "a", "c"))
    assert [other.classes[label] for label in other.targets] == [images.classes[label] for label in poisoned.targets]
    assert [other.classes[label] for label in other.original] == [images.classes[label] for label in images.targets]


def test_attacker_defender_and_test_share_no_digit():
    seen = [{image.tobytes() for image in part.data} for part in load_splits("digits", "")]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_cifar_is_split_by_the_committed_file():
    np.testing.assert_array_equal(fixed_permutation(50_000), shuffled_indices())  # the file, and the rule for others
    assert sorted(fixed_permutation(7)) == list(range(7))


def test_a_mistyped_data_dir_is_not_downloaded_into(tmp_path):
    with pytest.raises(UserError, match="cifar10-jpg: no such folder"):
        load_splits("cifar10", tmp_path / "cifar10-jpg")
    (tmp_path / "cifar10-jpeg").mkdir()
    with pytest.raises(UserError, match=r"no such folder; is .*/cifar10-jpeg meant\?$"):
        load_splits("cifar10", tmp_path / "cifar10-jpg")
    (tmp_path / "cifar10-jpeg").rmdir()
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="has train/ but not both"):
        load_splits("cifar10", tmp_path)


@pytest.fixture
def downloads(monkeypatch):
    """The folders that CIFAR-10 was asked of in place of a download."""
    asked = []

    def ask(root, **_):
        asked.append(str(root))
        raise RuntimeError("asked")
    monkeypatch.setattr("torchvision.datasets.CIFAR10", ask)
    return asked


@pytest.mark.parametrize("made, said", [
    (["Train/a/1.png", "Test/a/1.png"], "found Test/, Train/$"), (["train/a/1.png", "val/a/1.png"], "has train/ but"),
    (["val/a/1.png", "valid/a/1.png"], "found val/, valid/$"), (["Images/00000/1.ppm"], "found Images/$"),
    (["a/1.tif", "b/1.tif"], "found a/, b/$"), (["1.png", "2.png"], "found 1.png, 2.png$"),
    (["my.zip"], "found my.zip$"), (["cifar-10-batches-py/x", "Train/a/1.png"], "found Train/$"),
    (["cifar-10-python.tar.gz", "b/c/d"], "found b/$"),
    ([f"{i}/x/y" for i in range(9)], "found 0/, 1/, 2/, 3/ and 5 more$")])
@pytest.mark.parametrize("load", [load_splits, load_clean])
def test_a_folder_that_is_not_recognized_is_refused_and_never_becomes_cifar10(tmp_path, downloads, made, said, load):
    """The kind: a folder of the user's own is replaced by CIFAR-10. Siblings: val/ for test/, one level too many or too
    few, a format that is not read, an archive, and what an earlier download left beside their images."""
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=said) as refused:
        load("cifar10", tmp_path)
    assert not downloads and "train/" in str(refused.value)


@pytest.mark.parametrize("made", [[], [".DS_Store"], ["cifar-10-batches-py/x"], ["cifar-10-python.tar.gz"],
                                  ["cifar-10-batches-py/x", "MNIST/raw/x"]])
def test_cifar10_is_read_from_its_own_files_and_downloaded_to_an_empty_folder(tmp_path, downloads, made):
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="asked"):
        load_splits("cifar10", tmp_path)
    assert downloads == [str(tmp_path)]


@pytest.mark.parametrize("name", ["data", "./data/", str(Path(fixed_permutation.__code__.co_filename).parent)])
def test_cifar10_is_downloaded_to_the_default_folder_whatever_lies_there_but_images(
        tmp_path, downloads, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # not there, and there with the suite's own files
        with pytest.raises(UserError, match="asked"):
            load_splits("cifar10", name)
        (tmp_path / "data/clean-label").mkdir(parents=True, exist_ok=True)
    assert downloads == [name] * 2
    (tmp_path / "data/Train/a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"found Train/, clean-label/$"):
        load_splits("cifar10", "data")


def test_no_network_and_no_data_names_the_ways_out(monkeypatch, tmp_path):
    def offline(**_):
        raise urllib.error.URLError("no route to host")
    monkeypatch.setattr("torchvision.datasets.CIFAR10", offline)
    with pytest.raises(UserError, match=r"(?s)--data-dir.*no route to host.*--dataset digits"):
        load_splits("cifar10", tmp_path)


def test_cifar_by_torchvision_becomes_image_sets(monkeypatch, tmp_path):
    class Fake:
        classes = tuple(str(i) for i in range(10))

        def __init__(self, root, train, download):
            count = 20 if train else 10
            self.data = np.zeros((count, 32, 32, 3), dtype=np.uint8)
            self.targets = [i % 10 for i in range(count)]
    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
    train, held_out, test = load_splits("cifar10", tmp_path)
    assert (len(train), len(held_out), len(test)) == (18, 2, 10)
    assert train.targets.dtype == np.int64 and train.name == "cifar10" and train.num_classes == 10
    assert train.data.shape[1:] == (32, 32, 3)
    assert load_splits("cifar10", tmp_path, image_size=24)[0].data.shape == (18, 24, 24, 3)
