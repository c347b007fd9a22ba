"""Intervals and equivalence against closed cases, scipy, and simulated coverage."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from stkd_utils import stats


def test_interval_of_three_values_by_hand():
    result = stats.interval([1, 2, 3])
    assert (result.mean, result.sd, result.n) == (2.0, 1.0, 3)
    assert result.half_width == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert (result.low + result.high) / 2 == pytest.approx(2.0)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_interval_equals_that_of_scipy(confidence):
    values = [0.931, 0.927, 0.935, 0.929]
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(confidence)
    result = stats.interval(values, confidence)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))


def test_one_value_has_no_interval():
    result = stats.interval([0.93])
    assert result.mean == 0.93 and result.n == 1
    assert all(math.isnan(value) for value in (result.low, result.high, result.sd, result.half_width))


@pytest.mark.parametrize("values", [[], [0.9, math.nan], [0.9, math.inf], [[0.9, 0.8]]])
def test_useless_values_are_refused(values):
    with pytest.raises(ValueError, match="^Statistics need a flat list of at least one value"):
        stats.interval(values)


def test_texts():
    assert stats.interval([0.929, 0.931, 0.933]).percent() == "93.1 ± 0.5 % (n = 3)"
    assert stats.interval([0.93]).percent() == "93.0 % (n = 1)"
    assert stats.interval([0.01, 0.02, 0.03]).points(2) == "+2.00 ± 2.48 points (n = 3)"
    assert stats.interval([-0.01]).points() == "−1.0 points (n = 1)"
    assert str(stats.interval([1, 2, 3])) == "2 ± 2.484 (n = 3)"


def test_pairing_removes_what_the_seed_does_to_both():
    seed_effect = np.array([0.90, 0.80, 0.70])
    noise = np.array([0.001, -0.001, 0.0])
    result = stats.paired(seed_effect + 0.02 + noise, seed_effect)
    assert result.mean == pytest.approx(0.02)
    assert result.half_width < 0.01 < stats.interval(seed_effect).half_width


def test_unequal_numbers_of_seeds_are_refused():
    with pytest.raises(ValueError, match="^Paired values need one pair per seed; got 3 and 1 values"):
        stats.paired([1, 2, 3], [1])


def test_intervals_cover_the_mean_as_often_as_they_say():
    samples = np.random.default_rng(0).normal(0.9, 0.01, size=(2000, 4))
    intervals = [stats.interval(sample) for sample in samples]
    covered = np.mean([result.low <= 0.9 <= result.high for result in intervals])
    assert scipy_stats.binomtest(round(covered * 2000), 2000, 0.95).pvalue > 0.001


def test_equivalence_equals_two_one_sided_tests():
    a, b, margin = [0.931, 0.927, 0.935, 0.929], [0.930, 0.929, 0.933, 0.930], 0.005
    gap = np.subtract(a, b)
    above = scipy_stats.ttest_1samp(gap, -margin, alternative="greater").pvalue
    below = scipy_stats.ttest_1samp(gap, margin, alternative="less").pvalue
    result = stats.equivalence(a, b, margin)
    assert result.p == pytest.approx(max(above, below))
    assert result.equivalent is True
    assert (result.interval, result.margin) == (stats.paired(a, b, confidence=0.9), margin)


@pytest.mark.parametrize("shift", np.linspace(-0.02, 0.02, 9))
def test_equivalent_exactly_when_the_interval_lies_within_the_margin(shift):
    a, b = np.array([0.91, 0.93, 0.92]) + shift, [0.911, 0.928, 0.921]
    result = stats.equivalence(a, b, 0.01)
    assert result.equivalent == (max(abs(result.interval.low), abs(result.interval.high)) < 0.01)


def test_equivalence_does_not_depend_on_the_order():
    a, b = [0.91, 0.93, 0.92], [0.90, 0.93, 0.93]
    assert stats.equivalence(a, b, 0.02).p == pytest.approx(stats.equivalence(b, a, 0.02).p)


def test_a_true_difference_of_the_margin_is_called_equivalent_at_most_at_the_level():
    gaps = np.random.default_rng(1).normal(0.01, 0.005, size=(2000, 5))
    found = sum(stats.equivalence(gap, np.zeros(5), 0.01).equivalent for gap in gaps)
    assert scipy_stats.binomtest(found, 2000, 0.05).pvalue > 0.001


def test_equal_differences_and_single_pairs():
    assert stats.equivalence([0.5, 0.5], [0.5, 0.5], 0.01).p == 0
    assert stats.equivalence([0.75, 0.75], [0.5, 0.5], 0.01).p == 1
    assert stats.equivalence([0.75, 0.75], [0.5, 0.5], 0.25).p == 1
    single = stats.equivalence([0.9], [0.9], 0.01)
    assert math.isnan(single.p) and single.equivalent is False
    assert str(single).endswith("a single pair decides nothing")


def test_equivalence_says_what_it_shows():
    close = stats.equivalence([0.931, 0.929, 0.930], [0.930, 0.930, 0.930], 0.01)
    assert str(close).startswith("equivalent within ± 1 points: ") and ", 90 % interval, p = " in str(close)
    far = stats.equivalence([0.95, 0.91, 0.93], [0.93, 0.93, 0.93], 0.01)
    assert str(far).startswith("not shown to be equivalent within ± 1 points: ")


@pytest.mark.parametrize("margin", [0, -0.01, math.nan, math.inf])
def test_a_margin_must_be_above_zero(margin):
    with pytest.raises(ValueError, match="^The margin of an equivalence must be"):
        stats.equivalence([0.9, 0.8], [0.9, 0.8], margin)


def test_seeds_needed_is_the_first_number_that_is_enough():
    for sd, half_width in ((0.004, 0.005), (0.02, 0.005), (0.001, 0.1)):
        n = stats.seeds_needed(sd, half_width)

        def width(n, sd=sd):
            return scipy_stats.t.ppf(0.975, n - 1) * sd / math.sqrt(n)

        assert width(n) <= half_width and (n == 2 or width(n - 1) > half_width)


@pytest.mark.parametrize("sd, half_width", [(math.nan, 0.1), (-1, 0.1), (0.1, 0)])
def test_planning_without_a_spread_is_refused(sd, half_width):
    with pytest.raises(ValueError, match="Planning needs"):
        stats.seeds_needed(sd, half_width)
