"""The table of measured models: read, written, judged, and counted."""
import csv
from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from methods.calibration import NO_SIGN, SUSPECT, UNDECIDED
from methods.measured import Kind, Measured, digest_classes
from methods.populations import populations_of
from methods.rates import COLUMNS, TABLE, read_rows, write_rows
from methods.trust import in_words
from methods.witnesses import Settings

KIND = Kind("resnet18", 16, 32, digest_classes("0123456789"))


def row(seed, population="calibrate", attack="benign", channels=5.0, margins=1.5, cleanse=(1.4, 1.3), **changes):
    own = {"target": None if attack == "benign" else 3, "asr": None if attack == "benign" else 1.0,
           "margins_label": 3, "cleanse_labels": (3,) * len(cleanse), **changes}
    return Measured(population, "digits", KIND, Settings().words(), attack, training="--epochs 2", seed=seed, acc=0.98,
                    channels=channels, margins=margins, cleanse=tuple(cleanse), **own)


def benign(count=12, population="calibrate", seed=0):
    spread = np.exp(np.random.default_rng(seed).normal(0, 0.2, (count, 3)))
    return [row(i, population, channels=5 * a, margins=1.5 * b, cleanse=(1.4 * c, 1.3 * c))
            for i, (a, b, c) in enumerate(spread.tolist())]


def population(*more):
    found, = populations_of([*benign(), *more])
    return found


def test_what_is_written_is_read_and_the_verdicts_are_worked_out_anew(tmp_path):
    path = tmp_path / "rates.csv"
    rows = [*benign(4), row(50, "test", "badnets", margins=30.0, cleanse=(None, 25.0), channels=None, flagged=3)]
    write_rows(path, rows)
    assert list(csv.DictReader(path.open()))[-1]["verdict"] == UNDECIDED  # four models have no tail
    assert [replace(one, channels=None, margins=None, cleanse=()) for one in read_rows(path)] == [
        replace(one, channels=None, margins=None, cleanse=()) for one in rows]
    assert read_rows(path)[-1].cleanse == (None, 25.0) and read_rows(path)[-1].channels is None
    write_rows(path, [*read_rows(path), *benign(12, seed=1)[4:]])
    last = list(csv.DictReader(path.open()))[4]
    assert (last["verdict"], last["target_named"], last["target"]) == (SUSPECT, "3", "3")
    assert float(last["p_margins"]) < 1e-3 and last["p_channels"] == ""


def test_a_missing_table_is_empty_and_another_file_is_refused(tmp_path):
    assert read_rows(tmp_path / "nowhere.csv") == []
    for text in ("a,b\n1,2\n", f"{','.join(COLUMNS)}\nx\n", f"{','.join(COLUMNS)}\n{','.join('x' * len(COLUMNS))}\n"):
        (tmp_path / "rates.csv").write_text(text)
        with pytest.raises(UserError, match="line 2: not a row of a table"):
            read_rows(tmp_path / "rates.csv")


@pytest.mark.parametrize("column, value", [
    ("margins", "-1"), ("margins", "nan"), ("channels", "inf"), ("cleanse", "0;2"), ("cleanse", "2"),
    ("population", "tests"), ("settings", "foo=1")])
def test_a_line_with_a_value_that_no_model_has_is_named(tmp_path, column, value):
    path = tmp_path / "rates.csv"
    write_rows(path, benign(3))
    lines = list(csv.DictReader(path.open()))
    lines[1][column] = value
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    with pytest.raises(UserError, match="line 3: not a row"):
        read_rows(path)


def test_a_table_that_a_spreadsheet_saved_is_read(tmp_path):
    path = tmp_path / "rates.csv"
    write_rows(path, benign(3))
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(read_rows(path)) == 3


def test_models_of_another_network_data_set_or_settings_are_another_population():
    other = [replace(row(0), kind=replace(KIND, width=64)), replace(row(0), dataset="mnist"),
             replace(row(0), settings=Settings(budget=7).words())]
    assert len(populations_of([row(0), row(1), *other])) == 4


def test_the_reference_is_benign_and_is_not_tested_on():
    found = population(row(50, "test", margins=90.0), row(51, "test", "badnets"))
    assert len(found.reference) == 12 and found.nulls == population().nulls


def test_a_model_of_the_reference_is_compared_with_the_others_of_it():
    one = population().reference[0]
    far = replace(one, margins=100.0)
    found, = populations_of([far, *benign()[1:]])
    assert found.weigh(far).judgment.verdict == SUSPECT
    assert found.weigh(replace(far)).p_values["margins"] > found.weigh(far).p_values["margins"]


def test_one_clear_witness_is_enough_and_only_those_that_are_asked_count():
    found = population()
    loud = row(50, "test", "badnets", margins=20.0)
    assert found.weigh(loud).judgment == replace(found.weigh(loud).judgment, verdict=SUSPECT, speaking=("margins",),
                                                  target=3)
    assert found.weigh(loud).searches == 1  # which cannot change the verdict any more
    assert found.weigh(loud, ("channels", "cleanse")).judgment.verdict == NO_SIGN
    assert found.weigh(loud, ("channels",)).p_values.keys() == {"channels"}


def test_a_search_that_stays_suspicious_is_repeated_and_its_last_p_value_counts():
    found = population()
    unsure = row(50, "test", "blend", cleanse=(1.8, 1.3))
    said = found.weigh(unsure)
    assert said.searches == 2 and said.p_values["cleanse"] == found.p_value("cleanse", 1.3, 2) > 0.3
    assert found.weigh(row(50, "test", "blend", cleanse=(1.4, 60.0))).searches == 1  # as an audit would not have seen
    assert found.weigh(row(50, "test", "blend", cleanse=(30.0, 30.0))).judgment.verdict == SUSPECT


def test_errors_are_counted_by_attack_without_attacks_that_did_not_take_hold():
    found = population(
        row(50, "test"), row(51, "test", margins=20.0, flagged=3), row(52, "test", "badnets", margins=20.0),
        row(53, "test", "badnets", margins=20.0, target=4), row(54, "test", "badnets", flagged=3),
        row(55, "test", "badnets", asr=0.2))
    clean, bad = found.errors()
    assert clean == {"attack": "benign", "models": 2, "wrong": 1, "undecided": 0, "named": 0}
    assert bad == {"attack": "badnets", "models": 3, "wrong": 1, "undecided": 0, "named": 1}
    clean, bad = found.errors_of_cleanse_alone()
    assert (clean["wrong"], bad["wrong"], bad["named"]) == (1, 2, 1)
    assert found.errors(("channels",))[1]["wrong"] == 3


def test_trust_says_what_it_is_compared_with_and_the_intervals():
    said, errors = in_words(population(row(50, "test"), row(52, "test", "badnets", margins=20.0)), ("margins",), 0.05)
    assert said == (
        "Compared with 12 benign models (digits, resnet18, width 16, 10 classes, 32 pixels), at a false-alarm rate of "
        "5 %. On other models of that kind: it suspected 0 of 1 benign ones (0 to 79 %); of 1 with a backdoor it "
        "missed 0 (0 to 79 %), and named the target of 1; missed by attack: badnets 0 of 1.")
    assert len(errors) == 2


def test_trust_counts_models_apart_that_no_choice_had_seen():
    seen = [replace(row(50, "test", margins=20.0), seen=True), replace(row(51, "test", "sig"), seen=True)]
    fresh = [row(52, "test"), row(53, "test", "badnets", margins=20.0)]
    said, errors = in_words(population(*seen, *fresh), ("margins",))
    assert errors[0]["models"] == 2 and "it suspected 1 of 2 benign ones" in said
    assert said.endswith(" Among those measured after the audit was settled it suspected 0 of 1 benign ones (0 to 79 "
                         "%) and it missed 0 of 1 with a backdoor (0 to 79 %).")
    assert in_words(population(*seen), ("margins",))[0].endswith(" None of them was measured after the audit was "
                                                                 "settled.")
    assert "settled" not in in_words(population(*fresh), ("margins",))[0]


def test_few_models_to_compare_with_are_called_few():
    assert "so few that" not in in_words(population(), ("margins",))[0]
    few, = populations_of(benign()[:9])
    said, _ = in_words(few, ("margins",))
    assert "9 benign models (digits, resnet18, width 16, 10 classes, 32 pixels), so few that the p-values are" in said


def test_trust_says_what_has_not_been_counted_and_sums_up_many_attacks():
    attacked = [row(50 + seed, "test", name, margins=20.0 if seed else 1.0)
                for seed, name in enumerate(("badnets", "blend", "sig"))]
    said, _ = in_words(population(*attacked), ("margins",), 0.05)
    assert "of that kind: how often it suspects a benign one has not been counted; of 3 with a backdoor" in said
    assert said.endswith("it missed 1 (6 to 79 %), and named the target of 2; missed by attack: badnets 1 of 1, blend "
                         "0 of 1, sig 0 of 1.")


def test_a_model_of_the_table_is_no_other_model():
    found = population(row(50, "test"), row(51, "test", "badnets", channels=4.0, margins=20.0),
                       row(52, "test", "badnets", channels=4.001, margins=20.0))
    said, errors = in_words(found, ("margins",), 0.05, {"channels": 4.00001, "margins": 17.0})  # from another start
    assert errors[1]["models"] == 1 and said.endswith("This model is itself in the table, and not counted.")
    for other in ({"channels": None, "margins": 20.0}, {"channels": 4.0005, "margins": 20.0}, {}):
        said, errors = in_words(found, ("margins",), 0.05, other)
        assert errors[1]["models"] == 2 and "itself" not in said
    assert len(found.other_than({"channels": found.reference[0].channels,
                                 "margins": found.reference[0].margins}).reference) == 12


def test_trust_without_other_models_promises_nothing():
    assert in_words(population(), ("margins",))[0].endswith("has not been counted on other models.")
    assert in_words(None, ())[1] == [] and "Nothing is known" in in_words(None, ())[0]


def test_the_committed_table_is_one():
    for found in populations_of(read_rows(TABLE)):
        Settings.from_words(found.settings)
        assert all(0 <= one.acc <= 1 and len(one.cleanse) == len(one.cleanse_labels) for one in found.rows)
