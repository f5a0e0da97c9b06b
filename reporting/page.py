"""Sections as one HTML page that needs nothing else, and no network."""
import base64
import functools
import io
import re
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from PIL import Image

from common.files import atomic_file

FOLDER = Path(__file__).resolve().parent
DPI = 150  # of engine.drawing's pictures
GRID_PIXELS = 60  # CSS pixels an inch of a grid at the least: an image and its margin take 1.25 inches
SVG_SIZE = 14  # points


def runs_of_a_kind(blocks):
    """[(kind, [blocks])]: neighbors of one kind together, so that pictures share a grid."""
    return [(kind, list(own)) for kind, own in groupby(blocks, lambda block: type(block).__name__)]


def data_url(png):
    return "data:image/png;base64," + base64.b64encode(png).decode()


def size(picture):
    """Width and height as attributes, so that the page does not jump while pictures come in; and how large it is shown.

    A wide picture has the size on the page that it was drawn for; a grid shrinks only as far as each image has some
    64 CSS pixels, and beyond that can be scrolled.
    """
    with Image.open(io.BytesIO(picture.png)) as image:
        width, height = image.size
    inches = width / DPI
    most = f"max-width: min(100%, {96 * inches:.0f}px)" if picture.wide and not picture.is_grid else ""
    shown = f"max-width: {96 * inches:.0f}px; width: 100%; min-width: {GRID_PIXELS * inches:.0f}px"
    style = shown if picture.is_grid else most
    return Markup(f' width="{width}" height="{height}"' + (f' style="{style}"' if style else ""))


@functools.lru_cache
def formula_png(tex, dpi=300, points=11):
    """A formula as a PNG in black on nothing, in letters of so many points."""
    content = io.BytesIO()
    math_to_image(f"${tex}$", content, prop=FontProperties(size=points), dpi=dpi, format="png")
    return content.getvalue()


@functools.lru_cache
def svg(tex):
    """A formula as SVG paths in the color and at the size of the text around it."""
    content = io.BytesIO()
    math_to_image(f"${tex}$", content, prop=FontProperties(size=SVG_SIZE), format="svg")
    text = content.getvalue().decode()
    text = text[text.index("<svg"):text.index("<metadata")] + text[text.index("</metadata>") + len("</metadata>"):]
    height = float(re.search(r'height="([\d.]+)pt"', text).group(1))
    text = text.replace("<svg", f'<svg style="height: {height / SVG_SIZE:.2f}em"', 1)
    return Markup(text.replace("fill: #ffffff", "fill: none"))


def write_page(path, title, subtitle, sections):
    """Write the Sections as one self-contained HTML file. All text is escaped: names come from folders of others."""
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"runs_of_a_kind": runs_of_a_kind, "data_url": data_url, "size": size, "svg": svg}
    page = environment.get_template("page.html.j2").render(title=title, subtitle=subtitle, sections=sections)
    with atomic_file(path) as file:
        file.write(page.encode("utf-8", errors="replace"))
