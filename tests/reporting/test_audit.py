"""The report of an audit opens with the verdict and what stands behind it."""
import pytest

from reporting.audit import audit_section
from reporting.document import Table, Text
from reporting.found import BROKEN, find_runs
from reporting.grade import grade
from reporting.sections import write_report

from .conftest import share

RATES = [{"data": "digits", "test": "Neural Cleanse", "model_kind": kind, "models": models, "wrong": wrong,
          "searches": 9, "searches_wrong": 4, "width": "16", "how": "3 searches"}
         for kind, models, wrong in (("benign", 6, 1), ("badnets", 2, 0), ("blend", 2, 1))]
METHOD = {"name": "audit", "verdict": "suspect", "targets": [3], "target_classes": ["cat"], "missing": [],
          "evidence": [{"test": "Neural Cleanse", "points_to": 3, "words": "3 of 3 searches"},
                       {"test": "STRIP", "points_to": None, "words": "calibrated"}],
          "repaired": [{"name": "as it is", "acc": share(0.9), "lost": 0.0, "asr_of_reversed": {"3": share(0.97)}},
                       {"name": "ANP", "acc": share(0.88), "lost": 0.02, "asr_of_reversed": {"3": share(0.05)}},
                       {"name": "unlearning", "acc": share(0.89), "lost": 0.01, "asr_of_reversed": {"3": share(0.5)}}],
          "least_lost": ["unlearning"], "rates": RATES}


def sections(tree):
    runs = find_runs(tree.root)
    return write_report(runs, grade(tree.root, runs), tree.root)


def said(section):
    return " ".join(block.words for block in section.blocks if isinstance(block, Text))


def test_the_report_opens_with_the_verdict_its_errors_and_the_cheapest_repair(tree):
    tree.run("stranger/verdict", "audit_model.py", method=METHOD)
    first, *others = sections(tree)
    assert first.title == "Verdict" and "homework" not in " ".join(section.title for section in others)
    opening = [block.words for block in first.blocks[:3]]
    assert opening[0] == "SUSPECT: this model shows a sign of a backdoor to label 3 (cat)."
    assert "false alarm on 1 of 6 benign models on digits; it missed the backdoor of 1 of 4" in opening[1]
    assert opening[2] == ("Of the repaired models unlearning lost least clean accuracy, 1.00 points; the reversed "
                          "trigger of label 3 still reaches 50.0 % there.")
    evidence, repaired, rates = (block for block in first.blocks if isinstance(block, Table))
    assert [[cell.text for cell in row] for row in evidence.rows] == [
        ["Neural Cleanse", "3", "3 of 3 searches"], ["STRIP", "–", "calibrated"]]
    assert [row[2].text for row in repaired.rows] == ["0.00", "2.00", "1.00"]
    assert repaired.rows[1][3].text.startswith("5.00") and len(rates.rows) == 3


def test_without_a_sign_it_says_that_this_is_no_proof(tree):
    tree.run("verdict", "audit_model.py", method={
        **METHOD, "verdict": "no sign of a backdoor", "targets": [], "target_classes": [], "missing": ["strip"],
        "repaired": [{**row, "asr_of_reversed": {}} for row in METHOD["repaired"]], "rates": []})
    text = said(sections(tree)[0])
    assert "NO SIGN OF A BACKDOOR was found, which is not a proof" in text and "SUSPECT" not in text
    assert "has not been measured" in text and "Not finished, and so not weighed: strip." in text
    assert "reversed trigger of label" not in text


def test_no_audit_no_verdict(tree):
    tree.attack("badnets", "badnets", 0.9, 1.0)
    assert audit_section(find_runs(tree.root)) is None
    assert any("homework" in section.title for section in sections(tree))


@pytest.mark.parametrize("name", METHOD.keys() - {"name"})
@pytest.mark.parametrize("value", [None, 3, "x", [3], [{}], {"a": 1}, [None], [[]]])
def test_a_damaged_verdict_is_a_broken_run_or_still_a_report(tree, name, value):
    tree.run("verdict", "audit_model.py", method={**METHOD, name: value})
    run, = find_runs(tree.root)
    if run.state != BROKEN:
        sections(tree)


def test_a_missing_entry_is_a_broken_run(tree):
    tree.run("verdict", "audit_model.py", method={name: value for name, value in METHOD.items() if name != "repaired"})
    assert find_runs(tree.root)[0].state == BROKEN
