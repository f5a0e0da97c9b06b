"""The lecture's table beside what was measured."""
import csv
import math
from dataclasses import replace

import pytest
from helpers.paths import ROOT
from helpers.reporting import share

import report
from engine.catalogue import attack_cells, defense_cells
from reporting import charts
from reporting.found import find_runs
from reporting.grade import grade
from reporting.published import Measured, averages, is_usual, leave_table, means, measured, poisoned_share, published
from reporting.published_rates import at_rates, published_rates
from reporting.sections import published as section_of_published
from reporting.sections import write_report
from reporting.sections.abl_rates import panels
from reporting.sections.published import AVERAGE

LECTURE = ROOT / "results/lecture-abl"
TITLE = "Beside the published table"
ATTACK = {"poison_type": "badnets", "arch": "wrn16-1"}


def attack(tree, name="badnets/seed-0", **results):
    return tree.run(name, arguments={**ATTACK, "poison_type": name.split("/")[0]}, width=None,
                    spec={"arch": "wrn16-1"}, acc_outside_target=share(0.84, 9000), **results)


def test_the_published_averages_are_those_that_the_publication_prints():
    """The lecture's last row, of the ten attacks without the benign one."""
    assert {name: tuple(round(value, 2) for value in pair) for name, pair in averages(published()).items()} == {
        "none": (97.73, 83.55), "fine-pruning": (75.07, 80.62), "mcr": (24.38, 76.56), "nad": (20.40, 80.37),
        "abl": (7.69, 84.76)}


def test_a_run_stands_beside_the_cell_that_it_repeats(tree):
    attack(tree, acc=0.86, asr=0.99)
    tree.run("badnets/seed-0/abl", "defenses.abl", ATTACK, acc=0.8, asr=0.05, width=None, spec={"arch": "wrn16-1"},
             acc_outside_target=share(0.79, 9000), method={"name": "ABL"})
    first, second = measured(find_runs(tree.root))
    assert (first.attack, first.defense, first.published) == ("badnets", "none", (100, 85.43))
    assert (second.attack, second.defense, second.published) == ("badnets", "abl", (3.04, 86.11))
    assert (round(first.acc, 2), round(first.ca9, 2), round(first.asr, 2)) == (86, 84, 99)


def test_a_report_leaves_the_table_beside_its_page(tree):
    attack(tree, acc=0.86, asr=0.99)
    report.main([str(tree.root)])
    row, = csv.DictReader((tree.root / "table.csv").open())
    assert (row["folder"], row["acc"], row["asr"]) == ("badnets/seed-0", "86.0", "99.0")
    assert (tree.root / "report.html").exists()


def test_other_networks_have_no_place_in_the_table(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    assert measured(find_runs(tree.root)) == []
    assert TITLE not in [section.title for section in write_report(find_runs(tree.root), (), tree.root)]
    leave_table(tree.root / "table.csv", find_runs(tree.root))
    assert not (tree.root / "table.csv").exists()


@pytest.mark.parametrize(("dataset", "wanted"), [("cifar10", 1), ("cifar10-jpeg", 1), ("my CIFAR-10", 1),
                                                 ("cifar100", 0), ("digits", 0), ("mnist-10k", 0)])
def test_other_images_have_no_place_in_the_table(tree, dataset, wanted):
    attack(tree, dataset=dataset)
    assert len(measured(find_runs(tree.root))) == wanted


def test_the_table_has_a_row_a_run_and_says_what_was_not_measured(tree, tmp_path):
    attack(tree, seed=0)
    attack(tree, "badnets/seed-1", seed=1)
    attack(tree, "benign/seed-0", asr=0.011)
    folder = tree.root / "blend/seed-0"
    tree.run("blend/seed-0", arguments={**ATTACK, "poison_type": "blend"}, width=None, spec={"arch": "wrn16-1"})
    leave_table(tmp_path / "table.csv", find_runs(tree.root))
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [(row["attack"], row["seed"]) for row in rows] == [
        ("benign", "0"), ("badnets", "0"), ("badnets", "1"), ("blend", "0")]
    assert rows[-1]["folder"] == folder.relative_to(tree.root).as_posix() and rows[-1]["ca9"] == "nan"
    assert (rows[0]["asr"], rows[0]["published_asr"], rows[0]["published_ca"]) == ("1.1", "0.0", "89.12")


def test_the_section_has_the_difference_and_an_average_row(tree):
    attack(tree, asr=0.9)
    runs = find_runs(tree.root)
    section, = (one for one in write_report(runs, grade(tree.root, runs), tree.root) if one.title == TITLE)
    row, = section.blocks[-1].rows
    shown = dict(zip(section.blocks[-1].columns, (one.text for one in row), strict=True))
    assert (shown["ASR"], shown["ASR, difference"], shown["CA-9, difference"]) == ("90.00", "-10.00", "-1.43")


def at_cell(attack, defense, asr, ca9, **more):
    return Measured(attack, defense, 0, 10.0, 80.0, ca9, asr, 12, f"{attack}/{defense}", **more)


def test_the_average_row_is_over_the_attacks_that_count_and_the_published_one_over_the_same(monkeypatch):
    """Published are 100 / 85.43 and 100 / 84.51 for BadNets and Blend, under ABL 3.04 / 86.11 and 16.23 / 84.06."""
    monkeypatch.setattr(section_of_published, "published_map", lambda *given: given)
    rows, columns, texts, asr = section_of_published.picture([
        at_cell("benign", "none", 2, 84), at_cell("badnets", "none", 90, 80), at_cell("blend", "none", 70, 85),
        at_cell("badnets", "abl", 10, 70), at_cell("blend", "abl", 40, 75),
        at_cell("composite", "abl", 100, 10, left_out="5 % poisoned, not 10 %")])
    assert columns == ["none", "abl"] and rows == ["benign", "badnets", "blend", "composite", AVERAGE]
    assert (asr[AVERAGE, "none"], asr[AVERAGE, "abl"]) == (80, 25)  # without benign's 2 and composite's 100
    assert texts[AVERAGE, "none"] == "80.0 / 82.5\n(100.0 / 85.0)"
    assert texts[AVERAGE, "abl"] == "25.0 / 72.5\n(9.6 / 85.1)"
    assert texts["badnets", "abl"] == "10.0 / 70.0\n(3.0 / 86.1)" and asr["badnets", "abl"] == 10
    assert texts["composite", "abl"] == "100.0 / 10.0\n(29.8 / 84.7)\nnot averaged"


def test_a_cell_is_colored_by_its_asr_from_green_to_red_and_says_its_own_text(monkeypatch):
    monkeypatch.setattr(charts, "drawn", lambda figure, *words, **how: figure)
    asr = {("sig", "none"): 100, ("blend", "none"): 20, ("sig", "abl"): 0, (AVERAGE, "none"): 60}
    figure = charts.published_map(["sig", "blend", AVERAGE], ["none", "abl"], {key: str(key) for key in asr}, asr)
    axis, = figure.axes
    colors = axis.images[0].to_rgba(axis.images[0].get_array())
    redness = colors[..., 0] - colors[..., 1]
    assert redness[0, 0] > 0.5 and redness[0, 1] < -0.3  # ASR 100 and 0
    assert redness[0, 1] < redness[1, 0] < redness[2, 0] < redness[0, 0]  # by ASR: 0, 20, 60, 100
    assert colors[1, 1, 3] == 0 and colors[2, 1, 3] == 0  # never run: no color
    shown = {text.get_text(): text.get_position() for text in axis.texts}
    assert shown == {str(("sig", "none")): (0, 0), str(("blend", "none")): (0, 1), str(("sig", "abl")): (1, 0),
                     str((AVERAGE, "none")): (0, 2)}


def test_the_colors_do_not_depend_on_what_else_was_measured(monkeypatch):
    monkeypatch.setattr(charts, "drawn", lambda figure, *words, **how: figure)
    def color(other):
        image, = charts.published_map(["sig", "blend"], ["none"], {}, {
            ("sig", "none"): 30, ("blend", "none"): other}).axes[0].images
        return tuple(image.to_rgba(image.get_array())[0, 0])
    assert color(0) == color(40) == color(100)


@pytest.mark.parametrize("place, known", [(0, attack_cells), (1, defense_cells)])
def test_the_published_names_are_those_of_matrices(place, known):
    names = {key[place] for key in published()} - {"none"}
    assert names <= set(known())


def at(tree, share_poisoned, isolated):
    """A BadNets run with a share of its training images poisoned, and ABL's runs with the isolation rates beside it."""
    folder, rate = f"poison-{share_poisoned}", {"poison_rate": share_poisoned / 0.9}
    tree.run(f"{folder}/none", arguments={**ATTACK, **rate}, width=None, spec={"arch": "wrn16-1"}, asr=1.0,
             method={"of_training_set": share_poisoned})
    for one in isolated:
        tree.run(f"{folder}/isolation-{one}", "defenses.abl", {**ATTACK, **rate, "isolation_rate": one}, asr=0.05,
                 width=None, spec={"arch": "wrn16-1"}, acc_outside_target=share(0.7, 9000),
                 method={"name": "ABL", "precision": share(0.9, 450), "recall": share(0.1, 4500)})


def rates_table(tree):
    runs = find_runs(tree.root)
    section, = (one for one in write_report(runs, (), tree.root) if one.title.startswith("ABL over"))
    table = section.blocks[1]
    return [dict(zip(table.columns, (one.text for one in row), strict=True)) for row in table.rows]


def test_a_run_at_another_rate_is_beside_the_figure_published_for_that_rate_and_not_in_the_main_table(tree):
    at(tree, 0.5, [0.01, 0.05])
    assert measured(find_runs(tree.root)) == []
    none, one, other = rates_table(tree)
    assert (none["poisoned, %"], none["isolated, %"], none["published ASR"], none["published CA"]) == (
        "50.0", "–", "100.00", "75.31")
    assert (one["isolated, %"], one["published ASR"], one["published CA"]) == ("1", "4.98", "70.52")
    assert (other["isolated, %"], other["published ASR"]) == ("5", "–")
    assert one["of them poisoned"].startswith("90.00") and one["of the poisoned isolated"].startswith("10.00")


def test_at_a_tenth_the_figures_beside_are_those_of_the_main_table(tree):
    at(tree, 0.1, [0.01, 0.2])
    assert [(one.defense, one.published) for one in measured(find_runs(tree.root))] == [
        ("none", (100, 85.43)), ("abl", (3.04, 86.11))]
    assert [(row["isolated, %"], row["published ASR"]) for row in rates_table(tree)] == [
        ("–", "100.00"), ("1", "3.04"), ("20", "–")]


def test_isolation_rates_of_one_poisoned_share_are_a_curve_and_a_single_one_is_not(tree):
    at(tree, 0.1, [0.01, 0.2])
    at(tree, 0.5, [0.01])
    section, = (one for one in write_report(find_runs(tree.root), (), tree.root) if one.title.startswith("ABL over"))
    assert len(section.blocks) == 3 and "isolates" in section.blocks[2].caption
    assert [title for title, _ in panels(at_rates(find_runs(tree.root)))] == ["badnets, 10 % poisoned"]


def test_a_third_stage_in_even_steps_is_a_row_that_says_so(tree):
    at(tree, 0.5, [0.01])
    abl_at(tree, "even", 0.01, 0.02, {}, poison_rate=0.5 / 0.9, even_steps=True)
    assert [row["unlearned in"] for row in rates_table(tree)] == ["–", "SGD", "even steps"]


def abl_at(tree, name, isolated, asr, filtered, **more):
    arguments = {**ATTACK, "poison_rate": 0.1 / 0.9, "isolation_rate": isolated, **more}
    folder = f"poison-{0.9 * arguments['poison_rate']:g}/{name}"
    tree.run(folder, "defenses.abl", arguments, acc=0.8, asr=asr, width=None, spec={"arch": "wrn16-1"},
             method={"name": "ABL", **filtered})


def test_a_curve_is_the_mean_over_seeds_of_runs_that_differ_in_nothing_else(tree, monkeypatch):
    monkeypatch.setattr(charts, "drawn", lambda figure, *words, **how: figure)
    at(tree, 0.1, [])
    left_out = {"filtered": {"asr": share(0.9, 9000), "acc": share(0.8, 9000)}}
    abl_at(tree, "a", 0.01, 0.3, left_out, seed=0)
    abl_at(tree, "b", 0.01, 0.5, left_out, seed=1)
    abl_at(tree, "c", 0.2, 0.1, {"filtered": None})
    for name, rate in (("d", 0.01), ("e", 0.05)):
        abl_at(tree, name, rate, 0.7, left_out, isolation_epochs=7)
    figure, = charts.isolation_curves(panels(at_rates(find_runs(tree.root))))
    axes = {axis.get_title(): {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
            for axis in figure.axes}
    usual, longer = (next(own for title, own in axes.items() if title.endswith("7)") is is_longer)
                     for is_longer in (False, True))
    assert usual["ASR"] == [pytest.approx([1, 40]), pytest.approx([20, 10])]
    assert usual["ACC"] == [pytest.approx([1, 80]), pytest.approx([20, 80])]
    apart = usual["ASR, isolated images left out alone"]
    assert apart[0] == pytest.approx([1, 90]) and apart[1] == pytest.approx([20, math.nan], nan_ok=True)
    assert longer["ASR"] == [pytest.approx([1, 70]), pytest.approx([5, 70])]


def test_a_tenth_of_the_images_outside_the_target_class_is_as_published(tree):
    at(tree, 0.09, [0.01])
    assert len(measured(find_runs(tree.root))) == 2


def test_a_share_that_is_off_by_a_tenth_of_the_published_one_at_most_is_as_published():
    assert [is_usual(share) for share in (0.085, 0.09, 0.1, 0.11, 0.115, math.nan)] == [
        False, True, True, True, False, True]


def test_a_benign_model_has_no_rate_that_differs(tree):
    tree.run("benign", arguments={**ATTACK, "poison_type": "benign"}, width=None, spec={"arch": "wrn16-1"},
             method={"of_training_set": 0.0})
    assert [one.attack for one in measured(find_runs(tree.root))] == ["benign"]


def test_a_training_set_of_abl_s_own_decides_by_its_own_share(tree):
    for share_poisoned, in_average in ((0.01, "no: 1 % poisoned, not 10 %"), (0.1, "yes")):
        composite = {"poison_target": 0, "sources": [1, 2]}
        tree.run(f"of-{share_poisoned}/none", "attacks.composite", composite, width=None, spec={"arch": "wrn16-1"},
                 asr=0.9)
        tree.run(f"of-{share_poisoned}/none/abl", "defenses.abl", {"poison_type": "stored"}, asr=0.5, width=None,
                 spec={"arch": "wrn16-1"}, acc_outside_target=share(0.7, 9000),
                 method={"name": "ABL", "of_training_set": share_poisoned})
        runs = [run for run in find_runs(tree.root) if run.name.startswith(f"of-{share_poisoned}")]
        none, abl = measured(runs)
        assert (none.defense, none.in_average) == ("none", "yes")
        assert (abl.defense, abl.in_average, abl.poison_rate) == ("abl", in_average, 100 * share_poisoned)


def test_the_share_of_an_older_run_of_abl_is_what_its_isolation_tells(tree):
    tree.run("abl", "defenses.abl", {"poison_type": "stored", "isolation_rate": 0.01}, asr=0.5,
             method={"name": "ABL", "poisoned": 4050, "isolated": 450})
    run, = find_runs(tree.root)
    assert poisoned_share(run) == pytest.approx(0.09)


def test_a_run_that_is_left_out_is_shown_and_not_in_its_mean():
    usual = Measured("blend", "abl", 0, 10.0, 80, 79, 10, 12, "a")
    other = replace(usual, asr=90, left_out="5 % poisoned, not 10 %")
    assert means([usual, other]) == {("blend", "abl"): (10, 79)} and means([other]) == {("blend", "abl"): (90, 79)}


def test_the_committed_table_is_what_the_report_makes_of_the_results(tmp_path):
    leave_table(tmp_path / "table.csv", find_runs(LECTURE))
    assert (LECTURE / "table.csv").read_bytes() == (tmp_path / "table.csv").read_bytes(), (
        "run: python report.py results/lecture-abl --output-dir output/report, and copy its table.csv")


def test_the_committed_table_has_one_row_for_each_published_cell():
    """ABL on composite too, which is not averaged."""
    rows = list(csv.DictReader((LECTURE / "table.csv").open()))
    assert [(row["attack"], row["defense"]) for row in rows] == list(published())
    assert {row["seed"] for row in rows} == {"0"}
    out = {(row["attack"], row["defense"]): row["poison_rate"] for row in rows if row["in_average"] != "yes"}
    assert {key: rate for key, rate in out.items() if key[0] != "benign"} == {("composite", "abl"): "5.0"}


def seeds(tree, none, nad=()):
    """BadNets on WRN-16-1 with these seeds, and NAD on some of them."""
    wrn = {"width": None, "spec": {"arch": "wrn16-1"}}
    for seed in none:
        tree.run(f"badnets/seed-{seed}", arguments=ATTACK, seed=seed, asr=1 - seed / 10, **wrn)
    for seed in nad:
        tree.run(f"badnets/seed-{seed}/nad", "defenses.nad", seed=seed, asr=seed / 10, **wrn, method={"name": "NAD"})


def test_a_seed_that_a_column_lacks_is_not_in_the_means(tree):
    seeds(tree, none=[0, 1, 2], nad=[0, 1])
    tree.run("badnets/seed-1/mcr", "defenses.mcr", seed=1, width=None, spec={"arch": "wrn16-1"}, asr=0.5,
             method={"name": "MCR"})
    found = measured(find_runs(tree.root))
    assert [(one.defense, one.seed, one.in_average) for one in found] == [
        ("none", 0, "no: seed 0 is not in every column"), ("none", 1, "yes"),
        ("none", 2, "no: seed 2 is not in every column"),
        ("mcr", 1, "yes"), ("nad", 0, "no: seed 0 is not in every column"), ("nad", 1, "yes")]
    assert {key[1]: round(asr) for key, (asr, _) in means(found).items()} == {"none": 90, "nad": 10, "mcr": 50}


def test_without_defenses_every_seed_counts(tree):
    seeds(tree, none=[0, 2])
    assert means(measured(find_runs(tree.root)))["badnets", "none"][0] == pytest.approx(90)


def test_runs_at_the_usual_rates_alone_have_no_table_of_rates(tree):
    at(tree, 0.1, [0.01])
    assert at_rates(find_runs(tree.root)) == [] and len(measured(find_runs(tree.root))) == 2


def test_the_published_rates_are_of_known_cells():
    assert {(attack, defense) for attack, _, defense in published_rates()} <= published().keys()
    assert {share for _, share, _ in published_rates()} == {0.1, 0.5, 0.7} and len(published_rates()) == 12
