"""docs/arms-race.md, and how its cells are chosen among runs."""
import json

import pytest
from helpers.reporting import share

from common.untrusted import read_yaml
from engine.catalogue import attack_cells, defense_cells
from reporting.arms_race import NOT_RUN, PAGE, ROOT, TABLE, Row, main, page, tried_cells
from reporting.found import find_runs

WRN = {"width": None, "spec": {"arch": "wrn16-1"}}


@pytest.fixture
def rows(tree):
    """Row of a defense of the file of pairs, by the runs in `tree`."""
    def find(defense, **entry):
        pairs = {"assumes": "so", "kept_by": ["badnets"], **entry}
        cells = tried_cells(find_runs(tree.root))
        return Row.of(defense, pairs, {attack: own for (attack, name), own in cells.items() if name == defense})
    return find


def attack(tree, name, poison_type, asr=1.0, **results):
    return tree.run(name, arguments={"poison_type": poison_type, "poison_target": 0}, asr=asr, **results)


def test_the_page_is_what_the_script_makes_of_the_results_as_they_are():
    made = page(find_runs(ROOT / "results"), PAGE.parent)
    assert made == PAGE.read_text(), "run: python -m reporting.arms_race"
    assert "ASR 100.0 to" in made and made.count("\n| ") == 1 + len(read_yaml(TABLE)["pairs"])


def test_the_names_of_the_pairs_are_cells_of_the_catalogue():
    for defense, entry in read_yaml(TABLE)["pairs"].items():
        assert defense in defense_cells()
        assert {*entry["kept_by"], *entry.get("broken_by", ())} <= attack_cells().keys() - {"benign"}


def test_a_cell_has_the_figures_before_and_after_and_one_without_a_run_says_so(tree, rows):
    attack(tree, "badnets", "badnets", acc=0.85)
    tree.run("badnets/nad", "defenses.nad", asr=0.04, acc=0.8, method={"name": "NAD"})
    text = rows("nad", broken_by=["sig"]).text(tree.root)
    where = "[cifar10, resnet18 of width 64](badnets/nad)"
    assert f"badnets: ASR 100.0 to 4.0, ACC 85.0 to 80.0: *stopped* ({where})" in text
    assert f"sig: {NOT_RUN}" in text and text.startswith("| nad | so | ")


@pytest.mark.parametrize("asr, verdict", [(0.1, "stopped"), (0.101, "partly"), (0.499, "partly"), (0.5, "passes")])
def test_a_tenth_at_most_is_stopped_and_half_at_least_passes(tree, asr, verdict):
    attack(tree, "badnets", "badnets", acc=0.85)
    tree.run("badnets/nad", "defenses.nad", asr=asr, acc=0.8, method={"name": "NAD"})
    (tried,), = tried_cells(find_runs(tree.root)).values()
    assert tried.verdict == verdict


@pytest.mark.parametrize("module, folder, method, words", [
    ("defenses.strip", "strip", {"far": share(0.3), "frr": share(0.01)}, "FAR 30.0, FRR 1.0: *partly*"),
    ("defenses.max_margin", "max-margin", {"name": "MM-BD", "targets": [0]}, "target named: *stopped*"),
    ("defenses.neural_cleanse", "nc-detect", {"name": "Neural Cleanse", "targets": [4]},
     "another class named: *passes*"),
    ("defenses.neural_cleanse", "nc-detect", {"name": "Neural Cleanse", "targets": []}, "target not named: *passes*"),
    ("defenses.spectral_signatures", "spectral-signatures", {"recall": share(0.95), "precision": share(0.5)},
     "recall 95.0, precision 50.0: *stopped*"),
    ("defenses.spectral_signatures", "spectral-signatures", {"recall": share(0), "precision": None},
     "recall 0.0: *passes*")])
def test_each_kind_of_defense_is_judged_by_its_own_figure(tree, rows, module, folder, method, words):
    attack(tree, "badnets", "badnets")
    tree.run("badnets/any", module, method=method)
    assert words in rows(folder, broken_by=["sig"]).text(tree.root)


def test_without_a_name_the_attack_that_is_stopped_least_is_shown_if_it_had_worked(tree, rows):
    for name, before, after in (("badnets", 1.0, 1.0), ("blend", 1.0, 0.6), ("sig", 1.0, 0.2), ("trojan", 0.3, 0.9)):
        attack(tree, name, name, before)
        tree.run(f"{name}/clp", "defenses.clp", asr=after, method={"name": "CLP"})
    row = rows("clp")
    assert list(row.broken) == ["blend"] and list(row.kept) == ["badnets"]
    assert list(row.surprises()) == ["clp on badnets (passes)"]
    assert list(rows("clp", kept_by=["sig"], broken_by=["trojan"]).surprises()) == [
        "clp on sig (partly)", "clp on trojan (no backdoor to begin with)"]
    attack(tree, "wrn/issba", "issba", **WRN)
    tree.run("wrn/issba/clp", "defenses.clp", asr=0.9, method={"name": "CLP"}, **WRN)
    assert list(rows("clp").broken) == ["issba"] and rows("clp").kept["badnets"].setting[1] == "resnet18"


def test_beside_a_named_attack_that_did_not_take_hold_the_one_that_is_stopped_least_is_shown(tree, rows):
    for name, before, after in (("badnets", 1.0, 0.0), ("blend", 1.0, 0.6), ("sig", 1.0, 0.2), ("trojan", 0.3, 0.9)):
        attack(tree, name, name, before)
        tree.run(f"{name}/clp", "defenses.clp", asr=after, method={"name": "CLP"})
    assert list(rows("clp", broken_by=["trojan"]).broken) == ["trojan", "blend"]
    assert list(rows("clp", broken_by=["trojan", "sig"]).broken) == ["trojan", "sig"]
    assert list(rows("clp", broken_by=["trojan", "issba"]).broken) == ["trojan", "issba"]


def test_an_attack_whose_trigger_is_made_of_classes_is_a_cell(tree, rows):
    tree.run("composite", "attacks.composite", asr=0.9, sources=[1], method={"name": "composite", "sources": [1, 2]},
             arguments={"sources": [1, 2], "poison_target": 0})
    tree.run("composite/nad", "defenses.nad", asr=0.6, sources=[1], method={"name": "NAD"})
    assert rows("nad", broken_by=["composite"]).broken["composite"].verdict == "passes"


def test_a_row_prefers_the_setting_with_most_of_its_attacks_and_then_the_published_network(tree, rows):
    for folder, spec in (("wide", {}), ("wrn", WRN)):
        attack(tree, f"{folder}/badnets/seed-0", "badnets", **spec)
        tree.run(f"{folder}/badnets/seed-0/clp", "defenses.clp", asr=0.01, method={"name": "CLP"}, **spec)
    assert rows("clp").kept["badnets"].setting[1] == "wrn16-1"
    attack(tree, "wide/sig/seed-0", "sig")
    tree.run("wide/sig/seed-0/clp", "defenses.clp", asr=0.7, method={"name": "CLP"})
    attack(tree, "wrn/feature-collision/seed-0", "feature-collision", asr=0.01, **WRN)  # that failed counts for nothing
    tree.run("wrn/feature-collision/seed-0/clp", "defenses.clp", asr=0.01, method={"name": "CLP"}, **WRN)
    row = rows("clp", broken_by=["sig"])
    assert {tried.setting[1] for tried in (*row.kept.values(), *row.broken.values())} == {"resnet18"}


def test_a_row_keeps_to_the_setting_that_has_its_own_attacks_and_says_what_became_of_them_elsewhere(tree, rows):
    for name, after, spec in (("wide/badnets", 0.6, {}), ("wide/sig", 0.7, {}), ("wide/blend", 0.7, {}),
                              ("wrn/badnets", 0.01, WRN), ("wrn/trojan", 1.0, WRN)):
        attack(tree, f"{name}/seed-0", name.partition("/")[2], **spec)
        tree.run(f"{name}/seed-0/clp", "defenses.clp", asr=after, acc=0.93, method={"name": "CLP"}, **spec)
    row = rows("clp", broken_by=["trojan"])  # two of its own against three attacks of which it names one
    assert {tried.setting[1] for tried in (*row.kept.values(), *row.broken.values())} == {"wrn16-1"}
    assert list(row.elsewhere()) == ["clp on badnets (cifar10, resnet18 of width 64: passes)"]
    assert "ASR 100.0 to 1.0, ACC 93.0 to 93.0:" in row.text(tree.root)
    assert "ASR 100.0 to 100.0, ACC 93.0 to 93.0, unchanged: *passes*" in row.text(tree.root)


def test_of_several_runs_those_without_a_suffix_count_and_seeds_are_averaged(tree, rows):
    attack(tree, "badnets", "badnets")
    for name, far in (("strip-seed-0", 0.1), ("strip-seed-1", 0.3), ("strip-average", 0.9)):
        tree.run(f"badnets/{name}", "defenses.strip", method={"name": "STRIP", "far": share(far), "frr": share(0.01)})
    assert "FAR 20.0" in rows("strip", broken_by=["sig"]).text(tree.root)


def at_shares(tree, recall):
    """Attacks on WRN-16-1 with {share of the training images poisoned: a detector's recall}, the lower share with the
    shorter path."""
    for number, (poisoned, found) in enumerate(sorted(recall.items()), 1):
        name = f"{'x' * number}/badnets/seed-0"
        attack(tree, name, "badnets", method={"of_training_set": poisoned}, **WRN)
        tree.run(f"{name}/detector", "defenses.activation_clustering", method={"recall": share(found)}, **WRN)


def test_a_share_that_is_poisoned_is_a_cell_of_its_own_and_a_row_can_name_it(tree, rows):
    at_shares(tree, {0.00998: 0.99, 0.045: 0.6, 0.1: 0.0})
    row = rows("activation-clustering", kept_by={"badnets": 0.01}, broken_by={"badnets": 0.1})
    text = row.text(tree.root)
    assert "badnets: recall 99.0: *stopped* ([cifar10, wrn16-1, 1 % poisoned](" in text
    assert "badnets: recall 0.0: *passes* ([cifar10, wrn16-1, 10 % poisoned](" in text
    assert list(row.surprises()) == []
    assert list(row.elsewhere()) == ["activation-clustering on badnets (cifar10, wrn16-1, 4.5 % poisoned: partly)"]
    assert f"badnets at 2 %: {NOT_RUN}" in rows("activation-clustering", broken_by={"badnets": 0.02}).text(tree.root)


def test_of_several_shares_the_one_nearest_to_the_published_is_shown_whatever_its_path(tree, rows):
    at_shares(tree, {0.01: 0.99, 0.09: 0.0, 0.5: 0.3})
    assert rows("activation-clustering", broken_by=["sig"]).kept["badnets"].poisoned == 0.09


def test_the_detectors_assumption_is_shown_to_hold_at_one_percent_and_to_break_at_ten():
    cells = tried_cells(find_runs(ROOT / "results"))
    for defense in ("activation-clustering", "spectral-signatures"):
        entry = read_yaml(TABLE)["pairs"][defense]
        row = Row.of(defense, entry, {attack: own for (attack, name), own in cells.items() if name == defense})
        kept, broken = row.kept["badnets at 1 %"], row.broken["badnets at 10 %"]
        assert (kept.verdict, broken.verdict) == ("stopped", "passes") and kept.setting == broken.setting


def test_where_no_keeper_is_stopped_it_stays_and_what_was_stopped_elsewhere_stands_beside_it(tree, rows):
    for name, after, spec in (("wrn/badnets", 1.0, WRN), ("wrn/sig", 0.0, WRN), ("wide/badnets", 0.04, {}),
                              ("wide/trojan", 0.01, {})):
        attack(tree, f"{name}/seed-0", name.partition("/")[2], **spec)
        tree.run(f"{name}/seed-0/clp", "defenses.clp", asr=after, method={"name": "CLP"}, **spec)
    row = rows("clp", broken_by=["latent"])
    assert [(one.attack, one.setting[1], one.verdict) for one in row.kept.values()] == [
        ("badnets", "wrn16-1", "passes"), ("badnets", "resnet18", "stopped")]
    assert list(row.surprises()) == ["clp on badnets (passes)"]
    other, = (one for one in rows("clp", kept_by=["blend"]).kept.values() if one)  # never run, so any attack will do
    assert (other.attack, other.through) == ("sig", 0)
    assert len(rows("clp", kept_by=["badnets", "sig"]).kept) == 2  # one of them is stopped
    assert row.failure() == []


def test_a_defense_that_stopped_nothing_says_so(tree, rows):
    for name, before, after in (("badnets", 1.0, 1.0), ("trojan", 0.9, 0.2), ("sig", 0.1, 0.0)):
        attack(tree, name, name, before)
        tree.run(f"{name}/rnp", "defenses.rnp", asr=after, method={"name": "RNP"})
    said = "stopped none of the attacks that it was run on: badnets, trojan."  # SIG had left no backdoor to stop
    row = rows("rnp")
    assert said in row.text(tree.root) and list(row.kept) == ["badnets"]
    assert rows("clp").failure() == []  # never run


def test_the_first_stage_of_fine_pruning_is_a_cell_of_pruning(tree, rows):
    attack(tree, "sig", "sig")
    tree.run("sig/fine-prune", "defenses.fine_prune", {"mode": "fine-prune"}, asr=0.07, acc=0.9, method={
        "name": "Fine-Pruning", "chosen": {"pruned": 9, "acc": share(0.8), "asr": share(0.0)}})
    text = rows("pruning", kept_by=["sig"]).text(tree.root)
    assert "sig: ASR 100.0 to 0.0, ACC 93.0 to 80.0: *stopped*" in text and "(sig/fine-prune)" in text
    assert "sig: ASR 100.0 to 7.0, ACC 93.0 to 90.0" in rows("fine-pruning", kept_by=["sig"]).text(tree.root)


def test_on_the_page_every_assumption_is_shown_to_hold_or_is_said_to_have_no_figure():
    cells = tried_cells(find_runs(ROOT / "results"))
    without = set()
    for defense, entry in read_yaml(TABLE)["pairs"].items():
        row = Row.of(defense, entry, {attack: own for (attack, name), own in cells.items() if name == defense})
        assert any(tried and tried.verdict == "stopped" for tried in row.kept.values()) != bool(row.failure()), defense
        without |= {defense} if row.failure() else set()
    assert without == {"rnp"}


def test_unlearning_what_was_reversed_is_a_cell_and_its_controls_are_not(tree, rows):
    attack(tree, "badnets", "badnets")
    for folder, patch, after in (("a", "clean", 0.99), ("b", "original", 0.0), ("reversed", "reversed", 0.02)):
        tree.run(f"badnets/{folder}", "defenses.unlearn_trigger", {"patch_with": patch}, asr=after,
                 method={"name": "unlearning", "patch_with": patch})
    shown, = rows("nc-unlearning", broken_by=["sig"]).cells["badnets"]
    assert (len(shown.runs), shown.through) == (1, 2)


@pytest.mark.parametrize("aim", [{"all_to_all": True}, {"sources": [1, 2]}])
def test_a_trigger_with_another_aim_is_no_cell(tree, aim):
    folder = tree.run("badnets", arguments={"poison_type": "badnets", **aim}, **aim)
    tree.run(f"{folder.name}/clp", "defenses.clp", method={"name": "CLP"})
    assert tried_cells(find_runs(tree.root)) == {}


def test_the_command_takes_several_folders_and_links_from_where_the_page_lies(tree, tmp_path, capsys):
    attack(tree, "here/badnets", "badnets")
    tree.run("here/badnets/clp", "defenses.clp", asr=0.02, method={"name": "CLP"})
    attack(tree, "there/sig", "sig")
    tree.run("there/sig/clp", "defenses.clp", asr=0.8, method={"name": "CLP"})
    (tmp_path / "pages").mkdir()
    main([str(tree.root / "here"), str(tree.root / "there"), "--page", str(tmp_path / "pages/race.md")])
    text = (tmp_path / "pages/race.md").read_text()
    assert "(../output/here/badnets/clp)" in text and "(../output/there/sig/clp)" in text
    assert "cells are not run yet" in capsys.readouterr().out


def test_abls_cells_say_what_it_isolated_and_what_was_left_before_it_unlearned(tree, rows):
    attack(tree, "badnets", "badnets")
    tree.run("badnets/abl", "defenses.abl", asr=0.02, method={
        "name": "ABL", "precision": share(0.25), "filtered": {"acc": share(0.9), "asr": share(0.03)}})
    assert "(of what it isolated 25 % was poisoned; ASR 3.0 before it unlearned that)" in rows("abl").text(tree.root)


def test_an_asr_that_nobody_measured_is_no_cell(tree):
    attack(tree, "badnets", "badnets")
    tree.run("badnets/clp", "defenses.clp", method={"name": "CLP"}, asr=0.5)
    results = json.loads((tree.root / "badnets/clp/results.json").read_text())
    (tree.root / "badnets/clp/results.json").write_text(json.dumps({**results, "asr": None}))
    assert ("badnets", "clp") not in tried_cells(find_runs(tree.root))
