"""Samples to accuracy and bootstrap intervals, against SciPy and by hand."""

import numpy as np
import pytest
import scipy.stats

from sandbox.theory.sample_complexity import (
    median_estimate,
    median_quotient,
    ratio,
    samples_to,
)


def test_samples_to_takes_the_first_evaluation_at_the_level():
    steps = np.array([0, 10, 20, 30])
    acc = np.array([[0.5, 0.9, 0.2, 1.0], [0.5, 0.6, 0.7, 0.89], [np.nan] * 4])
    assert samples_to(steps, acc, 0.9).tolist() == [10, np.inf, np.inf]


def test_samples_to_censors_beyond_each_seeds_own_cap():
    steps = np.array([0, 10, 20])
    acc = np.array([[0.5, 0.5, 1.0], [0.5, 0.5, 1.0]])
    got = samples_to(steps, acc, 0.9, cap=np.array([20, 19]))
    assert got.tolist() == [20, np.inf]


@pytest.mark.parametrize("n", [10, 11, 25])
def test_interval_agrees_with_scipy(n):
    v = np.random.default_rng(n).lognormal(size=n)
    ours = median_estimate(v)
    theirs = scipy.stats.bootstrap(
        (v,), np.median, n_resamples=10_000, method="percentile", random_state=1
    ).confidence_interval
    assert ours.value == pytest.approx(np.median(v))
    # Both quantiles fall on order statistics (or means of two): compare ranks.
    for a, b in ((ours.lower, theirs.low), (ours.upper, theirs.high)):
        assert abs((v < a).mean() - (v < b).mean()) <= 1.01 / n


def test_infinite_values_are_lower_bounds_and_nan_is_dropped():
    e = median_estimate(np.array([1.0, np.inf, np.inf, np.nan]))
    assert e.value == np.inf and e.n == 3
    assert median_estimate(np.array([1.0, 2.0, np.inf])).value == 2
    assert median_estimate(np.array([1.0, np.inf])).value == np.inf


def test_too_few_values_have_no_interval():
    assert median_estimate(np.array([])).n == 0
    for n in (1, 4):
        few = median_estimate(np.full(n, 3.0))
        assert few.value == 3 and np.isnan(few.lower) and np.isnan(few.upper)
    assert median_estimate(np.full(5, 3.0))[:3] == (3, 3, 3)


def test_ratio_counts_what_was_not_reached_on_its_side():
    top = np.array([4, np.inf, 4, np.inf, np.nan, 4])
    bottom = np.array([2, 2, np.inf, np.inf, 2, np.nan])
    got = ratio(top, bottom)
    assert got[:4].tolist() == [2, np.inf, 0, 1]  # the last is a tie
    assert np.isnan(got[4:]).all()


def test_a_quotient_of_medians_resamples_both():
    rng = np.random.default_rng(0)
    a, b = (np.exp(m + 0.3 * rng.normal(size=40)) for m in (2.0, 1.0))
    e = median_quotient(np.append(a, np.nan), b)
    assert e.value == np.median(a) / np.median(b) and e.n == 40
    # The error of a median of n normals is sigma sqrt(pi / 2 n), of a difference of two
    # independent ones sqrt(2) times that.
    width = 2 * 1.96 * 0.3 * np.sqrt(np.pi / 40)
    assert np.log(e.upper / e.lower) == pytest.approx(width, rel=0.4)
    assert median_quotient(np.full(5, np.inf), b)[:3] == (np.inf,) * 3
    assert median_quotient(np.full(5, np.inf), np.full(5, np.inf)).value == 1
    assert np.isnan(median_quotient(np.array([]), b).value)
    assert np.isnan(median_quotient(a[:4], b).lower)
