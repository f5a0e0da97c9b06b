import io
import re

import pytest
from helpers.reporting import png
from PIL import Image

from reporting.document import Cell, Formula, Picture, Section, Table, Text, cell
from reporting.page import formula_png, write_page


@pytest.fixture
def page(tmp_path):
    """Write Sections as a page; returns its text."""
    def write(*blocks, title="A title"):
        write_page(tmp_path / "report.html", title, "below it", [Section("One", blocks)])
        return (tmp_path / "report.html").read_text()
    return write


def test_names_of_others_are_escaped(page):
    evil = "<script>alert(1)</script>\"'"
    text = page(Text(evil), Table((evil,), ((Cell(evil, 1.0),),), evil), Picture(png(), evil), title=evil)
    assert text.count("<script>") == 1 and "alert(1)" in text  # our own script alone


def test_nothing_is_fetched(page):
    text = page(Text("x"), Picture(png(), "a picture"), Formula(r"\frac{a}{b}", "a over b"))
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text) and "default-src 'none'" in text
    assert "@import" not in text and "url(" not in text


def test_a_picture_keeps_its_bytes_and_says_its_size(page):
    text = page(Picture(png(), "red", wide=True))
    assert 'width="40" height="20"' in text and 'class="wide"' in text and 'alt="red"' in text


def test_a_formula_is_drawn_and_read_out():
    with Image.open(io.BytesIO(formula_png(r"\frac{a}{b}"))) as small, \
            Image.open(io.BytesIO(formula_png(r"\sum_{i} \frac{a_i}{b_i} + c + d"))) as large:
        assert large.width > 2 * small.width


def test_an_unknown_figure_is_a_dash_and_sorts_as_none():
    assert cell(float("nan")) == cell(None) == Cell("–") and cell(2.0, "{:.1f}") == Cell("2.0", 2.0)


def test_a_formula_is_as_large_as_the_text(page):
    """A letter without anything above or below is less than a line high, a fraction some two lines."""
    heights = [float(re.search(r'<svg style="height: ([\d.]+)em"', page(Formula(tex, "x"))).group(1))
               for tex in ("x", r"\frac{a}{b}")]
    assert 0.4 < heights[0] < 1 < heights[1] < 2


def test_numbers_and_their_heading_stand_at_the_same_side(page):
    table = Table(("name", "figure", "kind", "unknown"), (
        (Cell("a"), Cell("1.00 [0.5, 2]", 1.0), Cell("pass", 1), Cell("–")), (Cell("b"), Cell("–"), Cell("fail", 0),
                                                                              Cell("–"))))
    assert table.holds_numbers == (False, True, False, False)
    text = page(table)
    assert re.findall(r'<th scope="col"( class="number")?>', text) == ["", ' class="number"', "", ""]
    assert len(re.findall(r'<td[^>]* class="number', text)) == 2


def test_images_of_a_grid_have_64_pixels_on_the_narrowest_page(page):
    """engine.drawing.grids.image_grid draws 8 images and a label 10.9 inches wide, at 150 dots an inch."""
    text = page(Picture(png(size=(1635, 435)), "examples", wide=True, is_grid=True))
    least, most = (int(re.search(rf"[^a-z]{name}-width: (\d+)px", text.split("<figure")[1]).group(1))
                   for name in ("min", "max"))
    image = 1.25 * 0.92  # inches, without its margins
    assert least / 10.9 * image >= 63.5 and most == 1046


def test_the_title_stands_above_what_is_below_it(page):
    text = page()
    assert "<title>A title</title>" in text and "<h1>A title</h1>" in text and '<p class="soft">below it</p>' in text


def test_a_wide_picture_is_as_large_as_it_was_drawn_and_a_narrow_one_as_its_place(page):
    """1500 pixels at 150 dots an inch are 10 inches, of 96 CSS pixels each."""
    wide, narrow = (re.search(r"<img[^>]*>", page(Picture(png(size=(1500, 20)), "x", is_wide))).group()
                    for is_wide in (True, False))
    assert "max-width: min(100%, 960px)" in wide and "style" not in narrow


def test_a_formula_lies_on_the_pages_own_ground_and_brings_no_record_of_its_making(page):
    drawn = re.search("<svg.*</svg>", page(Formula(r"\frac{a}{b}", "a over b")), re.S).group()
    assert "#ffffff" not in drawn and "matplotlib" not in drawn.lower()


def test_a_name_that_is_no_unicode_does_not_keep_the_page_from_being_written(page):
    """Of a folder's name in another encoding Python makes lone surrogates."""
    assert "<p>caf?</p>" in page(Text("caf\udce9"))


def test_a_negative_number_is_a_number_and_an_empty_cell_is_not_known():
    assert Table(("change",), ((Cell("-1.5", -1.5),), (Cell(""),))).holds_numbers == (True,)
