"""scikit-learn's 1,797 handwritten digits, which need no download."""
from pathlib import Path

import numpy as np
from PIL import Image

from data.image_folder import check_room, resized
from data.sources import DIGITS, Arrays

TEST_IMAGES, TEST_SEED = 360, 0


def load_digit_images(folder: str | Path, image_size: int) -> tuple[Arrays, tuple[str, ...]]:
    """The digits, enlarged from 8x8 to `image_size` pixels a side and colored gray; 360 are for testing."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    digits = load_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    check_room(len(small), image_size)
    gray = np.stack([resized(image, image_size, Image.Resampling.BICUBIC) for image in small])
    data, targets = np.repeat(gray[..., None], 3, axis=3), digits.target.astype(np.int64)
    parts = train_test_split(np.arange(len(targets)), test_size=TEST_IMAGES, random_state=TEST_SEED, stratify=targets)
    train, test = map(np.sort, parts)
    return {"train": (data[train], targets[train]), "test": (data[test], targets[test])}, DIGITS
