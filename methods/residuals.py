"""The residuals that a trigger adds to images: their size, their similarity between images, and their transfer."""
import numpy as np


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB; uint8 (N, H, W, 3) both."""
    error = np.square(images.astype(np.float64) - others).mean(axis=(1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(error, 1e-9))).mean())


def paste(images: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """uint8 images (N, H, W, 3) plus residuals in gray levels, clipped to black and white."""
    return np.rint(images + residuals).clip(0, 255).astype(np.uint8)


def shared_energy(residuals: np.ndarray) -> float:
    """Energy of the mean residual over the mean energy of residuals (N, H, W, 3), in [0, 1]; 0 where all are 0."""
    energy = np.square(residuals, dtype=np.float64).sum(axis=(1, 2, 3)).mean()
    return float(np.square(residuals.mean(axis=0, dtype=np.float64)).sum() / energy) if energy else 0.0


def swapped(count: int, seed: int) -> np.ndarray:
    """A permutation (count,) that leaves nothing in its place: each image's next in a shuffled circle."""
    order, partner = np.random.default_rng(seed).permutation(count), np.empty(count, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner
