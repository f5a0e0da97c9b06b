import urllib.error

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.datasets import fixed_permutation, load_splits
from data.make_fixed_files import shuffled_indices


def test_digits_are_the_same_every_time_and_split_by_class():
    train, held_out, test = load_splits("digits", "nowhere")
    assert (len(train), len(held_out), len(test)) == (1294, 143, 360)
    assert train.data.shape[1:] == (32, 32, 3) and train.data.max() > 200 and train.num_classes == 10
    counts = np.bincount(test.targets)
    assert counts.min() >= 34 and counts.max() <= 38
    np.testing.assert_array_equal(train.data, load_splits("digits", "elsewhere")[0].data)


@pytest.mark.parametrize("size", [16, 48])
def test_digits_have_the_size_that_is_asked_for_and_stay_the_same_digits(size):
    usual, other = (load_splits("digits", "", image_size=image_size)[0] for image_size in (None, size))
    assert other.data.shape == (1294, size, size, 3) and other.image_size == size
    np.testing.assert_array_equal(usual.targets, other.targets)
    back = np.stack([np.asarray(Image.fromarray(image).resize((32, 32))) for image in other.data[:50]]).astype(int)
    apart = np.abs(back[:, None] - usual.data[None, :50]).mean(axis=(2, 3, 4))
    assert (apart.argmin(axis=1) == np.arange(50)).all()


def test_attacker_defender_and_test_share_no_digit():
    seen = [{image.tobytes() for image in part.data} for part in load_splits("digits", "")]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_cifar_is_split_by_the_committed_file():
    np.testing.assert_array_equal(fixed_permutation(50_000), shuffled_indices())  # the file, and the rule for others
    assert sorted(fixed_permutation(7)) == list(range(7))


def test_a_mistyped_data_dir_is_not_downloaded_into(tmp_path):
    with pytest.raises(UserError, match="cifar10-jpg: no such folder"):
        load_splits("cifar10", tmp_path / "cifar10-jpg")
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="has train/ but not both"):
        load_splits("cifar10", tmp_path)


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
