from dataclasses import replace

import numpy as np
import pytest
import torch

from data.batches import GRAY, Batches, augment, crop, mirror, to_pixels
from data.image_set import ImageSet


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_plain_batches_are_the_images_in_order(images):
    batches = Batches(images, 16)
    assert len(batches) == 3
    pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    np.testing.assert_array_equal(labels, images.targets)
    np.testing.assert_allclose(pixels.permute(0, 2, 3, 1), images.data / 255, atol=1e-7)
    assert pixels.dtype == torch.float32
    assert next(iter(batches))[0].is_contiguous(memory_format=torch.channels_last)


def test_a_shuffled_pass_has_every_image_once_and_another_order_each_time(images):
    batches = Batches(images, 16, generator=generator())
    passes = [torch.cat([pixels for pixels, _ in batches]) for _ in range(2)]
    keys = [[tuple(image.flatten()[:12].tolist()) for image in one] for one in passes]
    assert keys[0] != keys[1] and set(keys[0]) == set(keys[1]) and len(set(keys[0])) == 40


def test_a_pass_of_drawn_images_draws_any_of_the_set_and_some_twice(images):
    batches = Batches(replace(images, targets=np.arange(40)), 4, generator=generator(), draws=8)
    passes = [torch.cat([labels for _, labels in batches]).tolist() for _ in range(50)]
    assert {len(one) for one in passes} == {8} and set().union(*passes) == set(range(40))
    assert any(len(set(one)) < 8 for one in passes)


def test_one_seed_gives_the_same_bits(images):
    first, again = (list(Batches(images, 16, generator=generator(3), crop_padding=4, flip=True)) for _ in range(2))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))


def test_crop_is_a_window_of_the_padded_image(images):
    data = torch.from_numpy(images.data)
    offsets = torch.tensor([[i % 9, i * 7 % 9] for i in range(40)])
    cropped = crop(data, offsets, 4)
    for i, (y, x) in enumerate(offsets.tolist()):
        padded = np.pad(images.data[i], ((4, 4), (4, 4), (0, 0)))
        np.testing.assert_array_equal(cropped[i], padded[y:y + 32, x:x + 32])


def test_mirror_flips_only_where_it_is_told(images):
    flips = torch.arange(40) % 3 == 0
    mirrored = mirror(torch.from_numpy(images.data), flips)
    for i in range(40):
        np.testing.assert_array_equal(mirrored[i], images.data[i, :, ::-1] if i % 3 == 0 else images.data[i])


def test_every_image_of_a_batch_draws_its_own_crop_and_coin(images):
    one = images.subset(np.zeros(512, dtype=int))
    pixels, _ = next(iter(Batches(one, 512, generator=generator(), crop_padding=4, flip=True)))
    different = {image.numpy().tobytes() for image in pixels}
    assert 150 < len(different) <= 162  # 81 crops x 2


def test_images_in_a_mapped_file_make_the_same_batches(images, tmp_path):
    np.save(tmp_path / "images.npy", images.data)
    mapped = replace(images, data=np.load(tmp_path / "images.npy", mmap_mode="c"))
    passes = [list(Batches(part, 7, "cpu", generator(), 4, True, resident=resident))
              for part, resident in ((images, True), (mapped, False))]
    for (pixels, labels), (same_pixels, same_labels) in zip(*passes, strict=True):
        assert torch.equal(pixels, same_pixels) and torch.equal(labels, same_labels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, from whose memory images could be kept out")
def test_images_that_a_gpu_has_no_room_for_stream_to_it(images):
    here, streamed = (list(Batches(images, 7, "cuda", generator(), 4, True, resident=resident))
                      for resident in (True, False))
    for (pixels, labels), (same_pixels, same_labels) in zip(here, streamed, strict=True):
        assert same_pixels.is_cuda and torch.equal(pixels, same_pixels) and torch.equal(labels, same_labels)


def test_pixels_are_augmented_as_batches_are_each_image_by_draws_of_its_own(images):
    pixels, drawn = to_pixels(torch.from_numpy(images.data)), generator()
    assert torch.equal(augment(pixels, generator(), 0, False), pixels)
    offsets, flips = torch.randint(5, (40, 2), generator=drawn), torch.randint(2, (40,), generator=drawn).bool()
    wanted = to_pixels(mirror(crop(torch.from_numpy(images.data), offsets, 2), flips))
    assert torch.equal(augment(pixels, generator(), 2, True), wanted)
    assert 0 < int(flips.sum()) < 40 and len(offsets.unique(dim=0)) > 10


def test_cutout_grays_a_square_of_each_image_that_may_lie_half_outside():
    white = np.full((400, 32, 32, 3), 255, np.uint8)
    images = ImageSet(white, np.zeros(400, np.int64), ("a",))
    pixels, _ = next(iter(Batches(images, 400, generator=generator(), cutout=8)))
    gray = (pixels * 255).round() == GRAY
    assert ((pixels == 1) | gray).all()
    areas = gray.all(1).sum((1, 2))
    assert areas.max() == 64 and areas.min() < 64 and (areas >= 16).all()  # a quarter is inside at least
    middle = areas == 64
    assert gray.all(1)[middle].any(2).sum(1).eq(8).all() and gray.all(1)[middle].any(1).sum(1).eq(8).all()
    assert len({tuple(map(int, row.nonzero()[0])) for row in gray.all(1)}) > 100  # a place of its own for each


def test_cutout_leaves_the_other_draws_as_they_were():
    images = ImageSet(np.arange(64 * 32 * 32 * 3, dtype=np.int64).reshape(64, 32, 32, 3).astype(np.uint8),
                      np.zeros(64, np.int64), ("a",))
    plain, cut = (next(iter(Batches(images, 64, generator=generator(3), crop_padding=4, flip=True, cutout=cutout)))[0]
                  for cutout in (0, 8))
    assert (plain == cut).float().mean() > 0.9
