"""Known answers for the numbers over seeds: by hand, from published tables of power, and against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from ssl_pose import statistics as st


def test_mean_and_std_by_hand():
    assert st.mean_and_std([1.0, 3.0, 5.0]) == (3.0, 2.0)


def test_one_seed_has_a_mean_but_no_spread_no_interval_and_no_p_value():
    assert st.mean_and_std([2.5]) == (2.5, None)
    assert st.paired_interval([2.5]) is None
    assert st.paired_p_value([2.5]) is None
    assert st.detectable_effect(None, 1) is None
    assert st.seeds_to_detect(1.0, None) is None


def test_no_seed_at_all_is_an_error():
    with pytest.raises(ValueError, match="no seeds"):
        st.mean_and_std([])


def test_interval_of_three_differences_by_hand():
    low, high = st.paired_interval([1.0, 2.0, 3.0])  # t(0.975, 2) = 4.302653, std = 1
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)


def test_interval_and_p_value_agree_with_scipys_paired_test():
    generator = np.random.default_rng(0)
    first, second = generator.normal(40, 3, 7), generator.normal(38, 3, 7)
    test = stats.ttest_rel(first, second)
    assert st.paired_p_value(first - second) == pytest.approx(test.pvalue, rel=1e-10)
    expected = test.confidence_interval(0.9)
    assert st.paired_interval(first - second, alpha=0.1) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("differences", "p_value"), [([0.0, 0.0], 1.0), ([2.0, 2.0], 0.0)])
def test_equal_differences_decide_by_themselves(differences, p_value):
    assert st.paired_p_value(differences) == p_value


def test_holm_by_hand():
    p_values = [0.01, 0.04, 0.03, 0.005]  # 0.005 <= .05/4, 0.01 <= .05/3, 0.03 > .05/2: stop
    assert st.holm_levels(p_values) == pytest.approx([0.05 / 3, 0.025, 0.025, 0.0125])


def test_a_member_that_was_not_tested_still_counts_in_the_family():
    assert st.holm_levels([0.02, None]) == pytest.approx([0.025, 0.05])


def test_an_interval_at_holms_level_excludes_zero_exactly_where_holm_rejects():
    generator = np.random.default_rng(1)
    for _ in range(50):
        family = [generator.normal(shift, 1, 5) for shift in generator.uniform(0, 4, 6)]
        p_values = [st.paired_p_value(differences) for differences in family]
        rejected = holm_rejects(p_values)
        for number, (differences, level) in enumerate(zip(family, st.holm_levels(p_values), strict=True)):
            low, high = st.paired_interval(differences, level)
            assert (low > 0 or high < 0) == (number in rejected)


def holm_rejects(p_values: list[float]) -> set[int]:
    """Holm's procedure as the textbook has it: from the smallest p value on, until one is not rejected."""
    rejected: set[int] = set()
    for rank, number in enumerate(np.argsort(p_values)):
        if p_values[number] > st.ALPHA / (len(p_values) - rank):
            break
        rejected.add(int(number))
    return rejected


@pytest.mark.parametrize(("effect", "count"), [(0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_to_detect_agrees_with_the_published_table_of_the_paired_t_test(effect, count):
    assert st.seeds_to_detect(effect, 1.0) == count  # two-sided 5 %, power 80 %
    assert st.seeds_to_detect(effect * 7, 7.0) == count  # only the ratio to the spread matters


def test_seeds_to_detect_at_the_borders():
    assert st.seeds_to_detect(1.0, 0.0) == 2
    assert st.seeds_to_detect(0.0, 1.0) is None
    assert st.seeds_to_detect(1e-6, 1.0) is None  # more than MAX_SEEDS


@pytest.mark.parametrize("count", [2, 3, 8, 40])
def test_the_detectable_effect_is_found_with_probability_80_percent(count):
    effect = st.detectable_effect(2.5, count)
    assert st.power_of_test(effect, 2.5, count) == pytest.approx(0.8, abs=1e-6)


def test_power_agrees_with_simulated_experiments():
    generator = np.random.default_rng(2)
    samples = generator.normal(0.9, 1.5, (20_000, 6))
    found = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert st.power_of_test(0.9, 1.5, 6) == pytest.approx(found.mean(), abs=0.01)


@pytest.mark.parametrize(("interval", "delta", "expected"), [
    ((1.0, 9.0), 5.0, st.REPRODUCED),
    ((1.0, 4.0), 5.0, st.SMALLER),
    ((1.0, 4.0), None, st.REPRODUCED),
    ((-4.0, -1.0), 5.0, st.REVERSED),
    ((-4.0, 4.0), 5.0, st.ABSENT),
    ((-4.0, 4.0), None, st.UNDECIDED),
    ((-4.0, 6.0), 5.0, st.UNDECIDED),
    ((-6.0, 4.0), 5.0, st.UNDECIDED),
    ((0.0, 6.0), 5.0, st.UNDECIDED),  # the lower bound must be above zero
    ((math.nan, 6.0), 5.0, st.UNDECIDED),
    (None, 5.0, st.UNDECIDED),
])
def test_the_verdict_on_an_interval(interval, delta, expected):
    assert st.verdict(interval, delta) == expected


@pytest.mark.parametrize(("interval", "delta", "verdicts"), [
    ((-4.0, 6.0), 5.0, (st.UNDECIDED, st.ABSENT)),
    ((-8.0, 1.0), 5.0, (st.UNDECIDED, st.ABSENT)),
    ((1.0, 9.0), 5.0, (st.REPRODUCED, st.SMALLER)),
])
def test_a_verdict_changes_at_the_scale_that_is_named_and_not_before(interval, delta, verdicts):
    scale = st.scale_that_changes(interval, delta)
    assert scale == pytest.approx(max(map(abs, interval)) / delta)
    assert tuple(st.verdict([bound / factor for bound in interval], delta)
                 for factor in (scale * 0.999, scale * 1.001)) == verdicts


@pytest.mark.parametrize(("interval", "delta"), [
    ((1.0, 4.0), 5.0), ((-4.0, -1.0), 5.0), ((-4.0, 4.0), 5.0), ((-4.0, 4.0), None), (None, 5.0),
    ((math.nan, 6.0), 5.0),
])
def test_no_scale_changes_a_verdict_that_is_closed_or_has_no_interval(interval, delta):
    assert st.scale_that_changes(interval, delta) == math.inf
