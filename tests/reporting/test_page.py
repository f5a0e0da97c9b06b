import io
import re

import pytest
from PIL import Image
from reporting_helpers import png

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
