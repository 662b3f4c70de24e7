"""Rank correlation against SciPy's."""

import numpy as np
import pytest
import scipy.stats

from sandbox.theory.ranks import rank_correlation


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
