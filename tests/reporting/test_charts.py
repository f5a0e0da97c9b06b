"""Which pictures of runs a report shows, and what it draws of several runs."""
from helpers.reporting import png
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from reporting import charts
from reporting.charts import MAX_SIDE, losses_of, picture_of, strip_bars, training_curves_of
from reporting.found import find_runs


def test_a_picture_that_is_missing_or_larger_than_a_page_has_room_for_is_left_out(tmp_path):
    for side, is_shown in ((MAX_SIDE, True), (MAX_SIDE + 1, False)):
        (tmp_path / "x.png").write_bytes(png(size=(1, side)))
        assert (picture_of(tmp_path / "x.png", "x") is not None) == is_shown
    assert picture_of(tmp_path / "none.png", "x") is None


def test_what_a_file_holds_beside_its_picture_stays_out_of_the_page(tmp_path):
    notes = PngInfo()
    notes.add_text("Comment", "a secret")
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png", pnginfo=notes)
    assert b"a secret" in (tmp_path / "x.png").read_bytes()
    assert b"a secret" not in picture_of(tmp_path / "x.png", "x").png


def test_only_finished_runs_show_their_pictures(tree):
    for folder in (tree.run("badnets"), tree.begin("blend")):
        (folder / "losses.png").write_bytes(png())
    assert [picture.caption for picture in losses_of(find_runs(tree.root))] == [
        "badnets: losses of clean and of poisoned training images"]


def test_the_ninth_training_is_the_first_of_a_second_picture(tree, monkeypatch):
    for number in range(9):
        tree.attack(f"run-{number}", "badnets", 0.9, 1.0)
    monkeypatch.setattr(charts, "drawn", lambda figure, *words, **how: figure)
    assert [[axis.get_title() for axis in figure.axes if axis.axison]
            for figure in training_curves_of(find_runs(tree.root))] == [[f"run-{i}" for i in range(8)], ["run-8"]]


def test_a_run_of_strip_without_a_trigger_has_no_bars(tree):
    tree.run("strip", "defenses.strip", method={"name": "STRIP", "mean_entropy": {"clean": 1.5, "triggered": None}})
    assert strip_bars(find_runs(tree.root)) == []
