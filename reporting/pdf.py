"""Sections as a PDF of at most so many pages."""
import io
import math
import re
from html import escape
from pathlib import Path

import matplotlib
from PIL import Image as PillowImage
from reportlab.lib import colors
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Image, KeepTogether, Paragraph, SimpleDocTemplate, Spacer
from reportlab.platypus import Table as Grid

from common.errors import UserError
from common.files import atomic_file
from reporting.document import Formula, Picture, Table, Text
from reporting.page import DPI, formula_png, runs_of_a_kind

MARGIN = 15 * mm
WIDTH = A4[0] - 2 * MARGIN
# (rows a table, pictures a section, pictures side by side): from all that fits to the least, until the pages suffice
TIERS = ((60, 12, 2), (40, 9, 3), (25, 6, 3), (18, 4, 3), (12, 3, 3), (8, 3, 3), (5, 3, 3), (3, 1, 3), (1, 0, 3))
WORD = re.compile(r"[\s/]+")
INKS = {"": "#000000", "good": "#17703a", "bad": "#b3261e", "soft": "#6a7078"}
TEXT_POINTS, FORMULA_DPI = 8, 300
LONGEST_CELL = 400  # letters
TALLEST, TALLEST_GRID = 62 * mm, 80 * mm  # of a wide picture


def load_fonts():
    """matplotlib's own DejaVu: PDF's built-in fonts have neither Greek nor most of the world's letters."""
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    for name, file in (("Sans", "DejaVuSans.ttf"), ("Sans-Bold", "DejaVuSans-Bold.ttf")):
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, folder / file))


def styles():
    load_fonts()
    base = ParagraphStyle("base", fontName="Sans", fontSize=TEXT_POINTS, leading=10.6, spaceAfter=3)
    return {"text": base, "title": ParagraphStyle("title", base, fontName="Sans-Bold", fontSize=14, leading=17),
            "heading": ParagraphStyle("heading", base, fontName="Sans-Bold", fontSize=10.5, leading=13, spaceBefore=7,
                                      keepWithNext=1),
            "cell": ParagraphStyle("cell", base, fontSize=6, leading=7.2, spaceAfter=0),
            "head": ParagraphStyle("head", base, fontName="Sans-Bold", fontSize=6, leading=7.2, spaceAfter=0),
            "number": ParagraphStyle("number", base, fontSize=6, leading=7.2, spaceAfter=0, alignment=TA_RIGHT),
            "number head": ParagraphStyle("number head", base, fontName="Sans-Bold", fontSize=6, leading=7.2,
                                          spaceAfter=0, alignment=TA_RIGHT),
            "caption": ParagraphStyle("caption", base, fontSize=6.3, leading=7.8, textColor=colors.HexColor("#555555"))}


def paragraph(text, style):
    return Paragraph(escape(text), style)


def picture_sized(png, width, height=math.inf):
    """A flowable of a PNG that is at most so large, in points, and no larger than it was drawn."""
    with PillowImage.open(io.BytesIO(png)) as image:
        scale = min(width / image.width, height / image.height, 72 / DPI)
        return Image(io.BytesIO(png), image.width * scale, image.height * scale)


def column_widths(table, rows):
    """Widths in points: what the longest word of each column takes, and the rest of the page by the length of the text.

    Folders' names are broken at their slashes, so only what lies between them counts as a word. A number with its
    interval is one word.
    """
    texts = [[name, *(row[i].text for row in rows)] for i, name in enumerate(table.columns)]
    words = [max(pdfmetrics.stringWidth(word, "Sans-Bold", 6) for word in (
        *WORD.split(own[0]), *(own[1:] if right else (word for text in own[1:] for word in WORD.split(text)))))
        for own, right in zip(texts, table.holds_numbers, strict=True)]
    least = [min(word + 5, WIDTH / 3) for word in words]
    wanted = [max(0, min(max(map(len, own)), 60) * 3.6 - low) for own, low in zip(texts, least, strict=True)]
    rest = max(0, WIDTH - sum(least))
    share = rest / max(sum(wanted), 1)
    widths = [low + more * share for low, more in zip(least, wanted, strict=True)]
    return [width * min(1, WIDTH / sum(widths)) for width in widths]


def broken(text):
    """A cell's text, escaped, that may be broken after a slash; no row may be higher than a page."""
    text = text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]} …"
    return escape(text).replace("/", "/<font size=1> </font>")


def draw_table(table, most, style):
    """A table's flowables: the first `most` rows, and how many there are beside them."""
    rows, left, numeric = table.rows[:most], len(table.rows) - most, table.holds_numbers
    content = [[paragraph(name, style["number head" if right else "head"])
                for name, right in zip(table.columns, numeric, strict=True)]]
    content += [[Paragraph(f'<font color="{INKS[cell.mark]}">{broken(cell.text)}</font>',
                           style["number" if right else "cell"]) for cell, right in zip(row, numeric, strict=True)]
                for row in rows]
    grid = Grid(content, column_widths(table, rows), repeatRows=1, hAlign="LEFT")
    grid.setStyle([("LINEBELOW", (0, 0), (-1, 0), 0.6, colors.black), ("VALIGN", (0, 0), (-1, -1), "TOP"),
                   ("LINEBELOW", (0, 1), (-1, -1), 0.25, colors.HexColor("#cccccc")),
                   *((edge, (0, 0), (-1, -1), 1.2) for edge in ("TOPPADDING", "BOTTOMPADDING")),
                   *((edge, (0, 0), (-1, -1), 2) for edge in ("LEFTPADDING", "RIGHTPADDING"))])
    notes = [table.caption] if table.caption else []
    notes += [f"{left} more rows are in report.html."] if left > 0 else []
    return [grid, *(paragraph(note, style["caption"]) for note in notes), Spacer(1, 4)]


def draw_pictures(pictures, side_by_side, style):
    """Flowables of pictures, wide ones alone, the others in rows."""
    wide = [picture for picture in pictures if picture.wide]
    narrow = [picture for picture in pictures if not picture.wide]
    flow = []
    for picture in wide:
        tallest = TALLEST_GRID if picture.is_grid else TALLEST
        flow.append(KeepTogether([picture_sized(picture.png, WIDTH, tallest),
                                  paragraph(picture.caption, style["caption"])]))
    room = WIDTH / side_by_side
    rows = [narrow[start:start + side_by_side] for start in range(0, len(narrow), side_by_side)]
    cells = [[[picture_sized(picture.png, room - 6, 52 * mm), paragraph(picture.caption, style["caption"])]
              for picture in row] + [""] * (side_by_side - len(row)) for row in rows]
    if cells:
        grid = Grid(cells, [room] * side_by_side, hAlign="LEFT")
        grid.setStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0),
                       ("RIGHTPADDING", (0, 0), (-1, -1), 6), ("TOPPADDING", (0, 0), (-1, -1), 2)])
        flow.append(grid)
    return flow


def draw_formula(formula):
    """A formula's flowable, in letters as large as those of the text, but for one that would be wider than the page."""
    png = formula_png(formula.tex, FORMULA_DPI, TEXT_POINTS)
    with PillowImage.open(io.BytesIO(png)) as image:
        scale = min(72 / FORMULA_DPI, WIDTH / image.width)
        drawn = Image(io.BytesIO(png), image.width * scale, image.height * scale, hAlign="LEFT")
    drawn.spaceBefore, drawn.spaceAfter = 2, 5
    return drawn


def draw_section(section, tier, style):
    most_rows, most_pictures, side_by_side = tier
    flow, left = [paragraph(section.title, style["heading"])], most_pictures
    for kind, blocks in runs_of_a_kind(section.blocks):
        if kind == Picture.__name__:
            flow += draw_pictures(blocks[:left], side_by_side, style)
            if len(blocks) > left:
                flow.append(paragraph(f"{len(blocks) - left} more pictures are in report.html.", style["caption"]))
            left = max(0, left - len(blocks))
        for block in blocks:
            if isinstance(block, Text):
                flow.append(paragraph(block.words, style["text"]))
            elif isinstance(block, Formula):
                flow.append(draw_formula(block))
            elif isinstance(block, Table):
                flow += draw_table(block, most_rows, style)
    return flow


def number_page(canvas, document):
    canvas.setFont("Sans", 6.5)
    canvas.drawRightString(A4[0] - MARGIN, 8 * mm, str(canvas.getPageNumber()))


def render(title, subtitle, sections, tier):
    """(the PDF's bytes, its pages)."""
    style, content = styles(), io.BytesIO()
    document = SimpleDocTemplate(content, pagesize=A4, leftMargin=MARGIN, rightMargin=MARGIN, topMargin=12 * mm,
                                 bottomMargin=13 * mm, title=title, author="", invariant=1)
    flow = [paragraph(title, style["title"]), paragraph(subtitle, style["caption"])]
    for section in sections:
        flow += draw_section(section, tier, style)
    document.build(flow, onFirstPage=number_page, onLaterPages=number_page)
    return content.getvalue(), document.page


def write_pdf(path, title, subtitle, sections, max_pages):
    """Write the Sections as a PDF of at most `max_pages` pages: long tables and rows of pictures are cut as far as it
    takes, and say how much is left out. Returns the number of pages. Raises UserError if nothing short enough is left.
    """
    for tier in TIERS:
        content, pages = render(title, subtitle, sections, tier)
        if pages <= max_pages:
            with atomic_file(path) as file:
                file.write(content)
            return pages
    raise UserError(f"{path}: {pages} pages at the least, and --max-pages allows {max_pages}")
