"""Spearman's rank correlation, in which infinite values are the largest."""

import numpy as np
from jaxtyping import Float, Real


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


def _ranks(v: Real[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.asarray([(v < a).sum() + 0.5 * ((v == a).sum() - 1) for a in v])
