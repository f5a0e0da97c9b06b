"""Strangers' pictures."""
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

from common.errors import UserError
from common.untrusted.limits import MAX_IMAGE, check_size

# {what a file may be, whatever it is called: how such files are called}: the one list of the formats that are read.
# Pillow knows more, such as EPS, which it has Ghostscript run.
SUFFIXES = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "BMP": (".bmp", ".dib"), "GIF": (".gif",),
            "PPM": (".ppm", ".pgm", ".pbm", ".pnm"), "WEBP": (".webp",)}
FORMATS = tuple(SUFFIXES)
IN_WORDS = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's images: ._0001.png, .DS_Store, __MACOSX."""
    return name.startswith(".") or name == "__MACOSX"


def is_called_image(name: str) -> bool:
    """Whether a file of this name is to be read as a picture: it is not hidden, and has a suffix of a format."""
    return not is_hidden(name) and name.lower().endswith(sum(SUFFIXES.values(), ()))


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow without its warnings (odd EXIF data, palettes), but that of a decompression bomb, which is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_picture(path: str | os.PathLike, formats: Sequence[str] = FORMATS, most: int = MAX_IMAGE,
                 max_side: int | None = None) -> Image.Image:
    """The picture in a file, decoded, in the mode that the file has.

    formats: Pillow's names. most: bytes of the file. max_side: pixels. Raises UserError, naming the file, for one that
    is missing, larger or unreadable, for an animation, and for so many pixels that Pillow warns of a decompression bomb
    (89 million).
    """
    try:
        check_size(path, most)
        with quiet_pillow(), Image.open(path, formats=formats) as image:
            if max_side is not None and max(image.size) > max_side:
                raise UserError(f"{path}: refused, {image.width}x{image.height} pixels; expected at most "
                                f"{max_side} a side")
            if getattr(image, "is_animated", False) and image.format != "MPO":  # a photograph beside its small copy
                raise UserError(f"{path}: expected one picture, got an animation; save the frame that is meant")
            image.load()
            return image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path}: not a readable image ({error})") from None


def read_rgb(path: str | os.PathLike) -> Image.Image:
    """The picture in a file in 8-bit RGB; without its transparency, and turned as its EXIF data say.

    So viewers show it. Raises UserError as read_picture does.

    Gray levels of 16 bits are scaled; those of floating point are refused, since nothing says from where to where they
    go.
    """
    picture = read_picture(path)
    if picture.mode == "F":
        raise UserError(f"{path}: expected pixels of 8 or 16 bits, got floating point; save it as PNG")
    with quiet_pillow():
        return to_8_bits(upright(picture)).convert("RGB")


def upright(picture: Image.Image) -> Image.Image:
    """A picture turned as its EXIF data say: a camera that is held upright writes its photographs lying. Those whose
    EXIF data are damaged as they are."""
    try:
        return ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        return picture


def to_8_bits(image: Image.Image) -> Image.Image:
    """A 16-bit gray picture scaled to 8 bits, which Pillow's own conversion would clip to white; others as they are."""
    if not image.mode.startswith("I"):
        return image
    gray = np.asarray(image).astype(np.float32)  # changed in place: a picture may have 89 million pixels
    gray /= 257
    return Image.fromarray(np.rint(gray, out=gray).clip(0, 255, out=gray).astype(np.uint8))
