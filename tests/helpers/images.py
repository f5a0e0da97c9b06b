"""Image folders of noise."""
import numpy as np
from PIL import Image


def write_noise(folder, classes, count, size=(32, 32), suffix=".png"):
    """Write train/<class>/ and test/<class>/, `count` images (width, height) each; none equals another."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in classes:
            path = folder / split / label
            path.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / f"{i:04d}{suffix}")
