"""What a report says of runs whose trigger is all-to-all or for some classes alone."""
import pytest
from helpers.reporting import grades, share

from reporting.document import Text
from reporting.found import find_runs
from reporting.grade import grade
from reporting.schema import check_results
from reporting.sections import write_report
from reporting.summary import summary

ALL = {"all_to_all": True}
SOME = {"sources": [3, 5], "asr_other_classes": share(0.12, 250)}


def texts_of(tree):
    """{title: the Texts of a section, a line each}."""
    runs = find_runs(tree.root)
    return {section.title: [block.words for block in section.blocks if isinstance(block, Text)]
            for section in write_report(runs, grade(tree.root, runs), tree.root)}


@pytest.fixture
def runs(tree):
    """Attacks of three aims, each with Neural Cleanse and STRIP on it, and ABL against two."""
    for name, aim in (("usual", {}), ("next", ALL), ("some", SOME)):
        tree.run(name, "train_backdoor", {"poison_type": "badnets"}, method={"poison_type": "badnets"}, **aim)
        tree.run(f"{name}/nc", "defenses.neural_cleanse", method={"name": "Neural Cleanse", "infected": False}, **aim)
        tree.run(f"{name}/strip", "defenses.strip", method={"name": "STRIP"}, **aim)
        tree.run(f"{name}-abl", "defenses.abl", {"poison_type": "badnets"}, method={"name": "ABL"}, **aim)
    return tree


def test_the_attacks_section_says_what_asr_counts_and_what_other_classes_are_called(runs):
    said = [line for line in texts_of(runs)["Attacks"] if line.startswith(("usual", "next", "some"))]
    assert said == [
        "next: All-to-all: ASR is the share of triggered images that are given the class after their own.",
        "some: Only images of the classes 3, 5 are poisoned, and ASR counts these classes alone. Of triggered images "
        "of other classes, 12.00 [11.00, 13.00] % are given the label that the attacker wants for images of the source "
        "classes."]


def test_a_method_that_supposes_another_trigger_says_so_of_these_runs_alone(runs):
    texts = texts_of(runs)
    said = {title: [line.split(";")[0] for line in lines if " supposes " in line] for title, lines in texts.items()}
    assert said["Neural Cleanse"] == [
        "next/nc: Neural Cleanse supposes one target label, to which few pixels send images of every class",
        "some/nc: Neural Cleanse supposes a trigger that works on images of every class"]
    assert [line.split(":")[0] for line in said["STRIP"]] == ["next/strip", "some/strip"]
    assert [line.split(":")[0] for line in said["Anti-Backdoor Learning"]] == ["next-abl"]
    assert not any(lines for title, lines in said.items() if title not in (
        "Neural Cleanse", "STRIP", "Anti-Backdoor Learning"))


def test_the_homeworks_criteria_are_for_its_own_aim(runs):
    assert grades(runs.root)["BadNets", "ASR"].source.startswith("usual/")
    for name, aim in (("next", '"all_to_all": true'), ("some", '"sources": [3]')):
        path = runs.pruned(f"{name}/anp", 0.0, 0.99) / "results.json"
        path.write_text(path.read_text().replace('"parent"', f'{aim}, "parent"'))
    assert grades(runs.root)["ANP", "ASR"].note == "no run found"
    runs.pruned("usual/anp", 0.0, 0.99)
    assert grades(runs.root)["ANP", "ASR"].source.startswith("usual/")


def test_a_summary_has_the_share_of_other_classes(runs):
    assert any("ASR, others" in line and "12.00 %" in line and "of 250 images" in line
               for line in summary(runs.root / "some"))


@pytest.mark.parametrize("damaged", [{"all_to_all": 1}, {"sources": "3"}, {"sources": [None]}, {"sources": ["3"]},
                                     {"asr_other_classes": 0.4}])
def test_a_damaged_aim_is_no_result(damaged):
    with pytest.raises(ValueError):
        check_results({"script": "x", "seconds": 1.0, **damaged})
