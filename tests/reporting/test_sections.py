"""Which sections a report has, and in what order."""
import json
import sys

import pytest
from helpers.reporting import png, share

from engine.catalogue import SCRIPTS
from engine.rows import REPAIR
from reporting import sections
from reporting.document import Cell, Formula, Picture, Table, Text
from reporting.found import find_runs
from reporting.grade import grade
from reporting.sections import section_files, write_report
from reporting.tables import conditions, spread_cell
from reporting.words import FOLDER, words

TITLE = "Against the homework's criteria"


def written(tree, beneath=""):
    root = tree.root / beneath
    runs = find_runs(root)
    return {section.title: section for section in write_report(runs, grade(root, runs), root)}


def rows_of(tree, title, number=0):
    """The rows of a section's first table, or of another, as {column: text}."""
    tables = [block for block in written(tree)[title].blocks if isinstance(block, Table)]
    return [dict(zip(tables[number].columns, (cell.text for cell in row), strict=True)) for row in tables[number].rows]


def said(tree, title):
    return " ".join(block.words for block in written(tree)[title].blocks if isinstance(block, Text))


def test_only_what_was_pruned_at_several_thresholds_is_a_sweep_over_them(tree):
    def told():
        return [block.words for block in written(tree)["Adversarial Neuron Pruning"].blocks if isinstance(block, Text)
                and block.words.startswith("Threshold: ")]
    tree.pruned("badnets/anp", 0.01, 0.92)
    one, = told()
    assert one.startswith("Threshold: in 1 of 1 sweeps")
    for name, thresholds in (("number", (None, None, None)), ("single", (None, 0.2, 0.2))):
        results = tree.pruned(f"badnets/{name}", 0.01, 0.92) / "results.json"
        found = json.loads(results.read_text())
        for row, threshold in zip(found["method"]["sweep"], thresholds, strict=True):
            row["threshold"] = threshold
        results.write_text(json.dumps(found))
    assert told() == [one]


def test_a_method_of_its_own_file_is_a_section_where_its_order_says(tree, tmp_path, monkeypatch):
    """A defense that is nobody's yet: one file in a folder of sections, and its section is in the report."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more/attention.py").write_text(
        "from reporting.document import Section, Text\nORDER = 65\n\n\ndef section(report):\n"
        "    own = report.with_method('NAD')\n    return Section('Attention', (Text(own[0].name),)) if own else None\n")
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(tmp_path / "more")])
    tree.homework()
    assert "Attention" not in written(tree)
    tree.run("badnets/nad", "defenses.nad", method={"name": "NAD"})
    tree.run("badnets/strip", "defenses.strip", method={"name": "STRIP"})
    found = written(tree)
    titles = list(found)
    assert found["Attention"].blocks[0].words == "badnets/nad"
    assert titles.index("Adversarial Neuron Pruning") < titles.index("Attention") < titles.index("STRIP")
    sys.modules.pop("reporting.sections.attention")


def test_a_detector_of_poisoned_data_has_its_precision_and_recall_and_a_damaged_one_is_no_run(tree):
    half, method = {"value": 0.5, "interval": [0.4, 0.6], "n": 100}, {"name": "activation clustering", "images": 1000}
    tree.attack("badnets", "badnets", 0.93, 1.0)
    tree.run("badnets/ac", "defenses.activation_clustering", method={
        **method, "suspected": 100, "precision": half, "recall": None, "flagged": [0, 7]})
    tree.run("badnets/bad", "defenses.activation_clustering", method={**method, "flagged": ["x"]})
    table, = (block for block in written(tree)["Poisoned training data"].blocks if isinstance(block, Table))
    assert [row[0].text for row in table.rows] == ["badnets/ac"]
    texts = [cell.text for cell in table.rows[0]]
    assert texts[2:5] == ["1000", "–", "100"] and texts[5].startswith("50.00") and texts[6:] == ["–", "0, 7"]


def test_what_an_attack_measures_besides_is_shown_by_the_title_in_its_row(tree):
    few = {"value": 0.25, "interval": [0.2, 0.3], "n": 100}
    tree.run("wanet", "attacks.wanet", method={"name": "WaNet", "noise_acc": 0.9123, "asr_of_another_warp": few})
    tree.run("dfst", "attacks.dfst", method={"name": "DFST-lite", "rounds": [{"gap": 5.25}, {"gap": 1.5}]})
    tree.run("pruning", "attacks.pruning_aware", method={"stages": [{"asr": few, "acc": None}, {"asr": few}]})
    tree.run("latent", "attacks.latent", method={"name": "latent", "student": None})
    table = written(tree)["Further figures"].blocks[-1]
    assert {tuple(cell.text for cell in row) for row in table.rows} == {
        ("wanet", "noise accuracy, %", "91.23"), ("wanet", "ASR of another warp, %", "25.00 [20.00, 30.00]"),
        ("dfst", "gap of the compromised neurons, round by round", "5.25, 1.5"),
        ("pruning", "ASR after each stage, %", "25.00, 25.00"), ("pruning", "ACC after each stage", "–, –")}


def test_a_report_of_attacks_without_further_figures_has_no_section_of_them(tree):
    tree.homework()
    assert "Further figures" not in written(tree)


def test_no_two_sections_have_the_same_place():
    orders = [module.ORDER for module in section_files()]
    assert orders == sorted(set(orders)) and len(orders) > 10


def test_what_no_run_could_meet_is_no_failure_and_a_report_of_other_images_has_no_criteria(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    path = tree.root / "badnets/results.json"
    states = [row[3].text for row in written(tree)[TITLE].blocks[1].rows]
    assert states == ["pass", "pass", *["not measured"] * 6]
    path.write_text(path.read_text().replace('"dataset": "cifar10"', '"dataset": "digits"'))
    assert TITLE not in written(tree)


def test_a_run_on_other_images_beside_one_on_cifar10_is_not_measured_and_has_no_figure_there(tree):
    tree.attack("badnets", "badnets", 0.93, 0.3)
    tree.attack("blend", "blend", 0.93, 1.0)
    path = tree.root / "blend/results.json"
    path.write_text(path.read_text().replace('"dataset": "cifar10"', '"dataset": "digits"'))
    rows = {row[0].text: row for row in written(tree)[TITLE].blocks[1].rows}
    assert (rows["BadNets ASR"][3].text, rows["BadNets ASR"][3].mark) == ("fail", "bad")
    assert [cell.text for cell in rows["Blend ACC"][2:4]] == ["–", "not measured"]
    assert rows["Blend ACC"][3].mark == "soft" and "measured on digits" in rows["Blend ACC"][5].text


def test_an_example_of_each_attack_comes_before_a_second_of_one(tree):
    for name, kind in (("badnets", "badnets"), ("badnets-10", "badnets"), ("blend", "blend")):
        folder = tree.attack(name, kind, 0.93, 1.0)
        (folder / "poisoned_examples.png").write_bytes(png())
    grids = [block for block in written(tree)["Attacks"].blocks if isinstance(block, Picture) and block.is_grid]
    assert [grid.caption.split(":")[0] for grid in grids] == ["badnets", "blend", "badnets-10"]


def test_a_network_is_named_among_the_runs_where_one_is_no_resnet18(tree):
    def columns():
        return written(tree)["All runs"].blocks[0].columns
    tree.attack("badnets", "badnets", 0.93, 1.0)
    assert "network" not in columns()
    tree.attack("vgg", "badnets", 0.93, 1.0, arch="vgg16")
    assert "network" in columns()


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.md")))
def test_words_are_paragraphs_and_formulas_that_can_be_set_and_read_out(name):
    from reporting.page import formula_png
    blocks = words(name)
    assert blocks and all(isinstance(block, (Text, Formula)) for block in blocks)
    for block in blocks:
        assert "$$" not in block.words and block.words
        if isinstance(block, Formula):
            formula_png(block.tex)


def test_a_column_of_spreads_is_there_where_runs_have_several_seeds(tree):
    def columns():
        return next(block for block in written(tree)["Attacks against defenses"].blocks
                    if isinstance(block, Table)).columns
    tree.attack("badnets/seed-0", "badnets", 0.93, 1.0)
    assert "ASR, all" not in columns()
    tree.attack("badnets/seed-1", "badnets", 0.93, 0.9, seed=1)
    assert "ASR, all" in columns()


def test_a_spread_is_sorted_by_its_lowest_value():
    assert spread_cell([30, 10, 20]) == Cell("10.00 to 30.00", 10) and spread_cell([30]) == Cell("")


def test_the_seeds_that_figures_rest_on_are_also_those_of_the_masks(tree):
    tree.run("anp", "generate_mask.py", seed=3)
    tree.run("anp/pruned", "prune_network.py", seed=None)
    assert "; seeds 3; " in conditions([run for run in find_runs(tree.root) if run.above])


def test_a_run_that_does_not_say_its_data_set_is_no_condition_of_the_others(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    tree.run("compared", "compare_strip.py", dataset=None)
    assert "Measured on cifar10, width 64; epochs" in written(tree)["What lies here"].blocks[0].words


def test_runs_that_train_nothing_say_nothing_about_epochs(tree):
    tree.run("clp", "defenses.clp", epochs=0)
    assert "epochs" not in conditions(find_runs(tree.root))
    tree.attack("badnets", "badnets", 0.93, 1.0)
    assert "; epochs 2; " in conditions(find_runs(tree.root))


def test_what_the_homework_asks_stands_beside_its_own_attacks_on_its_own_images(tree):
    tree.run("digits", arguments={"poison_type": "badnets"}, dataset="digits")
    assert [list(row) for row in rows_of(tree, "Attacks")] == [
        ["attack", "ASR", "ACC", "robust ACC", "poisoned", "epochs"]]
    tree.attack("badnets", "badnets", 0.93, 1.0)
    tree.attack("sig", "sig", 0.93, 1.0)
    tree.run("hidden", "attacks.pruning_aware", arguments={"poison_type": "badnets"})
    tree.run("aimed", arguments={"poison_type": "blend"}, sources=[1])
    tree.run("clb", arguments={"poison_type": "clean-label"})
    asked = {row["attack"]: row["homework's ASR / ACC"] for row in rows_of(tree, "Attacks")}
    assert asked == {"badnets": "100 (at least 99.5) / > 91", "clb": "> 80 / > 91",
                     **dict.fromkeys(("digits", "sig", "hidden", "aimed"), "–")}
    assert all(row["epochs"] == "2" for row in rows_of(tree, "Attacks"))


def test_a_repair_is_explained_and_stands_beside_its_control(tree):
    def figures(acc, asr):
        return {name: {"value": value, "interval": [0, 1], "n": 10} for name, value in (("acc", acc), ("asr", asr))}
    tree.attack("badnets", "badnets", 0.93, 1.0)
    assert "Other repairs" not in written(tree)
    folder = tree.run("badnets/mcr", "defenses.mcr", acc=0.9, asr=0.4, method={
        "name": "MCR", "images": 2500, "before": figures(0.93, 1.0), "control": figures(0.91, 0.5)})
    (folder / "curve.png").write_bytes(png())
    tree.run("badnets/rnp", "defenses.rnp", acc=0.93, asr=1.0, method={
        "name": "RNP", "images": 500, "before": figures(0.93, 1.0), "chosen": {"pruned": 0}})
    blocks = written(tree)["Other repairs"].blocks
    assert [block.caption for block in blocks if isinstance(block, Picture)] == ["badnets/mcr: along the curve"]
    texts = " ".join(block.words for block in blocks if isinstance(block, Text))
    assert "Mode connectivity repair (" in texts and "Reconstructive" in texts and "Lipschitz" not in texts
    table, = (block for block in blocks if isinstance(block, Table))
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["badnets/mcr", "MCR", "2500", "93.00", "100.00", "91.00", "50.00", "90.00", "40.00", "–"],
        ["badnets/rnp", "RNP", "500", "93.00", "100.00", "–", "–", "93.00", "100.00", "0"]]


def test_every_repair_is_explained_somewhere(tree):
    """By words/<script>.md, or where it has a section of its own, under that section's name."""
    own = {"prune_network": "anp", "fine_prune": "fine_pruning", "unlearn_trigger": "neural_cleanse", "abl": "abl"}
    for script in SCRIPTS:
        if script.kind == REPAIR:
            name = own.get(script.name, script.name)
            assert (FOLDER / f"{name}.md").is_file(), f"{script.module}: write reporting/words/{name}.md"
            assert len(words(name)) >= 1


def test_a_pruned_models_row_has_the_asr_before_and_after_and_how_its_masks_were_made(tree):
    tree.pruned("badnets/anp", 0.02, 0.92, alpha=0.4)
    row, = rows_of(tree, "Adversarial Neuron Pruning")
    assert {name: row[name].split(" ")[0] for name in ("alpha", "threshold", "pruned", "ASR before", "ASR", "ACC")} == {
        "alpha": "0.4", "threshold": "0.2", "pruned": "9", "ASR before": "100.00", "ASR": "2.00", "ACC": "92.00"}


def test_asr_falls_sooner_where_it_does_at_a_lower_threshold_than_five_points_of_acc(tree):
    sweeps = {"sooner": ((0.1, 0.9, 0.5), (0.2, 0.9, 0.05), (0.3, 0.8, 0)),
              "for nothing": ((0.1, 0.93, 0.05), (0.2, 0.93, 0)),
              "later": ((0.1, 0.87, 0.5), (0.2, 0.87, 0.05), (0.3, 0.2, 0)),
              "at once": ((0.1, 0.93, 0.5), (0.2, 0.87, 0.05)), "never": ((0.1, 0.9, 0.5), (0.2, 0.2, 0.5))}
    for name, swept in sweeps.items():
        tree.run(f"{name}/pruned", "prune_network", method={
            "name": "ANP", "before": {"acc": share(0.93), "asr": share(1)},
            "sweep": [{"threshold": threshold, "acc": share(acc), "asr": share(asr)} for threshold, acc, asr in swept]})
    assert "in 4 of 5 sweeps over a backdoored model ASR falls below 10 % somewhere, in 2 of them at a lower" in said(
        tree, "Adversarial Neuron Pruning")


def test_strips_row_has_its_entropies_and_both_of_its_errors(tree):
    tree.run("badnets/strip", "defenses.strip", method={
        "name": "STRIP", "superimpose": "add", "overlays": 8, "boundary": "normal", "auroc": 0.75,
        "mean_entropy": {"clean": 1.5, "triggered": 0.25}, "frr": share(0.05), "far": share(0.5)})
    row, = rows_of(tree, "STRIP")
    assert row == {"run": "badnets/strip", "superimposed by": "add", "overlays": "8", "boundary": "normal",
                   "entropy, clean": "1.500", "entropy, triggered": "0.250", "FRR": "5.00 [4.00, 6.00]",
                   "FAR": "50.00 [49.00, 51.00]", "AUROC": "0.750"}


def test_an_encoders_row_has_how_well_its_bits_are_read_and_whether_it_was_accepted(tree):
    method = {"name": "ISSBA encoder", "bits": 4, "bit_accuracy": 0.99, "bit_accuracy_swapped": 0.5, "psnr": 25.5}
    for name, is_accepted in (("good", True), ("poor", False)):
        tree.run(name, "attacks.issba_encoder", method={**method, "accepted": is_accepted})
    assert [list(row.values()) for row in rows_of(tree, "ISSBA")] == [
        ["good", "4", "0.9900", "0.5000", "25.50", "yes"], ["poor", "4", "0.9900", "0.5000", "25.50", "no"]]


def test_the_rows_of_fine_pruning_are_of_the_attacks_that_it_was_run_on(tree):
    for name in ("badnets", "blend"):
        tree.attack(name, name, 0.93, 1.0)
    tree.run("badnets/fp", "defenses.fine_prune", method={"name": "Fine-Pruning"})
    assert [(row["attack"], row["defense"]) for row in rows_of(tree, "Fine-Pruning")] == [
        ("badnets", "none"), ("badnets", "Fine-Pruning")]


def test_abls_row_has_the_figures_before_and_after_unlearning(tree):
    tree.run("abl", "defenses.abl", {"lga": "batch"}, acc=0.75, asr=0.01, method={
        "name": "ABL", "isolated": 14, "precision": share(0.9), "filtered": {"acc": share(0.85), "asr": share(0.4)}})
    row, = rows_of(tree, "Anti-Backdoor Learning")
    assert [text.split(" ")[0] for text in row.values()] == [
        "abl", "batch", "14", "90.00", "40.00", "85.00", "1.00", "75.00"]


def test_neural_cleanses_rows_go_from_the_lowest_to_the_highest_value_and_its_verdict_is_in_words(tree):
    label = {"label": 3, "class": "cat", "norm": [10, 20], "index": [1, 3], "flagged_in": 2, "seeds": 3}
    for name, infected in (("a", True), ("b", False), ("c", None)):
        tree.run(name, "defenses.neural_cleanse", method={
            "name": "Neural Cleanse", "labels": [label], "infected": infected, "targets": [3] * bool(infected)})
    assert [list(row.values()) for row in rows_of(tree, "Neural Cleanse")] == [
        [name, "3 cat", "10.0 to 20.0", "1.00 to 3.00", "2 of 3"] for name in "abc"]
    assert "Verdicts. a: infected, target 3; b: clean; c: no verdict." in said(tree, "Neural Cleanse")


def test_finished_runs_and_others_are_counted_and_each_has_a_row(tree):
    tree.run("badnets", arguments={"poison_type": "badnets"}, seed=3, epochs=50, seconds=70)
    tree.begin("blend", arguments={"poison_type": "blend"})
    assert "1 finished runs. Measured on" in said(tree, "What lies here")
    tree.begin("sig", arguments={"poison_type": "sig"})
    assert "2 of the 3 runs found are not finished" in said(tree, "What lies here")
    assert [list(row.values()) for row in rows_of(tree, "All runs")] == [
        ["badnets", "train_backdoor", "finished", "cifar10", "64", "50", "3", "CPU", "70"],
        *([name, "train_backdoor", "unfinished", *["–"] * 6] for name in ("blend", "sig"))]


def test_an_attacks_row_has_its_three_figures_in_the_order_of_their_names(tree):
    tree.attack("badnets", "badnets", 0.93, 1.0)
    row, = rows_of(tree, "Attacks")
    assert {name: row[name].split(" ")[0] for name in ("ASR", "ACC", "robust ACC", "poisoned")} == {
        "ASR": "100.00", "ACC": "93.00", "robust ACC": "50.00", "poisoned": "5"}
