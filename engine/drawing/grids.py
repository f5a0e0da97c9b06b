"""Images side by side."""
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from common.files import atomic_file
from engine.drawing.canvas import DPI

CELL, IMAGE, LABEL = 200, 186, 42  # of image_grid, in dots: from one image to the next, an image, the rows' labels
SMALLEST = 9  # letters, in dots


def image_grid(path: Path, rows: Sequence[tuple[str, np.ndarray]], titles: Sequence[str]) -> None:
    """Rows of images, one below the other: `rows` is [(label of one line, uint8 (K, H, W, 3))], `titles` K texts above
    the columns.

    Pasted and lettered by Pillow: matplotlib takes ten times as long for a pair of axes an image.
    """
    titles = [title.replace("\t", " ") for title in titles]
    top = 12 + 18 * max(title.count("\n") + 1 for title in titles)
    page = Image.new("RGB", (LABEL + CELL * len(titles), top + CELL * len(rows)), "white")
    for line, (label, images) in enumerate(rows):
        middle = top + CELL * line + IMAGE // 2
        page.paste(turned(label, IMAGE), (8, middle - IMAGE // 2))
        for column, image in enumerate(images):
            page.paste(framed(image, IMAGE), (LABEL + CELL * column, top + CELL * line))
    pen, font = ImageDraw.Draw(page), fitting((line for title in titles for line in title.split("\n")), CELL - 6, 17)
    for column, title in enumerate(titles):
        pen.multiline_text((LABEL + CELL * column + IMAGE // 2, top - 6), title, "black", font, anchor="md",
                           align="center")
    with atomic_file(path) as file:
        page.save(file, format="PNG", dpi=(DPI, DPI))


@cache
def lettering(size: int) -> ImageFont.FreeTypeFont:
    """The letters of all pictures, which matplotlib brings with it; size: in dots."""
    import matplotlib
    # The other layout engine, for scripts that are written from right to left, fails on some machines.
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size,
                              layout_engine=ImageFont.Layout.BASIC)


def fitting(texts: Iterable[str], width: int, largest: int) -> ImageFont.FreeTypeFont:
    """Letters in which all of `texts` are at most `width` dots wide, but not smaller than one can read."""
    texts = list(texts)
    return next((font for font in map(lettering, range(largest, SMALLEST, -1))
                 if all(font.getlength(text) <= width for text in texts)), lettering(SMALLEST))


def turned(label: str, height: int) -> Image.Image:
    """A text on one line that is read from below, in smaller letters if it would be longer than `height` dots."""
    font, strip = fitting([label], height - 2, 19), Image.new("RGB", (height, 28), "white")
    ImageDraw.Draw(strip).text((height // 2, 14), label, "black", font, anchor="mm")
    return strip.rotate(90, expand=True)


def framed(image: np.ndarray, side: int) -> Image.Image:
    """An image uint8 (H, W, 3) enlarged until its longer side has `side` dots, with a gray line around it: white pixels
    at the edge are not the page."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    enlarged = Image.fromarray(image).resize((round(width * scale), round(height * scale)), Image.Resampling.NEAREST)
    return ImageOps.expand(ImageOps.crop(enlarged, 1), 1, "gray")


def enlarge(change: np.ndarray) -> np.ndarray:
    """A change of pixels, int (n, H, W, 3), scaled into a picture: gray where nothing changed, up to black or white
    elsewhere."""
    return (128 + change * (127 / max(np.abs(change).max(), 1))).round().astype(np.uint8)


def trigger_grid(path: Path, columns: Sequence[tuple]) -> None:
    """Masks, patterns and their products, one row each; `columns` is [(title, PatternTrigger)]."""
    rows = {"mask": [], "pattern": [], "mask x pattern": []}
    for _, trigger in columns:
        shape = (*trigger.mask.shape[:2], 3)
        mask, pattern = (np.broadcast_to(part, shape) for part in (trigger.mask * trigger.alpha, trigger.pattern))
        for images, values in zip(rows.values(), (255 * mask, pattern, mask * pattern), strict=True):
            images.append(np.rint(values).astype(np.uint8))
    image_grid(path, [(name, np.stack(images)) for name, images in rows.items()], [title for title, _ in columns])
