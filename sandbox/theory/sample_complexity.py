r"""Samples to accuracy, paired ratios, and bootstrap intervals over teachers.

n90 is the number of samples a student had seen at the first evaluation with accuracy at
least .90, infinite if none within its cap. Ratios are medians of per-teacher ratios, so
an infinite numerator is a lower bound and not a missing value. The interval is the
percentile bootstrap over teachers.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real

from sandbox.text import number

DRAWS = 10_000
LEAST = 5
"""Teachers that an interval needs: the 95% bootstrap of a median covers 93% of the time
from five on, and 76% with three."""


class Estimate(NamedTuple):
    """A statistic over teachers and its 95% interval.

    Attributes:
      value: the statistic; may be infinite, NaN if there is nothing to compute it from.
      lower: 2.5% bootstrap quantile; NaN with fewer than `LEAST` teachers.
      upper: 97.5% bootstrap quantile.
      n: teachers that entered.
    """

    value: float
    lower: float
    upper: float
    n: int

    def to_json(self, name: str = "value") -> dict[str, Any]:
        """The statistic, by name, and its interval as JSON data."""
        ends = [number(self.lower), number(self.upper)]
        return {name: number(self.value), "interval": ends}


def samples_to(
    steps: Real[np.ndarray, " R"],
    accuracy: Float[np.ndarray, "S R"],
    level: float,
    *,
    cap: Real[np.ndarray, " S"] | None = None,
) -> Float[np.ndarray, " S"]:
    """First recorded step of each seed with accuracy >= level, inf beyond its cap.

    Args:
      steps: samples seen at each evaluation.
      accuracy: one curve a seed; NaN never reaches.
      level: accuracy to reach.
      cap: largest number of samples that counts, per seed.
    """
    hit = np.asarray(accuracy) >= level
    first = np.where(hit.any(1), np.asarray(steps, float)[hit.argmax(1)], np.inf)
    return first if cap is None else np.where(first > cap, np.inf, first)


def median_estimate(values: Real[np.ndarray, " n"], *, seed: int = 0) -> Estimate:
    """Median over teachers with a percentile bootstrap interval.

    Infinite values are kept (they sort last); NaN values are dropped and not counted.

    Args:
      values: one number a teacher.
      seed: of the resampling.
    """
    v = np.asarray(values, float)
    v = v[~np.isnan(v)]
    n = len(v)
    value = float(np.median(v)) if n else np.nan
    if n < LEAST:
        return Estimate(value, np.nan, np.nan, n)
    rows = np.random.default_rng(seed).integers(0, n, (DRAWS, n))
    return Estimate(value, *percentiles(np.median(v[rows], 1)), n)


def median_quotient(
    a: Real[np.ndarray, " n"], b: Real[np.ndarray, " m"], *, seed: int = 0
) -> Estimate:
    """Median of a over median of b, resampled apart: their teachers are no pairs.

    Values are taken as by `median_estimate`; medians that are both infinite are a tie.
    """
    known = [v[~np.isnan(v)] for v in (np.asarray(a, float), np.asarray(b, float))]
    n, rng = min(map(len, known)), np.random.default_rng(seed)
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    rows = [rng.integers(0, len(v), (DRAWS, len(v))) for v in known]
    each = [
        np.median(np.vstack([v, v[r]]), 1) for v, r in zip(known, rows, strict=True)
    ]
    value, *drawn = ratio(*each)
    ends = percentiles(np.asarray(drawn)) if n >= LEAST else (np.nan, np.nan)
    return Estimate(float(value), *ends, n)


def percentiles(draws: Real[np.ndarray, " D"]) -> tuple[float, float]:
    """2.5% and 97.5% of the resamples that exist; NaN with fewer than forty of them."""
    v = np.sort(draws[~np.isnan(draws)])
    if len(v) < 40:
        return np.nan, np.nan
    low, high = int(0.025 * len(v)), int(np.ceil(0.975 * len(v))) - 1
    return float(v[low]), float(v[high])


def ratio(
    numerator: Real[np.ndarray, "..."], denominator: Real[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Paired (broadcast) ratio of sample counts, where infinite means "beyond the cap".

    inf / finite is infinite and finite / inf is 0, so that both count on their side of
    a median; inf / inf is a tie, 1. Anything over or under NaN is NaN, and so is 0 / 0.
    """
    top, bottom = np.asarray(numerator, float), np.asarray(denominator, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isinf(top) & np.isinf(bottom), 1.0, top / bottom)
