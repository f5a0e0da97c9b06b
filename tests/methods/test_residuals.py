import numpy as np
import pytest

from methods.residuals import psnr


def test_psnr_is_that_of_the_mean_square_error():
    black = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    assert psnr(black, np.full_like(black, 255)) == pytest.approx(0)
    assert psnr(black, black + 1) == pytest.approx(20 * np.log10(255))


def test_psnr_is_the_mean_of_the_images_own_and_not_that_of_their_mean_error():
    black = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    others = np.stack([black[0] + 1, black[1] + 100])
    assert psnr(black, others) == pytest.approx(20 * np.log10(255) - 20 * np.log10(100) / 2)
