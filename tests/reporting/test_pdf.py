import re

import pytest
from helpers.reporting import png
from pypdf import PdfReader

from common.errors import UserError
from reporting.document import Cell, Formula, Picture, Section, Table, Text
from reporting.pdf import WIDTH, column_widths, draw_formula, load_fonts, picture_sized, write_pdf

LONG = Table(("name", "figure"), tuple((Cell(f"run-{i}"), Cell(str(i), float(i))) for i in range(500)))


def text_of(path):
    return "\n".join(page.extract_text() for page in PdfReader(path).pages)


def test_what_is_short_is_there_whole(tmp_path):
    path = tmp_path / "report.pdf"
    table = Table(("name", "figure"), ((Cell("badnets <b>", mark="bad"), Cell("99.98")),), "of the table")
    assert write_pdf(path, "A title", "below", [Section("One", (Text("γ & δ"), Formula("x^2", "x squared"), table,
                                                               Picture(png(), "a caption")))], 8) == 1
    text = text_of(path)
    assert all(part in text for part in ("A title", "γ & δ", "badnets <b>", "99.98", "of the table", "a caption"))
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
    with pytest.raises(UserError, match=r"report\.pdf: [2-9] pages at the least, and --max-pages allows 1$"):
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


def test_as_many_pages_as_are_allowed_may_be_full(tmp_path):
    assert write_pdf(tmp_path / "report.pdf", "A title", "below", [Section("One", (Text("x"),))], 1) == 1


def test_a_section_has_twelve_pictures_however_they_are_parted(tmp_path):
    path = tmp_path / "report.pdf"
    pictures = [Picture(png(), f"picture {n}.") for n in range(18)]
    blocks = (*pictures[:12], Text("between"), *pictures[12:15], Text("between"), *pictures[15:])
    write_pdf(path, "A title", "below", [Section("One", blocks)], 8)
    text = text_of(path)
    assert [n for n in range(18) if f"picture {n}." in text] == list(range(12))
    assert re.findall(r"(\d+) more pictures", text) == ["3", "3"]


def test_a_table_over_several_pages_has_its_heading_on_each_and_every_page_its_number(tmp_path):
    path = tmp_path / "report.pdf"
    write_pdf(path, "A title", "below", [Section("One", (*[Text("word " * 90)] * 10, LONG))], 8)
    texts = [page.extract_text() for page in PdfReader(path).pages]
    assert len(texts) == 2 and all("run-" in text and "figure" in text for text in texts)
    assert [bool(re.search(rf"^{number}$", text, re.M)) for number, text in enumerate(texts, 1)] == [True, True]


def test_a_cell_that_would_be_higher_than_a_page_is_cut(tmp_path):
    path = tmp_path / "report.pdf"
    table = Table(("name", "classes"), ((Cell("x"), Cell("y " * 20000)),))
    assert write_pdf(path, "A title", "below", [Section("One", (table,))], 8) == 1
    assert text_of(path).count("y") < 400 and "…" in text_of(path)


def test_a_long_path_is_broken_at_its_slashes(tmp_path):
    path = tmp_path / "report.pdf"
    table = Table(("name", *"abc"), ((Cell("/".join(["folders"] * 30)), *[Cell("long " * 60)] * 3),))
    write_pdf(path, "A title", "below", [Section("One", (table,))], 8)
    lines = [line for line in text_of(path).splitlines() if "folders" in line]
    assert len(lines) > 3 and all(line.startswith("folders") for line in lines)


def test_no_table_is_wider_than_the_page_and_a_number_stands_in_one_line_with_its_interval():
    load_fonts()
    wide = Table(tuple("w" * 30 for _ in range(30)), ())
    assert sum(column_widths(wide, ())) == pytest.approx(WIDTH)
    words, number = "w" * 16, "99.98 [99.00, 99.99]"
    full = Table((*[words] * 5, "ASR"), ((*[Cell(words)] * 5, Cell(number, 99.98)),))
    assert column_widths(full, full.rows)[-1] > 60


@pytest.mark.parametrize("mark, ink", [("good", (0x17, 0x70, 0x3a)), ("bad", (0xb3, 0x26, 0x1e))])
def test_what_is_good_is_green_and_what_is_bad_is_red(tmp_path, mark, ink):
    path = tmp_path / "report.pdf"
    write_pdf(path, "A title", "below", [Section("One", (Table(("state",), ((Cell("x", mark=mark),),)),))], 8)
    used = {tuple(round(255 * float(part)) for part in found) for found in re.findall(
        rb"([\d.]+) ([\d.]+) ([\d.]+) rg", PdfReader(path).pages[0].get_contents().get_data())}
    assert used - {(0, 0, 0), (0x55, 0x55, 0x55)} == {ink}


def test_a_picture_is_no_larger_than_it_was_drawn_and_no_formula_wider_than_the_page():
    drawn = picture_sized(png(size=(300, 150)), 500)
    assert (drawn.drawWidth, drawn.drawHeight) == (144, 72)  # 2 inches and 1, at 150 dots an inch
    assert draw_formula(Formula(" + ".join(["long"] * 40), "x")).drawWidth == pytest.approx(WIDTH)
