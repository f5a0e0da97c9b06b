import re

import pytest
from helpers.paths import HALF

from benchmarks import held_out

pytestmark = pytest.mark.slow

DIGITS = ["--dataset", "digits", *HALF, "--width", "4", "--epochs", "3", "--batch-size", "32", "--no-amp"]


def rows(capsys):
    """The table's rows as lists of words."""
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 1:]]


@pytest.mark.long
def test_a_good_rate_learns_and_one_of_nearly_nothing_does_not(capsys):
    held_out.main(["--vary", "lr", "1e-9", "0.1", "--", *DIGITS])
    idle, good = rows(capsys)
    assert idle[:2] == ["1e-9", "0"] and good[:2] == ["0.1", "0"] and good[4] == "float32"
    assert float(idle[2]) < 30 < 60 < float(good[2])


def test_a_rate_that_explodes_is_a_row_that_says_so(capsys):
    held_out.main(["--vary", "lr", "1e6", "--", *DIGITS])
    assert "the loss became" in rows(capsys)[0][2]


@pytest.mark.long
def test_cutout_and_smoothed_labels_reach_the_training(capsys):
    scores = []
    for flag, values in (("cutout", ["0", "20"]), ("label-smoothing", ["0", "0.9"])):
        held_out.main(["--vary", flag, *values, "--", *DIGITS, "--epochs", "1", "--lr", "0.1"])
        scores += [row[2:4] for row in rows(capsys)]
    assert scores[0] == scores[2] and scores[0] != scores[1] and scores[2] != scores[3]


def test_the_network_is_named_and_epochs_only_where_all_rows_have_the_same(capsys):
    words = ["--dataset", "digits", *HALF, "--batch-size", "256", "--no-amp"]
    held_out.main(["--vary", "epochs", "1", "--", *words, "--width", "2"])
    assert re.search(r"^resnet18 width 2, .*\n\nbadnets on digits; counted on 143 ", capsys.readouterr().out)
    held_out.main(["--vary", "lr", "0.1", "--", *words, "--epochs", "1", "--arch", "wrn10-1"])
    assert re.search(r"^wrn10-1, .*\n\nbadnets on digits, 1 epochs; counted on 143 ", capsys.readouterr().out)


def test_a_flag_that_train_backdoor_does_not_know_is_its_error(refused):
    assert "--color" in refused(held_out.main, "--", "--color", "red")


def test_another_recipe_is_refused(refused):
    assert "--recipe" in refused(held_out.main, "--vary", "recipe", "homework")
    assert "--recipe" in refused(held_out.main, "--", "--recipe", "homework")


def test_a_flag_without_a_value_is_an_error(refused):
    assert "--vary: expected a flag and its values" in refused(held_out.main, "--vary", "lr")
