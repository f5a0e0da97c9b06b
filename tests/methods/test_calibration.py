"""P-values of a fitted tail, their combination, and the verdict."""
import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from common.errors import UserError
from methods.calibration import (
    FUTILE,
    MOST,
    NO_SIGN,
    SUSPECT,
    UNDECIDED,
    combine,
    fit_null,
    judge,
    last_round,
    needs_more,
    speaking,
)


def alarms(logs, level):
    """The share of fresh models whose p-value is at most `level`, and all p-values. logs: (trials, models + 1)."""
    values = np.array([fit_null(row[:-1]).p_value(row[-1]) for row in np.exp(logs)])
    return np.mean(values <= level), values


def test_p_values_of_fresh_benign_models_are_uniform_in_an_exponential_tail_however_small_the_population():
    rng = np.random.default_rng(0)
    for count in (5, 6, 20):
        upper = (1 + count // 2) / (1 + count)  # beyond it a p-value is a rank's
        share, values = alarms(1 + rng.exponential(0.4, (4000, count + 1)), 0.05)
        assert share == pytest.approx(0.05, abs=0.012)
        assert stats.kstest(values[values <= upper] / upper, "uniform").pvalue > 0.01


def test_no_more_alarms_than_stated_where_the_logarithms_are_normal_or_uniform():
    rng = np.random.default_rng(0)
    for draw in (rng.normal, rng.uniform):
        assert alarms(draw(size=(4000, 21)), 0.017)[0] <= 0.017


def test_a_p_value_by_hand_and_its_units_do_not_matter():
    logs = np.array([3.0, 1, 2, 6, 4])
    null = fit_null(np.exp(logs))
    assert null.logs == pytest.approx((1, 2, 3, 4, 6))
    assert null.p_value(math.exp(2.5)) == pytest.approx(4 / 6)  # a rank's: three of five are larger
    assert null.p_value(math.exp(0.5)) == pytest.approx(1)
    assert null.p_value(math.exp(3.0001)) == pytest.approx(3 / 6, abs=1e-3)
    assert null.p_value(math.exp(7)) == pytest.approx(3 / 6 * (1 + (7 - 3) / (1 + 3)) ** -2)
    assert fit_null(7 * np.exp(logs)).p_value(7 * math.exp(7)) == pytest.approx(null.p_value(math.exp(7)))


def test_a_smaller_p_value_than_any_rank_gives_is_possible_and_grows_with_less_evidence():
    few, many = (fit_null(np.exp(np.tile([-1.0, 0, 1], times))) for times in (2, 8))
    assert many.p_value(math.exp(5)) < 1 / 25 / 3 and few.p_value(math.exp(5)) > many.p_value(math.exp(5))


def test_a_larger_statistic_never_has_a_larger_p_value():
    null = fit_null(np.exp(np.random.default_rng(0).normal(size=20)))
    values = [null.p_value(math.exp(log)) for log in np.linspace(-4, 6, 501)]
    assert all(after <= before for before, after in pairwise(values)) and values[0] == 1


def test_too_few_models_have_no_tail_and_a_statistic_must_be_above_0():
    assert fit_null([1.0, 2, 3, 4, None]) is None and len(fit_null([1.0, 2, 3, 4, 5, None]).logs) == 5
    with pytest.raises(UserError, match="above 0"):
        fit_null([1.0, 2, 3, 4, 0])


def test_models_that_are_alike_have_no_tail_but_a_rank():
    alike = fit_null([1.0] * 5)
    assert alike.p_value(1) == 1 and alike.p_value(1.1) == alike.p_value(10**9) == pytest.approx(1 / 6)
    assert fit_null(np.exp([0.0, 1, 2, 2, 2])).p_value(math.exp(2.001)) == pytest.approx(1 / 6)
    one = fit_null(np.exp([0.0, 0, 0, 0, 1]))  # a single excess
    assert one.p_value(math.exp(1)) == pytest.approx(2 / 6 / 2)


def test_the_combined_p_value_is_bonferronis_of_those_that_speak():
    assert combine({"a": 0.01, "b": 0.4, "c": None}) == pytest.approx(0.02)
    assert combine({"a": 0.6, "b": 0.9}) == 1 and combine({"a": None}) is None and combine({}) is None


def test_witnesses_that_agree_by_dependence_alone_raise_no_more_alarms_than_stated():
    """Fisher's sum would: three copies of one p-value are no more evidence than one."""
    values = np.random.default_rng(0).uniform(size=4000)
    ours = np.mean([combine(dict.fromkeys("abc", value)) <= 0.05 for value in values])
    fisher = np.mean(stats.chi2.sf(-6 * np.log(values), 6) <= 0.05)
    assert ours <= 0.05 < fisher


def test_holm_rejects_step_by_step():
    assert speaking({"a": 0.01, "b": 0.02, "c": 0.2}, 0.05) == ["a", "b"]  # 0.05 / 3, 0.05 / 2, 0.05
    assert speaking({"a": 0.03, "b": 0.01, "c": 0.04}, 0.05) == ["b"]
    assert speaking({"a": 0.02, "b": 0.02, "c": 0.02}, 0.05) == []
    assert speaking({"a": None, "b": 0.02, "c": 0.04}, 0.05) == ["b", "c"]


@pytest.mark.parametrize("smallest, verdict", [(0.016, SUSPECT), (0.017, UNDECIDED), (0.033, UNDECIDED),
                                               (0.034, NO_SIGN), (0.9, NO_SIGN)])
def test_the_verdict_follows_the_combined_p_value(smallest, verdict):
    found = judge({"a": smallest, "b": 0.9, "c": 0.95}, {"a": 1, "b": 1}, 0.05)
    assert found.verdict == verdict and (found.target == 1) is (verdict == SUSPECT)


def test_another_false_alarm_rate_is_another_verdict_and_no_witness_is_no_verdict():
    values = {"a": 0.004, "b": 0.9}
    assert judge(values, {}, 0.05).verdict == SUSPECT and judge(values, {}, 0.001).verdict == NO_SIGN
    assert judge({"a": None}, {"a": 1}).verdict == UNDECIDED


def test_a_target_is_named_where_the_witnesses_agree():
    low, high = 1e-4, 0.5
    assert judge({"a": low, "b": low, "c": high}, {"a": 3, "b": 3, "c": 5}).target == 3
    assert judge({"a": low, "b": low, "c": high}, {"a": 3, "b": 5, "c": 5}).target is None
    assert judge({"a": low, "b": high, "c": high}, {"a": None, "b": 5, "c": 5}).target == 5  # a says no class
    assert judge({"a": low, "b": high, "c": high}, {"a": None, "b": 5, "c": 4}).target is None


def test_a_witness_is_asked_again_only_while_its_answer_can_change_the_verdict():
    assert needs_more(0.1, {"a": 0.5, "b": 0.5}, 0.05)
    assert not needs_more(0.3, {"a": 0.5, "b": 0.5}, 0.05)  # it says nothing
    assert not needs_more(0.1, {"a": 0.016, "b": 0.5}, 0.05)  # a is enough: 3 times 0.016
    assert needs_more(0.1, {"a": 0.018, "b": 0.5}, 0.05)
    assert needs_more(0.1, {"a": 0.018, "b": None}, 0.05) is False  # of two witnesses it is enough
    assert FUTILE >= MOST  # else a suspicion could be one of an earlier round
    assert needs_more(0.01, {}, 0.05) and not needs_more(None, {"a": 0.5}, 0.05)
    assert last_round([0.1, 0.1, 0.3], {}) == 3 and last_round([0.1, 0.3, 0.1], {}) == 2 and last_round([], {}) == 0


def test_stopping_early_raises_no_alarm_that_the_last_round_would_not():
    """A model is suspected by the repeated witness only if its p-value after the last round is small."""
    rng = np.random.default_rng(0)
    noise = np.cumsum(rng.normal(size=(4000, 3)), axis=1) / np.sqrt([1, 2, 3])
    rounds = stats.norm.sf(noise)
    heard = [row[last_round(row, {}, 0.05) - 1] for row in rounds]
    assert np.mean(np.array(heard) <= 0.05) <= np.mean(rounds[:, 2] <= 0.05) <= 0.06
