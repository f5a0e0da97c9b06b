"""The report of an audit opens with the verdict and what stands behind it."""
import io

import pytest
from helpers.reporting import png, share
from PIL import Image

from reporting.document import Picture, Table, Text
from reporting.found import BROKEN, find_runs
from reporting.grade import grade
from reporting.sections import write_report

TRUST = "Compared with 20 benign models; it suspected 1 of 20 benign ones (1 to 24 %)."
ERRORS = [{"attack": attack, "models": models, "wrong": wrong, "undecided": undecided, "named": named}
          for attack, models, wrong, undecided, named in (("benign", 20, 1, 0, 0), ("blend", 4, 1, 1, 2))]
METHOD = {"name": "audit", "verdict": "suspect", "targets": [3], "target_classes": ["cat"], "missing": [],
          "evidence": [{"test": "Neural Cleanse", "points_to": 3, "words": "3 of 3 searches"},
                       {"test": "STRIP", "points_to": None, "words": "calibrated"}],
          "repaired": [{"name": name, "changed": changed, "acc": share(acc, 250), "lost": 0.9 - acc,
                        "lost_interval": [0.89 - acc, 0.91 - acc], "asr_of_reversed": {"3": share(asr)}}
                       for name, changed, acc, asr in (("as it is", False, 0.9, 0.97), ("ANP", True, 0.88, 0.05),
                                                       ("Fine-Pruning", False, 0.9, 0.97),
                                                       ("unlearning", True, 0.89, 0.5))],
          "least_lost": ["unlearning"], "trust": TRUST, "errors": ERRORS, "combined": 0.0012}


def sections(tree, beneath="stranger"):
    root = tree.root / beneath
    runs = find_runs(root)
    return write_report(runs, grade(root, runs), root)


def said(section):
    return " ".join(block.words for block in section.blocks if isinstance(block, Text))


def test_the_report_opens_with_the_verdict_its_errors_and_the_cheapest_repair(tree):
    tree.run("stranger/verdict", "studies.audit", method=METHOD)
    first, *others = sections(tree)
    assert first.title == "Verdict" and "homework" not in " ".join(section.title for section in others)
    opening = [block.words for block in first.blocks[:3]]
    assert opening[0] == "SUSPECT: this model shows a sign of a backdoor to label 3 (cat)."
    assert opening[1] == ("A benign model would look so suspicious with probability 0.0012 (p-value of all witnesses). "
                          + TRUST)
    assert opening[2] == (
        "Of the repaired models unlearning lost least clean accuracy: 1.00 points [0.00, 2.00] of 250 images; "
        "the reversed trigger of label 3 reaches 50.0 % there. Of those on which the reversed trigger reaches at "
        "most 10 %, ANP lost least: 2.00 points [1.00, 3.00].")
    evidence, repaired, errors = (block for block in first.blocks if isinstance(block, Table))
    assert [[cell.text for cell in row] for row in evidence.rows] == [
        ["Neural Cleanse", "3", "3 of 3 searches"], ["STRIP", "–", "calibrated"]]
    assert [row[0].text for row in repaired.rows] == ["as it is", "ANP", "Fine-Pruning (changed nothing)", "unlearning"]
    assert repaired.rows[1][2].text == "2.00 [1.00, 3.00]"
    assert repaired.rows[1][3].text.startswith("5.00")
    assert [[cell.text for cell in row] for row in errors.rows] == [
        ["benign", "20", "1", "1 to 24 %", "0", "0"], ["blend", "4", "1", "5 to 70 %", "1", "2"]]


def test_of_the_repairs_that_break_the_reversed_trigger_the_one_that_lost_least_is_named(tree):
    rows = [{**METHOD["repaired"][1], "name": name, "lost": lost, "asr_of_reversed": {"3": share(asr)}}
            for name, lost, asr in (("NAD", 0.03, 0.0), ("ANP", 0.02, 0.1), ("unlearning", 0.01, 0.2))]
    tree.run("stranger/verdict", "studies.audit", method={**METHOD, "repaired": [METHOD["repaired"][0], *rows]})
    assert "reaches at most 10 %, ANP lost least: 2.00 points" in said(sections(tree)[0])


def test_without_a_sign_it_says_that_this_is_no_proof(tree):
    tree.run("stranger/verdict", "studies.audit", method={
        **METHOD, "verdict": "no sign of a backdoor", "targets": [], "target_classes": [], "missing": ["strip"],
        "repaired": [{**row, "asr_of_reversed": {}} for row in METHOD["repaired"]], "trust": None, "errors": [],
        "combined": None})
    text = said(sections(tree)[0])
    assert "NO SIGN OF A BACKDOOR was found, which does not prove" in text and "SUSPECT" not in text
    assert "How often this verdict would be wrong has not been counted." in text and "with probability" not in text
    assert "Not finished, and so not weighed: strip." in text
    assert "reversed trigger of label" not in text


def test_audits_among_other_runs_are_a_section_beside_the_grade(tree):
    tree.attack("badnets", "badnets", 0.9, 1.0)
    for name, verdict in (("one", "suspect"), ("two", "undecided")):
        tree.run(f"audits/{name}/verdict", "studies.audit", method={**METHOD, "verdict": verdict})
    found = {section.title: section for section in sections(tree, "")}
    assert "Verdict" not in found and "Against the homework's criteria" in found
    table, = found["Audits"].blocks
    assert [row[2].text for row in table.rows] == ["suspect, target 3 (cat)", "undecided, target 3 (cat)"]


def test_an_audit_without_repairs_is_listed_with_its_p_value(tree):
    heard = {"name": "calibrated audit", "verdict": "suspect", "target": 3, "target_class": "cat", "combined": 0.00042}
    tree.run("one/audit", "studies.audit", method=heard)
    tree.run("two/audit", "studies.audit", method={
        **heard, "verdict": "undecided", "target": None, "target_class": None, "combined": None})
    table, = next(section for section in sections(tree, "") if section.title == "Audits").blocks
    assert [[cell.text for cell in row[2:]] for row in table.rows] == [
        ["suspect, target 3 (cat)", "0.00042"], ["undecided", "–"]]
    for name in ("three", "four"):
        tree.run(f"{name}/audit", "studies.audit", method={**heard, "doubt": None, "trust": TRUST})
    tree.run("five/audit", "studies.audit", method={**heard, "doubt": "of other classes", "trust": TRUST})
    table, *said = next(section for section in sections(tree, "") if section.title == "Audits").blocks
    assert [row[3].text for row in table.rows] == ["–", "0.00042", "0.00042", "0.00042", "–"]
    assert [str(text.words) for text in said] == ["five/audit: of other classes", f"four/audit, three/audit: {TRUST}"]
    tree.run("six/audit", "studies.audit", method={**heard, "combined": "much"})
    assert [run.state for run in find_runs(tree.root)].count(BROKEN) == 1


def test_pictures_are_the_audits_own(tree):
    for name, color in (("one", (255, 0, 0)), ("two", (0, 255, 0))):
        tree.run(f"{name}/verdict", "studies.audit", method=METHOD)
        folder = tree.run(f"{name}/neural-cleanse", "defenses.neural_cleanse", method={"name": "Neural Cleanse"})
        (folder / "norms.png").write_bytes(png(color))
    first = sections(tree, "two")[0]
    picture, = (block for block in first.blocks if isinstance(block, Picture))
    assert picture.caption.startswith("neural-cleanse: norms")
    with Image.open(io.BytesIO(picture.png)) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (0, 255, 0)


def test_no_audit_no_verdict(tree):
    tree.attack("badnets", "badnets", 0.9, 1.0)
    titles = {section.title for section in sections(tree, "")}
    assert not {"Verdict", "Audits"} & titles and "Against the homework's criteria" in titles


@pytest.mark.parametrize("name", sorted(METHOD.keys() - {"name"}))
@pytest.mark.parametrize("value", [None, 3, "x", [3], [{}], {"a": 1}, [None], [[]]])
def test_a_damaged_verdict_is_a_broken_run_or_still_a_report(tree, name, value):
    tree.run("stranger/verdict", "studies.audit", method={**METHOD, name: value})
    run, = find_runs(tree.root)
    if run.state != BROKEN:
        sections(tree)
        sections(tree, "")


@pytest.mark.parametrize("holder, name", [(holder, name) for holder in ("evidence", "repaired", "errors")
                                          for name in METHOD[holder][0]])
@pytest.mark.parametrize("value", [None, "x", [1], {}, [[]], {"3": 0.5}])
def test_a_damaged_row_is_a_broken_run_or_still_a_report(tree, holder, name, value):
    rows = [{**METHOD[holder][0], name: value}, *METHOD[holder][1:]]
    tree.run("stranger/verdict", "studies.audit", method={**METHOD, holder: rows})
    run, = find_runs(tree.root)
    if run.state != BROKEN:
        sections(tree)


def test_a_missing_entry_is_a_broken_run(tree):
    tree.run("verdict", "studies.audit", method={name: value for name, value in METHOD.items() if name != "repaired"})
    assert find_runs(tree.root)[0].state == BROKEN
