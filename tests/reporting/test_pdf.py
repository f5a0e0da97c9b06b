import re

import pytest
from helpers.reporting import png
from pypdf import PdfReader

from common.errors import UserError
from reporting.document import Cell, Formula, Picture, Section, Table, Text
from reporting.pdf import write_pdf

LONG = Table(("name", "figure"), tuple((Cell(f"run-{i}"), Cell(str(i), float(i))) for i in range(500)))


def text_of(path):
    return "\n".join(page.extract_text() for page in PdfReader(path).pages)


def test_what_is_short_is_there_whole(tmp_path):
    path = tmp_path / "report.pdf"
    table = Table(("name", "figure"), ((Cell("badnets <b>", mark="bad"), Cell("99.98")),))
    assert write_pdf(path, "A title", "below", [Section("One", (Text("γ & δ"), Formula("x^2", "x squared"), table,
                                                               Picture(png(), "a caption")))], 8) == 1
    text = text_of(path)
    assert all(part in text for part in ("A title", "γ & δ", "badnets <b>", "99.98", "a caption"))
    assert "are in report.html" not in text


def test_what_is_too_long_is_cut_to_the_pages_and_says_by_how_much(tmp_path):
    path = tmp_path / "report.pdf"
    sections = [Section(f"Part {i}", (LONG, *[Picture(png(size=(300, 200)), f"picture {n}") for n in range(30)]))
                for i in range(6)]
    assert write_pdf(path, "A title", "below", sections, 8) <= 8
    assert len(PdfReader(path).pages) <= 8
    text = text_of(path)
    assert text.count("more rows are in report.html") == 6 and text.count("more pictures are in report.html") == 6
    shown = sum(f"run-{i}\n" in text for i in range(500))
    assert f"{500 - shown} more rows" in text


def test_what_cannot_be_cut_so_far_is_refused_and_writes_nothing(tmp_path):
    with pytest.raises(UserError, match="allows 1"):
        write_pdf(tmp_path / "report.pdf", "A title", "below", [Section("One", (Text("word " * 5000),))], 1)
    assert not list(tmp_path.iterdir())


def test_the_same_report_has_the_same_bytes(tmp_path):
    for name in ("a.pdf", "b.pdf"):
        write_pdf(tmp_path / name, "A title", "below", [Section("One", (LONG, Picture(png(), "x")))], 8)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_images_of_a_grid_have_64_css_pixels(tmp_path):
    """8 images and a label, 10.9 inches wide as engine.drawing.grids.image_grid draws them."""
    path = tmp_path / "report.pdf"
    write_pdf(path, "A title", "below", [Section("One", (Picture(png(size=(1635, 435)), "x", True, True),))], 8)
    drawn = [float(word) for word in re.findall(rb"([\d.]+) 0 0 [\d.]+ 0 0 cm", PdfReader(path).pages[0].get_contents(
        ).get_data())]
    assert max(drawn) / 10.9 * 1.25 * 0.92 >= 64 * 72 / 96
