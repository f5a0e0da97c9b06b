from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from data.clean_label import CIFAR10CLB, load_clean_label, save_clean_label
from data.triggers import build_trigger
from data.triggers.table import load_crafted


@pytest.fixture
def folder(tmp_path, images):
    """A clean-label folder made from `images`: two images of class 1 stamped at half opacity."""
    trigger = build_trigger("clean-label", 1, alpha=0.5)
    data, flags = images.data.copy(), np.zeros(40, dtype=bool)
    chosen = np.flatnonzero(images.targets == 1)[:2]
    data[chosen], flags[chosen] = trigger.stamp(data[chosen]), True
    save_clean_label(tmp_path, replace(images, data=data, poisoned=flags), trigger,
                     {"made_from": images.fingerprint(), "dataset": images.name, "poisoned": 2})
    return tmp_path


def test_it_comes_back_with_its_own_trigger(folder, images):
    poisoned, trigger = load_clean_label(folder, images, 1)
    np.testing.assert_array_equal(np.flatnonzero(poisoned.poisoned), [1, 5])
    np.testing.assert_array_equal(poisoned.targets, images.targets)
    np.testing.assert_array_equal(poisoned.data[[1, 5]], trigger.stamp(images.data[[1, 5]]))
    assert trigger.alpha == 0.5 and poisoned.classes == images.classes


def test_the_homeworks_class_reads_it(folder, images):
    found = CIFAR10CLB(folder, transform=lambda picture: np.asarray(picture).sum())
    assert len(found) == 40 and found.targets == images.targets.tolist()
    np.testing.assert_array_equal(found.backdoor_list, [1, 5])
    assert found[3] == (images.data[3].sum(), 3)


def test_a_homework_folder_without_manifest_is_taken_with_the_four_corners(folder, images):
    for name in ("manifest.json", "trigger.npz", "backdoor_list.npy"):
        (folder / name).unlink()
    poisoned, trigger = load_crafted(images, 1, folder)
    assert not poisoned.poisoned.any() and trigger.alpha == 1 and trigger.mask.sum() == 36


@pytest.mark.parametrize("write", [
    lambda flags: flags.astype(np.float64), lambda flags: flags.astype(np.uint8), lambda flags: flags,
    lambda flags: flags[:, None].astype(np.int64), lambda flags: np.flatnonzero(flags).astype(np.float64),
    lambda flags: np.flatnonzero(flags)[None].astype(np.int16)])
def test_the_poisoned_images_are_listed_by_index_or_by_a_0_or_1_for_each(folder, images, write):
    """The kind: an array that says one thing in two forms. The course's program writes a float64 for every image; read
    as indices, its zeros and ones are the images 0 and 1. The length tells them apart."""
    for name in ("manifest.json", "trigger.npz"):
        (folder / name).unlink()
    np.save(folder / "backdoor_list.npy", write(np.isin(np.arange(40), [1, 5])))
    np.save(folder / "label.npy", images.targets.astype(np.float32)[:, None])
    poisoned, _ = load_clean_label(folder, images, 1)
    assert np.flatnonzero(poisoned.poisoned).tolist() == [1, 5]
    np.testing.assert_array_equal(poisoned.targets, images.targets)


@pytest.mark.parametrize("listed, indices", [([1, 0], None), ([1, 1], [0, 1]), ([0, 0], []), ([1], [1]), ([], [])])
def test_a_list_as_long_as_the_set_that_can_be_both_is_refused(tmp_path, listed, indices):
    np.save(tmp_path / "data.npy", np.zeros((2, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path / "label.npy", np.zeros(2, dtype=int))
    np.save(tmp_path / "backdoor_list.npy", np.array(listed))
    if indices is None:
        with pytest.raises(UserError, match="2 values for 2 images can be indices, or a 0 or 1 for each image"):
            CIFAR10CLB(tmp_path)
    else:
        assert CIFAR10CLB(tmp_path).backdoor_list.tolist() == indices


def test_all_images_listed_by_index_are_no_flags(tmp_path):
    np.save(tmp_path / "data.npy", np.zeros((3, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path / "label.npy", np.zeros(3, dtype=int))
    np.save(tmp_path / "backdoor_list.npy", np.array([2, 0, 1]))
    assert CIFAR10CLB(tmp_path).backdoor_list.tolist() == [2, 0, 1]


def test_a_folder_that_was_not_finished_is_refused(folder, images):
    (folder / "manifest.json").unlink()
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="did not finish"):
        load_clean_label(folder, images, 1)


def save(name, array):
    return lambda folder: np.save(folder / name, array, allow_pickle=True)


@pytest.mark.parametrize("damage, named", [
    (lambda folder: (folder / "data.npy").unlink(), "data.npy: no such file"),
    (lambda folder: (folder / "label.npy").write_bytes(b"junk"), "label.npy: not a NumPy array"),
    (save("data.npy", np.zeros((40, 3, 32, 32), dtype=np.uint8)), "data.npy: expected uint8"),
    (save("data.npy", np.zeros((40, 32, 32, 3))), "data.npy: expected uint8 .* got float64"),
    (save("label.npy", np.zeros(39, dtype=int)), "label.npy: expected 40 integers"),
    (save("label.npy", np.full(40, 9)), "label.npy: expected labels 0 to 3, got 9"),
    (save("label.npy", np.full(40, 4)), "label.npy: expected labels 0 to 3, got 4"),
    (save("label.npy", np.array([{}] * 40)), "label.npy: not a NumPy array of plain"),
    (save("label.npy", np.full(40, 0.5)), "label.npy: expected 40 integers"),
    (save("label.npy", np.eye(40)), "label.npy: expected 40 integers"),
    (save("backdoor_list.npy", np.array([40])), "backdoor_list.npy: expected different indices below 40"),
    (save("backdoor_list.npy", np.array([-1])), "backdoor_list.npy: expected different indices below 40"),
    (save("backdoor_list.npy", np.array([1.5])), "backdoor_list.npy: expected indices below 40, or one 0 or 1"),
    (save("backdoor_list.npy", np.array([np.nan])), "backdoor_list.npy: expected indices below 40, or one 0 or 1"),
    (save("backdoor_list.npy", np.ones(39)), "backdoor_list.npy: expected different indices .* for each of 40 images"),
    (save("backdoor_list.npy", np.full(40, 2)), "backdoor_list.npy: expected different indices"),
    (save("backdoor_list.npy", np.array([True, False])), "backdoor_list.npy: expected indices .* got bool"),
    (save("backdoor_list.npy", np.array([1, 0])), "have the label 0, but --poison-target is 1"),
    (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest"),
    (lambda folder: (folder / "trigger.npz").write_bytes(b""), "trigger.npz: not an archive"),
    (lambda folder: (folder / "backdoor_list.npy").unlink(), "backdoor_list.npy: expected 2 poisoned images, got 0"),
    (lambda folder: np.savez(folder / "trigger.npz", pattern=np.zeros((5, 5, 1)), mask=0, alpha=1), "trigger.npz"),
    (save("data.npy", np.zeros((0, 32, 32, 3), dtype=np.uint8)), "data.npy: expected uint8"),
    (lambda folder: np.savez(folder / "trigger.npz", mask=0), "trigger.npz: not a trigger")])
def test_damaged_folders_are_refused_by_file(folder, images, damage, named):
    damage(folder)
    with pytest.raises(UserError, match=named):
        load_clean_label(folder, images, 1)


def test_missing_and_foreign_folders_are_refused(folder, images):
    with pytest.raises(UserError, match=r"generate_clb_attack\.py makes one"):
        load_clean_label(folder / "none", images, 1)
    with pytest.raises(UserError, match="made from other images"):
        load_clean_label(folder, replace(images, data=255 - images.data), 1)
    with pytest.raises(UserError, match="--poison-target is 2"):
        load_clean_label(folder, images, 2)


def test_a_folder_of_images_of_another_size_is_refused(folder, images):
    np.save(folder / "data.npy", np.zeros((40, 48, 24, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"data\.npy: expected images of 32x32 as random has, got 24x48"):
        load_clean_label(folder, images, 1)


def test_a_homework_folder_of_larger_images_is_taken_with_the_corners_of_that_size(folder, images):
    for name in ("manifest.json", "trigger.npz"):
        (folder / name).unlink()
    large = replace(images, data=np.zeros((40, 48, 48, 3), dtype=np.uint8))
    np.save(folder / "data.npy", large.data)
    _, trigger = load_crafted(large, 1, folder)
    stamped = trigger.stamp(large.data)[0]
    assert all((stamped[row, column] == 255).all() for row in (0, -1) for column in (0, -1))
