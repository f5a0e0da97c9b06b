"""A damaged file is refused in one line that names the field."""
import json

import pytest

from reporting.schema import CHECKS, check_results

SHARE = {"value": 0.5, "interval": [0.4, 0.6], "n": 10}
RESULTS = {"script": "a.py", "seconds": 1, "acc": SHARE, "method": {
    "name": "ANP", "sweep": [{"threshold": None, "pruned": 0, "acc": SHARE}], "labels": [{"norm": [1, 2]}]}}


def test_a_sound_result_passes_with_entries_that_nobody_reads():
    check_results({**RESULTS, "later": {"what": ["ever"]}, "robust_acc": None})


@pytest.mark.parametrize("change, field", [
    ({"seconds": True}, "seconds"), ({"seconds": 10**400}, "seconds"), ({"seconds": 1e16}, "seconds"),
    ({"script": None}, "script"), ({"width": "64"}, "width"), ({"acc": {**SHARE, "value": 0.7}}, "acc"),
    ({"acc": {**SHARE, "n": 0}}, "acc.n"), ({"acc": {**SHARE, "value": 1.1}}, "acc.value"),
    ({"acc": {**SHARE, "interval": [0.4]}}, "acc.interval"), ({"acc": 0.5}, "acc"), ({"method": None}, "method"),
    ({"method": {"sweep": [{"asr": 1}]}}, "method.sweep.0.asr"), ({"method": {"labels": [{"norm": [1]}]}},
                                                                   "method.labels.0.norm"),
    ({"method": {"mean_entropy": {"clean": "x"}}}, "method.mean_entropy.clean"), ({"spec": {"arch": 3}}, "spec.arch"),
    ({"method": {"name": "audit"}}, "method.targets")])
def test_what_is_wrong_is_named_in_one_line(change, field):
    with pytest.raises(ValueError) as refused:
        check_results({**RESULTS, **change})
    text = str(refused.value)
    assert text.startswith(f"{field}: ") and "\n" not in text and len(text) < 200


def test_nan_is_no_figure():
    with pytest.raises(ValueError, match=r"^acc\.value: .*"):
        check_results(json.loads(json.dumps({**RESULTS, "acc": {**SHARE, "value": float("nan")}})))


def test_a_config_needs_its_arguments():
    CHECKS["config.json"]({"script": "a.py", "arguments": {"epochs": 3, "other": [1]}})
    for config in ({}, {"arguments": None}, {"arguments": {"epochs": "3"}}, {"script": 3, "arguments": {}}):
        with pytest.raises(ValueError):
            CHECKS["config.json"](config)


@pytest.mark.parametrize("value, is_sound", [
    (0.5, True), (None, True), ("0.5", False), ([0.5], True), ({**SHARE, "value": 2}, False), ({}, False),
    ([[1]], False), (SHARE, True)])
def test_a_figure_that_a_scripts_row_names_is_checked_in_that_scripts_results(value, is_sound):
    results = {"script": "attacks.wanet", "seconds": 1, "method": {"noise_acc": value}}
    check_results({**results, "script": "attacks.dfst"})
    if is_sound:
        check_results(results)
    else:
        with pytest.raises(ValueError, match=r"^method\.noise_acc: expected a number, a share, or a list of those$"):
            check_results(results)
