import argparse

import pytest

from defenses import strip
from engine.command_line import flags


@pytest.fixture
def milestones():
    def parse(*argv):
        parser = flags.Parser("")
        flags.add_training_flags(parser)
        args = parser.parse_args(argv)
        flags.check_milestones(parser, args)
        return args.milestones
    return parse


def test_default_milestones_are_the_homeworks_and_scale(milestones):
    assert milestones() == [30, 40]
    assert milestones("--epochs", "15") == [9, 12]
    assert milestones("--epochs", "12") == [7, 9]  # of 7.2 and 9.6
    assert milestones("--epochs", "1") == []
    assert milestones("--epochs", "4", "--milestones") == []


@pytest.mark.parametrize("wrong", [["40", "30"], ["30", "30"], ["30", "50"], ["0"], ["x"]])
def test_milestones_that_cannot_work_are_refused(milestones, wrong, capsys):
    with pytest.raises(SystemExit):
        milestones("--milestones", *wrong)
    error = capsys.readouterr().err
    assert "--milestones: expected" in error and error.count("\n") == 1


@pytest.mark.parametrize("text, value", [("16/255", 16 / 255), ("0.5", 0.5), ("0", 0)])
def test_a_ratio_is_a_quotient_or_a_fraction(text, value):
    assert flags.ratio(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["16", "1/0", "a/b", "nan", "-1/255", "", "1e9"])
def test_a_ratio_outside_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        flags.ratio(text)


@pytest.mark.parametrize("text", ["5", "-0.1", "nan", "inf", "x"])
def test_a_fraction_outside_is_refused_with_the_way_out(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"in \[0, 1\], got .*write 5 % as 0.05"):
        flags.fraction(text)


def usual_folder(args):
    """output/x"""
    return f"output/x-{args.seed}"


def test_the_usual_folder_follows_from_the_other_flags_and_gives_way_to_one_that_is_named():
    parser = flags.Parser("")
    flags.add_run_flags(parser, usual_folder)
    assert parser.parse_args(["--seed", "3"]).output_dir == "output/x-3"
    assert parser.parse_args(["--seed", "3", "--output-dir", "here"]).output_dir == "here"


def test_help_shows_defaults_and_the_docstring():
    parser = flags.Parser("What it does.\n\n    python x.py\n")
    flags.add_run_flags(parser, usual_folder)
    flags.add_training_flags(parser)
    text = parser.format_help()
    assert "\n    python x.py\n" in text
    text = " ".join(text.split())
    assert "initial learning rate (default: 0.1)" in text and "(default: output/x)" in text
    assert "function" not in text and "default: None" not in text and "default: False" not in text
    parser.add_argument("--side", default=8, help="pixels (default: a quarter of the image's)")
    assert "pixels (default: a quarter of the image's)\n" in parser.format_help()


@pytest.mark.parametrize("flag", ["--output-dir", "--data-dir", "--checkpoint", "--trigger-info", "--device"])
def test_an_empty_value_is_refused_before_anything_is_written(flag, refused):
    """As a path it would be the current folder: --output-dir "$UNSET" wrote a run there."""
    assert f"{flag}: expected a value, got an empty one" in refused(strip.main, "--dataset", "digits", flag, "")


@pytest.mark.parametrize("words", [["--seed", "3"], ["--seed=3"]])
def test_a_flag_is_given_with_a_blank_or_an_equals_sign_before_its_value(words, capsys):
    parser = flags.Parser("")
    flags.add_run_flags(parser, usual_folder)
    assert parser.given(words) == {"seed"} and parser.given([]) == set()
    with pytest.raises(SystemExit):
        parser.refuse(words, ["seed"], "here")
    assert "--seed: has no effect here" in capsys.readouterr().err
