"""Pictures of rows of images."""
import numpy as np
import pytest
from PIL import Image

from engine.drawing.grids import CELL, IMAGE, LABEL, image_grid

RED, WHITE = np.zeros((2, 32, 32, 3), np.uint8) + np.uint8([200, 0, 0]), np.full((2, 32, 32, 3), 255, np.uint8)


def drawn(tmp_path, rows, titles=("a", "b")):
    """The picture that image_grid makes, uint8 (H, W, 3)."""
    image_grid(tmp_path / "grid.png", rows, titles)
    return np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))


def test_every_image_stands_whole_in_its_cell_with_a_line_around_it(tmp_path):
    page = drawn(tmp_path, [("red", RED), ("white", WHITE)])
    top = page.shape[0] - 2 * CELL
    for line, color in enumerate(([200, 0, 0], [255, 255, 255])):
        for column in range(2):
            y, x = top + CELL * line, LABEL + CELL * column
            cell = page[y:y + IMAGE, x:x + IMAGE]
            assert (cell[1:-1, 1:-1] == color).all()
            assert all((edge == 128).all() for edge in (cell[0], cell[-1], cell[:, 0], cell[:, -1]))


def test_pixels_stay_squares_of_their_own_color(tmp_path):
    board = np.zeros((2, 4, 4, 3), np.uint8)
    board[:, ::2, ::2] = 250
    page = drawn(tmp_path, [("board", board)])
    cell = page[page.shape[0] - CELL:, LABEL:LABEL + IMAGE][1:IMAGE - 1, 1:IMAGE - 1]
    assert set(np.unique(cell)) == {0, 250} and 0.24 < (cell == 250).mean() < 0.26


def test_an_image_that_is_no_square_keeps_its_shape(tmp_path):
    page = drawn(tmp_path, [("wide", np.zeros((2, 16, 32, 3), np.uint8))])
    black = (page[page.shape[0] - CELL:, LABEL:LABEL + IMAGE] == 0).all(2)
    assert black.any(0).sum() == pytest.approx(2 * black.any(1).sum(), abs=3)


@pytest.mark.parametrize("titles", [("a$b", "c$d"), ("one\ntwo", "three"), ("x" * 60, "y"), ("\u00e9", "\u65e5")])
def test_titles_of_any_letters_stand_above_the_images(tmp_path, titles):
    page = drawn(tmp_path, [("white", WHITE)], titles)
    top = page.shape[0] - CELL
    for column in range(2):
        assert (page[:top, LABEL + CELL * column:LABEL + CELL * column + IMAGE] < 100).any()


@pytest.mark.parametrize("label", ["poisoned", "difference, enlarged", "x" * 22])
def test_a_rows_label_is_whole(tmp_path, label):
    """Nothing of it lies on the edge of the place that it has beside the images."""
    page = drawn(tmp_path, [(label, WHITE)])
    top = page.shape[0] - CELL
    place = page[top:top + IMAGE, 8:36].min(2)
    assert place.min() < 100 and all((edge == 255).all() for edge in (place[0], place[-1], place[:, 0], place[:, -1]))
