"""Rank correlation against SciPy's."""

import numpy as np
import pytest
import scipy.stats

from sandbox.theory.ranks import order_of_medians, rank_correlation

X = np.asarray([10, 20, 50, 100, 200])


@pytest.mark.parametrize("seed", range(6))
def test_spearman_is_scipys_with_ties(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 5, 12), rng.normal(size=12).round(1)
    want = scipy.stats.spearmanr(x, y).statistic
    assert rank_correlation(x, y) == pytest.approx(want, abs=1e-12)


def test_what_never_happened_comes_last():
    y = np.array([1.0, 2.0, np.inf, np.inf])
    assert rank_correlation(np.arange(4), y) == pytest.approx(0.948683298051)
    assert rank_correlation(np.arange(3), np.array([3, 2, 1])) == -1


def test_a_constant_has_no_order():
    assert np.isnan(rank_correlation(np.arange(3), np.ones(3)))


def test_the_order_of_medians_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(8):
        values = rng.integers(1, 9, (5, 7)).astype(float)  # with ties
        want = scipy.stats.spearmanr(X, np.median(values, 1)).statistic
        assert order_of_medians(X, values).value == pytest.approx(want, abs=1e-12)


def test_one_swap_and_censored_medians():
    falls = np.asarray([50, 40, 30, 20, 10.0])
    assert order_of_medians(X, np.tile(falls[:, None], (1, 5)))[:3] == (-1, -1, -1)
    one = np.tile(falls[:, None], (1, 4))
    assert np.isnan(order_of_medians(X, one).lower)  # too few for an interval
    swapped = one[[0, 1, 2, 4, 3]]  # 1 - 6 * 2 / (5 * 24)
    assert order_of_medians(X, swapped).value == pytest.approx(-0.9)
    most = one.copy()
    most[0, :3] = np.inf  # beyond the cap: still the slowest
    assert order_of_medians(X, most).value == -1
    most[1, :2] = np.inf  # the mean of a finite and an infinite one: ties with it
    want = scipy.stats.spearmanr(X, [5, 5, 3, 2, 1]).statistic
    assert order_of_medians(X, most).value == pytest.approx(want)
    assert order_of_medians(X, np.full((5, 3), np.inf)).value == 0


def test_a_resample_takes_the_same_seeds_in_every_row():
    own = 10.0 ** np.arange(8)  # seeds differ far more than rows do
    values = own[None, :] * np.linspace(5, 4, 5)[:, None]
    assert order_of_medians(X, values)[:3] == (-1, -1, -1)
    shuffled = np.stack([np.roll(row, i) for i, row in enumerate(values)])
    assert order_of_medians(X, shuffled).upper > -1
