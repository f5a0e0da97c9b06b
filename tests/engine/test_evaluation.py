"""Which images a figure is a share of."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.image_set import ImageSet
from data.triggers.pattern import PatternTrigger
from engine.measuring.evaluation import EvalSets, evaluate
from engine.measuring.scores import UNTESTED, Proportion, Score, last_within, log_figures, warn_of_chance

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2])


class Says(torch.nn.Module):
    """A model that calls an image what its first pixel's red says, in tenths."""

    def forward(self, pixels):
        return torch.nn.functional.one_hot((10 * pixels[:, 0, 0, 0]).round().long(), 3).float()


def sets_of(said, trigger):
    data = np.zeros((len(LABELS), 4, 4, 3), dtype=np.uint8)
    data[:, 0, 0, 0] = np.rint(25.5 * np.array(said))
    clean = ImageSet(data, LABELS, ("a", "b", "c"))
    return EvalSets.stamped("cpu", clean, trigger)


def corner(**aim):
    pattern, mask = np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4, 1), np.uint8)
    pattern[-1, -1], mask[-1, -1] = 255, 1
    return PatternTrigger(pattern, mask, 1.0, **aim)


def test_accuracy_outside_the_target_class_leaves_its_images_out_and_counts_all_others():
    """Of the target's three images all are wrong, of the five others three are right."""
    found = evaluate(Says(), sets_of([1, 1, 1, 1, 0, 2, 2, 0], corner(target=0)))
    assert found.outside_target.as_dict()["value"] == 3 / 5 and found.outside_target.n == 5
    assert found.figures()["acc"]["value"] == 3 / 8


@pytest.mark.parametrize(("hits", "n", "classes", "is_chance"), [(1, 1, 4, False), (0, 1, 4, True), (1, 4, 4, True),
                                                               (2, 4, 10, False), (12, 100, 10, True),
                                                               (30, 100, 10, False)])
def test_few_images_are_called_chance_only_where_they_are_not_above_it(hits, n, classes, is_chance, caplog):
    share = Proportion(hits, n)
    warn_of_chance(replace(UNTESTED, clean=Score(0.0, share, share)), classes, is_attacked=False)
    assert ("not above chance" in caplog.text) == is_chance


def test_a_low_asr_says_that_the_backdoor_was_not_learned_and_a_low_accuracy_that_nothing_was(caplog):
    low, high = (Score(0.0, share, share) for share in (Proportion(1, 100), Proportion(90, 100)))
    warn_of_chance(replace(UNTESTED, clean=high, triggered=low), 10, is_attacked=True)
    assert caplog.text.count("learned") == 1 and "ASR 0.0100" in caplog.text and "the backdoor was not" in caplog.text
    warn_of_chance(replace(UNTESTED, clean=low, triggered=high), 10, is_attacked=True)
    assert "ACC 0.0100 is not above chance (0.1000 for 10 classes): nothing was learned" in caplog.text


def test_without_one_target_there_is_no_such_figure():
    found = evaluate(Says(), sets_of([0] * 8, corner(target=None, num_classes=3)))
    assert "acc_outside_target" not in found.figures()
    assert "acc_outside_target" not in evaluate(Says(), sets_of([0] * 8, None)).figures()


def test_the_last_place_that_loses_little_is_by_the_first_and_not_by_the_best():
    assert last_within([0.5, 0.9, 0.5, 0.4], 0.0) == 2 and last_within([0.5, 0.45, 0.4, 0.45], 0.05) == 3
    assert last_within([0.9, 0.5], 0.1) == 0


def test_a_line_of_the_log_says_asr_first_and_then_acc(caplog):
    low, high = (Score(0.0, share, share) for share in (Proportion(1, 4), Proportion(3, 4)))
    with caplog.at_level("INFO", "backdoor"):
        log_figures("before", replace(UNTESTED, clean=high, triggered=low))
    assert caplog.messages == ["before: ASR 0.2500, ACC 0.7500"]
