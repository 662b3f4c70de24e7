"""Spearman's rank correlation, in which infinite values are the largest."""

import numpy as np
from jaxtyping import Float, Real

from sandbox.theory.sample_complexity import DRAWS, LEAST, Estimate, percentiles


def rank_correlation(x: Real[np.ndarray, " n"], y: Real[np.ndarray, " n"]) -> float:
    """Pearson's correlation of the ranks, ties sharing their mean rank.

    Args:
      x: one variable; infinite where it never happened.
      y: the other.

    Returns:
      In [-1, 1], rounded to 12 digits, so that .8 is not below .8; NaN where either is
      constant.
    """
    a, b = _ranks(np.asarray(x)), _ranks(np.asarray(y))
    if a.std() == 0 or b.std() == 0:
        return np.nan
    return round(float(np.corrcoef(a, b)[0, 1]), 12)


def order_of_medians(
    x: Real[np.ndarray, " W"], values: Real[np.ndarray, "W S"], *, seed: int = 0
) -> Estimate:
    """Rank correlation of x and the medians of the rows, bootstrapped over columns.

    A resample takes the same columns (seeds, which share their samples) of every row.
    Infinite medians tie; where all tie there is no order, 0.

    Args:
      x: one number a row.
      values: infinite beyond the cap.
      seed: of the resampling.
    """
    n = values.shape[1]

    def order(medians: np.ndarray) -> float:
        return float(np.nan_to_num(rank_correlation(x, medians)))

    value = order(np.median(values, 1))
    if n < LEAST:
        return Estimate(value, np.nan, np.nan, n)
    pick = np.random.default_rng(seed).integers(0, n, (DRAWS, n))
    medians = np.median(values[:, pick], 2).T
    distinct, times = np.unique(medians, axis=0, return_counts=True)
    draws = np.repeat([order(row) for row in distinct], times)
    return Estimate(value, *percentiles(draws), n)


def _ranks(v: Real[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.asarray([(v < a).sum() + 0.5 * ((v == a).sum() - 1) for a in v])
