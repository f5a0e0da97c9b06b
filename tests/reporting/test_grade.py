import json
import math
import shutil

import pytest
from helpers.reporting import grades, share

from reporting.criteria import CRITERIA
from reporting.found import find_runs
from reporting.grade import as_text, grade
from reporting.shares import logged_share


def test_the_homeworks_criteria_are_its_documents():
    """BadNets and Blend 100 / >91, clean-label >80 / >91, ANP <5 / >92."""
    met = {("badnets", 100, 91.01): True, ("badnets", 99.4, 91): False, ("blend", 99.6, 92): True,
           ("clean-label", 80, 91): False, ("clean-label", 80.01, 91.5): True, ("anp", 5, 92): False,
           ("anp", 4.99, 92.01): True, ("anp", 0, 100): True}
    for (name, *percents), wanted in met.items():
        for bound, percent in zip(CRITERIA[name], percents, strict=True):
            assert bound.holds(percent) == wanted, (name, percent)


@pytest.mark.parametrize("attack", ["badnets", "blend"])
def test_half_a_percent_less_than_a_hundred_is_a_hundred_to_the_whole_percent(attack):
    asr, _ = CRITERIA[attack]
    assert asr.holds(99.5) and not asr.holds(99.49)


def test_runs_that_meet_everything_pass_and_each_names_its_line(tree):
    tree.homework()
    lines = grade(tree.root, find_runs(tree.root))
    assert [line.passed for line in lines] == [True] * 8
    assert lines[0].source == "badnets/output.log, line 3 (epoch 2)"
    assert (tree.root / "badnets/output.log").read_text().splitlines()[2].endswith("0.9300")
    assert lines[6].source == "badnets/anp/pruned/pruning_by_threshold.txt, line 3"


@pytest.mark.parametrize("attack, criterion", [("badnets", "BadNets"), ("blend", "Blend"),
                                               ("clean-label", "Clean-label")])
@pytest.mark.parametrize("asr, acc, failing", [(0.3, 0.95, "ASR"), (1.0, 0.90, "ACC")])
def test_one_figure_short_fails_its_line_alone(tree, attack, criterion, asr, acc, failing):
    for name in ("badnets", "blend", "clean-label"):
        tree.attack(name, name, acc if name == attack else 0.93, asr if name == attack else 1.0)
    tree.pruned("badnets/anp", 0.01, 0.921)
    failed = [(line.criterion, line.figure) for line in grade(tree.root, find_runs(tree.root)) if not line.passed]
    assert failed == [(criterion, failing)]


def test_nothing_found_fails(tree):
    tree.attack("benign", "benign", 0.94, 0.01)
    lines = grade(tree.root, find_runs(tree.root))
    assert not any(line.passed for line in lines) and {line.note for line in lines} == {"no run found"}


def test_a_log_of_another_implementation_is_read(tree):
    tree.log("mine/blend_run", [(1, 0.2, 0.4), (49, 1.0, 0.9301)])
    tree.log("x", [(1, 1.0, 0.95)], first="Namespace(poison_type='badnets', batch_size=128)")
    passed = grades(tree.root)
    assert passed["Blend", "ACC"].measured["value"] == 0.9301 and passed["Blend", "ACC"].measured["n"] == 10_000
    assert passed["Blend", "ASR"].source == "mine/blend_run/output.log, line 3 (epoch 49)"
    assert passed["BadNets", "ASR"].passed and passed["BadNets", "ASR"].measured["n"] == 9000
    assert "as of CIFAR-10" in passed["BadNets", "ASR"].note


def test_a_result_that_its_log_does_not_bear_out_fails(tree):
    tree.homework()
    path = tree.root / "badnets/results.json"
    path.write_text(path.read_text().replace('"value": 0.93', '"value": 0.935'))
    line = grades(tree.root)["BadNets", "ACC"]
    assert not line.passed and "something else than the log" in line.note


def test_a_result_and_its_log_agree_where_they_are_one_figure_to_four_decimals(tree):
    tree.homework()
    path = tree.root / "badnets/results.json"
    text = path.read_text()
    for value, is_borne_out in ((0.93004, True), (0.9302, False)):
        path.write_text(text.replace('"value": 0.93', f'"value": {value}'))
        assert grades(tree.root)["BadNets", "ACC"].passed == is_borne_out


def test_an_unfinished_run_fails_and_says_so(tree):
    tree.begin("badnets", arguments={"poison_type": "badnets"})
    tree.log("badnets", [(1, 1.0, 0.95)])
    line = grades(tree.root)["BadNets", "ASR"]
    assert not line.passed and line.measured is None and "unfinished" in line.note


def test_what_is_graded_is_never_chosen_by_its_score(tree):
    tree.homework()
    tree.attack("badnets-better", "badnets", 0.99, 1.0)
    tree.attack("a-first", "badnets", 0.99, 1.0)
    line = grades(tree.root)["BadNets", "ACC"]
    assert line.measured["value"] == 0.93 and "not graded: a-first, badnets-better" in line.note


def test_of_runs_of_other_names_the_one_in_the_fewest_folders_is_graded(tree):
    tree.attack("a/first/by-name", "badnets", 0.99, 1.0)
    tree.attack("z", "badnets", 0.93, 1.0)
    assert grades(tree.root)["BadNets", "ACC"].source.startswith("z/")


def test_pruning_a_benign_model_is_no_defense(tree):
    tree.attack("benign", "benign", 0.94, 0.01)
    tree.pruned("benign/anp", 0.01, 0.93, before=0.01)
    line = grades(tree.root)["ANP", "ASR"]
    assert line.note == "no backdoor was there before pruning: benign/anp/pruned" and not line.passed


def test_of_a_foreign_pruning_table_the_best_row_is_taken_and_called_oracle(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    folder = tree.root / "other"
    folder.mkdir()
    (folder / "pruning_by_threshold.txt").write_text(
        "No \t Layer Name \t Neuron Idx \t Mask \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC\n"
        "5.00 \t bn1 \t 1 \t 0.1 \t 1 \t 0.9000 \t 1 \t 0.9300\n9.00 \t bn1 \t 1 \t 0.2 \t 1 \t 0.0400 \t 1 \t 0.9210\n"
        "30.00 \t bn1 \t 1 \t 0.3 \t 1 \t 0.0000 \t 1 \t 0.6000\n")
    line = grades(tree.root)["ANP", "ASR"]
    assert line.passed and line.measured["value"] == 0.04 and "oracle" in line.note
    assert line.source == "other/pruning_by_threshold.txt, line 3"


def test_a_backdoor_that_one_attack_shows_is_what_a_foreign_table_prunes_whatever_the_others_show(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    tree.attack("clean-label", "clean-label", 0.93, 0.1)
    (tree.root / "other").mkdir()
    (tree.root / "other/pruning_by_threshold.txt").write_text("9 \t bn1 \t 7 \t 0.2 \t 3 \t 0.04 \t 0.3 \t 0.935\n")
    lines = grades(tree.root)
    assert lines["ANP", "ASR"].passed and lines["ANP", "ASR"].note == ""
    assert [lines["ANP", name].measured["n"] for name in ("ASR", "ACC")] == [9_000, 10_000]


def test_an_interval_that_crosses_the_bound_is_named(tree):
    tree.homework()
    assert "crosses the bound" in grades(tree.root)["ANP", "ACC"].note  # 92.1 +- 1
    assert "crosses" not in grades(tree.root)["ANP", "ASR"].note


def test_the_interval_of_a_logged_share_is_wilsons():
    found = logged_share(0.9, 100)  # by hand: center (p + z^2/2n)/(1 + z^2/n), z = 1.95996
    z, p, n = 1.959964, 0.9, 100
    scale = 1 + z * z / n
    center, half = (p + z * z / 2 / n) / scale, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n**2) / scale
    assert found["interval"] == pytest.approx([center - half, center + half], abs=1e-6)


def test_the_text_has_a_line_for_each_and_says_fail_in_capitals(tree):
    tree.homework()
    text = as_text(grade(tree.root, find_runs(tree.root)))
    assert len(text) == 9 and text[1].split()[:2] == ["BadNets", "ASR"] and "pass" in text[1]


def test_a_model_whose_backdoor_nothing_shows_passes_nothing(tree):
    """A table without the row before pruning may be a benign model's."""
    tree.attack("benign", "benign", 0.94, 0.01)
    own = tree.pruned("benign/anp", 0.01, 0.93, before=0.01)
    (own / "pruning_by_threshold.txt").write_text("9.00 \t bn1 \t 7 \t 0.2 \t 3.0 \t 0.0100 \t 0.3 \t 0.9300\n")
    (tree.root / "other").mkdir()
    (tree.root / "other/pruning_by_threshold.txt").write_text("9 \t bn1 \t 7 \t 0.2 \t 3 \t 0.01 \t 0.3 \t 0.935\n")
    assert not any(line.passed for line in grade(tree.root, find_runs(tree.root)))


def test_other_images_than_cifar10s_cannot_pass_and_another_width_says_so(tree):
    tree.homework()
    for name, now in (("badnets", '"dataset": "cifar100"'), ("blend", '"dataset": "cifar10-jpeg"')):
        path = tree.root / name / "results.json"
        path.write_text(path.read_text().replace('"dataset": "cifar10"', now).replace('"width": 64', '"width": 16'))
    lines = grades(tree.root)
    assert not lines["BadNets", "ACC"].passed and "measured on cifar100" in lines["BadNets", "ACC"].note
    assert lines["Blend", "ACC"].passed and "width 16" in lines["Blend", "ACC"].note


def test_a_part_of_cifar10s_test_images_is_no_measure_of_the_criteria(tree):
    tree.homework()
    path = tree.root / "badnets/results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"acc": share(0.93, 500)}))
    lines = grades(tree.root)
    line = lines["BadNets", "ACC"]
    assert not line.passed and "measured on cifar10 (500 test images)" in line.note
    assert lines["Blend", "ACC"].passed


def test_an_interval_is_computed_and_not_believed(tree):
    tree.homework()
    path = tree.root / "badnets/results.json"
    path.write_text(path.read_text().replace("[0.92, 0.9400000000000001]", "[0.93, 0.93]"))
    low, high = grades(tree.root)["BadNets", "ACC"].measured["interval"]
    assert low < 0.926 and high > 0.934


def test_a_variant_does_not_stand_in_for_an_unfinished_run_of_the_attacks_own_folder(tree):
    tree.homework()
    tree.attack("badnets-10", "badnets", 0.95, 1.0)
    (tree.root / "badnets/results.json").unlink()
    assert not grades(tree.root)["BadNets", "ACC"].passed


def test_what_a_foreign_log_says_of_itself_outdoes_its_folder(tree):
    tree.log("badnets", [(49, 1.0, 0.95)], first="Namespace(poison_type='benign')")
    assert grades(tree.root)["BadNets", "ASR"].note == "no run found"


def test_our_own_damaged_run_and_a_hidden_folder_are_not_graded_as_anothers(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    folder = tree.pruned("badnets/anp", 0.01, 0.93)
    for name in ("results.json", "config.json"):
        (folder / name).write_text("{")
    (tree.root / ".trash").mkdir()
    (tree.root / ".trash/pruning_by_threshold.txt").write_text((folder / "pruning_by_threshold.txt").read_text())
    assert grades(tree.root)["ANP", "ASR"].note == "no run found"


def test_a_log_without_asr_fails_and_does_not_stop_the_others(tree):
    tree.log("badnets", [(49, float("nan"), 0.95)])
    tree.log("blend", [(49, 1.0, 0.95)])
    lines = grades(tree.root)
    assert not lines["BadNets", "ASR"].passed and lines["BadNets", "ACC"].passed and lines["Blend", "ASR"].passed


def test_a_log_whose_epochs_were_not_all_tested_is_graded_by_the_last_that_was(tree):
    tree.homework()
    tree.log("badnets", [(1, math.nan, math.nan), (2, 1.0, 0.93)])
    tree.log("mine/blend_run", [(1, math.nan, math.nan), (48, 1.0, 0.9301), (49, math.nan, math.nan)])
    assert all(line.passed for line in grade(tree.root, find_runs(tree.root)))
    shutil.rmtree(tree.root / "blend")
    passed = grades(tree.root)
    assert passed["Blend", "ASR"].source == "mine/blend_run/output.log, line 3 (epoch 48)"
    assert passed["Blend", "ACC"].measured["value"] == 0.9301
