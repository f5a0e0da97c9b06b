"""Sections as one HTML page that needs nothing else, and no network."""
import base64
import functools
import io
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from PIL import Image

from data.files import whole_file

FOLDER = Path(__file__).resolve().parent


def runs_of_a_kind(blocks):
    """[(kind, [blocks])]: neighbours of one kind together, so that pictures share a grid."""
    return [(kind, list(own)) for kind, own in groupby(blocks, lambda block: type(block).__name__)]


def data_url(png):
    return "data:image/png;base64," + base64.b64encode(png).decode()


def size(png):
    """Width and height as attributes, so that the page does not jump while pictures come in."""
    with Image.open(io.BytesIO(png)) as image:
        return Markup(f' width="{image.width}" height="{image.height}"')


@functools.lru_cache
def formula_png(tex, dpi=300):
    """A formula as a PNG in black on nothing."""
    content = io.BytesIO()
    math_to_image(f"${tex}$", content, prop=FontProperties(size=11), dpi=dpi, format="png")
    return content.getvalue()


@functools.lru_cache
def svg(tex):
    """A formula as SVG paths in the color of the text around it."""
    content = io.BytesIO()
    math_to_image(f"${tex}$", content, prop=FontProperties(size=14), format="svg")
    text = content.getvalue().decode()
    text = text[text.index("<svg"):text.index("<metadata")] + text[text.index("</metadata>") + len("</metadata>"):]
    return Markup(text.replace("fill: #ffffff", "fill: none"))


def write_page(path, title, subtitle, sections):
    """Write the Sections as one self-contained HTML file. All text is escaped: names come from folders of others."""
    environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"runs_of_a_kind": runs_of_a_kind, "data_url": data_url, "size": size, "svg": svg}
    page = environment.get_template("page.html.j2").render(title=title, subtitle=subtitle, sections=sections)
    with whole_file(path) as file:
        file.write(page.encode("utf-8", errors="replace"))
