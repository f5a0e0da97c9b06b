"""Strangers' pictures."""
import os
import warnings
from collections.abc import Sequence

from PIL import Image

from common.errors import UserError
from common.untrusted.limits import MAX_IMAGE, check_size

# What a file may be, whatever it is called. Pillow knows more, such as EPS, which it has Ghostscript run.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP")


def read_picture(path: str | os.PathLike, formats: Sequence[str] = FORMATS, most: int = MAX_IMAGE,
                 max_side: int | None = None) -> Image.Image:
    """The picture in a file, decoded, in the mode that the file has.

    formats: Pillow's names. most: bytes of the file. max_side: pixels. Raises UserError, naming the file, for one that
    is missing, larger or unreadable, and for so many pixels that Pillow warns of a decompression bomb (89 million).
    """
    try:
        check_size(path, most)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats) as image:
                if max_side is not None and max(image.size) > max_side:
                    raise UserError(f"{path}: refused, {image.width}x{image.height} pixels; expected at most "
                                    f"{max_side} a side")
                image.load()
                return image
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path}: not a readable image ({error})") from None
