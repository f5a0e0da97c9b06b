"""Make the two seeded files that every run shares: `python -m data.make_fixed_files` from the repository's root.

Writes data/cifar_shuffle.txt, the permutation of 50,000 that splits attacker from defender, and
data/cifar_gaussian_noise.png, the 32x32x3 picture of the Blend attack. Both are committed; running this again
writes the same bytes.
"""
import numpy as np
from PIL import Image

from data.datasets import SHUFFLE_FILE, SPLIT_SEED
from data.triggers.table import NOISE_FILE

# A bell curve around middle gray, as the file's name promises; at 64 levels some 5 % are clipped at 0 or 255.
NOISE_SEED, NOISE_MEAN, NOISE_SD = 0, 127.5, 64.0


def shuffled_indices() -> np.ndarray:
    """int64 (50000,): the rule of `data.datasets.fixed_permutation` for CIFAR-10's training set."""
    return np.random.default_rng(SPLIT_SEED).permutation(50_000)


def noise_picture() -> np.ndarray:
    """Blend's picture, uint8 (32, 32, 3)."""
    noise = np.random.default_rng(NOISE_SEED).normal(NOISE_MEAN, NOISE_SD, (32, 32, 3))
    return np.rint(noise).clip(0, 255).astype(np.uint8)


def main() -> None:
    """Write both files."""
    np.savetxt(SHUFFLE_FILE, shuffled_indices(), fmt="%d")
    Image.fromarray(noise_picture()).save(NOISE_FILE)


if __name__ == "__main__":
    main()
