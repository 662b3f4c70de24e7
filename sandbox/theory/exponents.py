r"""Exponents of sample complexity from runs of which some never got there.

A run that has not reached its level within its cap is *right-censored*: it says only
that it needs more. Two statistics take that as it is.

The Kaplan-Meier estimate of the share of runs that have not arrived by n,

    S(n) = prod_{n_j <= n} (1 - e_j / r_j),

where e_j runs arrive at n_j and r_j are still on their way (neither arrived before nor
given up); the median is the first n with S(n) <= 1/2, infinite if there is none.

The exponent p of a power law n ~ x^p, by maximum likelihood of log-normal times,

    log n = a + p log x + sigma e,   e ~ N(0, 1),
    L = prod_{arrived} phi(z) / sigma * prod_{censored} (1 - Phi(z)),

with z the standardised residual. Ordinary least squares is the case without censoring.
It is found by expectation-maximisation: a censored residual is replaced by its mean
given that it lies beyond the cap, h(z) = phi(z) / (1 - Phi(z)), and its variance by
1 + z h - h^2. Intervals are percentiles of a bootstrap over runs within each x.

Sources: Kaplan and Meier (1958); Tobin (1958) for the censored regression; Efron (1981)
for resampling censored data as pairs of time and status.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from scipy.special import log_ndtr

from sandbox.errors import require
from sandbox.text import number
from sandbox.theory.sample_complexity import LEAST, Estimate, percentiles

Runs = Real[np.ndarray, " R"]
Rows = Float[np.ndarray, "D R"]
Yes = Bool[np.ndarray, "D R"]
DRAWS = 2000
MAX_STEPS = 2000
TOLERANCE = 1e-7


class Exponent(NamedTuple):
    """A fitted power law n = exp(log_factor) x^value.

    Attributes:
      value: the exponent p; NaN unless runs arrived at two or more x.
      lower: 2.5% bootstrap quantile.
      upper: 97.5% bootstrap quantile.
      log_factor: a, in nats.
      sigma: spread of log n about the line, in nats.
      runs: that entered.
      censored: of these, runs that had not arrived by their cap.
      draws: exponents of the resamples, NaN where one could not be fitted.
    """

    value: float
    lower: float
    upper: float
    log_factor: float
    sigma: float
    runs: int
    censored: int
    draws: Float[np.ndarray, " D"]

    @property
    def estimate(self) -> Estimate:
        """Value and interval."""
        return Estimate(self.value, self.lower, self.upper, self.runs)

    def to_json(self) -> dict[str, Any]:
        """The exponent as JSON data."""
        counts = {"runs": self.runs, "censored": self.censored}
        return {**self.estimate.to_json(), "sigma": number(self.sigma), **counts}

    def at(self, x: Real[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """The fitted median of n at x."""
        return np.asarray(np.exp(self.log_factor + self.value * np.log(x)))


def survival_median(n: Runs, caps: Runs | float) -> float:
    """Kaplan-Meier median of the samples that runs need; inf if fewer than half arrive.

    Args:
      n: samples to the level, inf if not within the cap; NaN does not count.
      caps: where each run was given up.
    """
    return float(_medians(*(a[None] for a in _observed(n, caps)))[0])


def _medians(time: Rows, arrived: Yes, known: Yes) -> Float[np.ndarray, " D"]:
    """Kaplan-Meier median of every row; NaN where no run counts.

    Runs that arrive together count one after the other, before those given up then:
    (r - 1) / r (r - 2) / (r - 1) = 1 - 2 / r.
    """
    order = np.lexsort((~arrived, np.where(known, time, np.inf), ~known), axis=1)
    time, arrived, known = (
        np.take_along_axis(a, order, 1) for a in (time, arrived, known)
    )
    at_risk = known.sum(1)[:, None] - np.arange(known.shape[1])
    alive = np.where(arrived & known, 1 - 1 / np.maximum(at_risk, 1), 1.0).cumprod(1)
    below = (alive <= 0.5 + 1e-12) & known
    first = np.take_along_axis(time, below.argmax(1)[:, None], 1)[:, 0]
    median = np.where(below.any(1), first, np.inf)
    return np.where(known.any(1), median, np.nan)


def survival_estimate(
    n: Runs, caps: Runs | float, *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Kaplan-Meier median with its bootstrap interval; arguments as `survival_median`.

    An end of the interval is infinite where so many resamples do not arrive; fewer than
    five runs have none.
    """
    count = int((~np.isnan(n)).sum())
    if count == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    ends, seen = (np.nan, np.nan), _observed(n, caps)
    if count >= LEAST:
        rows = _resample(np.ones(len(n)), draws, seed)
        ends = percentiles(_medians(*(a[rows] for a in seen)))
    return Estimate(survival_median(n, caps), *ends, count)


def fit_exponent(
    x: Runs, n: Runs, caps: Runs | float, *, draws: int = DRAWS, seed: int = 0
) -> Exponent:
    """Fits n ~ x^p to runs, censored ones included.

    Fits of other samples of the same runs with the same seed see the same resamples, so
    that the difference of two exponents has `a.draws - b.draws` as its resamples.

    Args:
      x: what each run's problem has of size, e.g. d; positive.
      n: samples it needed, inf if more than its cap, NaN if it does not count.
      caps: where each run was given up.
      draws: resamples; 0 gives no interval.
      seed: of the resampling.
    """
    x = np.asarray(x, float)
    time, arrived, known = _observed(n, caps)
    require(len(x) == len(time), "x and n must have one entry a run each.")
    require(bool((x > 0).all()), "x must be positive.")
    safe = np.where(known, np.maximum(time, 1e-300), 1.0)
    rows = (np.log(x), np.log(safe), arrived, known)
    value, log_factor, sigma = (float(v[0]) for v in _fit(*(a[None] for a in rows)))
    index = _resample(x, draws, seed)
    drawn = _fit(*(a[index] for a in rows))[0] if draws else np.empty(0)
    ends, counts = percentiles(drawn), (int(known.sum()), int((known & ~arrived).sum()))
    return Exponent(value, *ends, log_factor, sigma, *counts, drawn)


def difference(a: Exponent, b: Exponent) -> Estimate:
    """Exponent a minus exponent b, from the same runs with the same seed."""
    ends = percentiles(a.draws - b.draws)
    return Estimate(a.value - b.value, *ends, min(a.runs, b.runs))


def local_slopes(
    x: Runs, n: Runs, caps: Runs | float, *, draws: int = DRAWS, seed: int = 0
) -> tuple[Float[np.ndarray, " G"], list[Estimate]]:
    """Slope of log median n between each x and the next, with bootstrap intervals.

    A single fit hides where the points bend; these do not. A slope next to a median
    that was not reached is infinite or NaN.

    Returns:
      Geometric means of neighbouring x, and the slopes there.
    """
    x, seen = np.asarray(x, float), _observed(n, caps)
    at = np.unique(x)

    def slopes(rows: Int[np.ndarray, "D R"]) -> np.ndarray:
        own = [rows[:, x == v] for v in at]  # a resample keeps every x in its place
        m = np.stack([_medians(*(a[i] for a in seen)) for i in own], 1)
        with np.errstate(invalid="ignore"):
            return np.diff(np.log(m), axis=1) / np.diff(np.log(at))

    point = slopes(np.arange(len(x))[None])[0]
    each = slopes(_resample(x, draws, seed))
    runs = [int(seen[2][x == v].sum()) for v in at]
    return np.sqrt(at[1:] * at[:-1]), [
        Estimate(float(v), *percentiles(drawn), min(r))
        for v, drawn, r in zip(point, each.T, pairwise(runs), strict=True)
    ]


@dataclass(frozen=True)
class Scaling:
    """Runs of problems of several sizes.

    Attributes:
      runs: size, e.g. d -> samples to the level and cap of its runs, as `fit_exponent`
        takes them.
    """

    runs: Mapping[int | float, tuple[Runs, Runs]]

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Size, samples and cap of every run."""
        n, caps = (np.concatenate(v) for v in zip(*self.runs.values(), strict=True))
        counts = [len(n) for n, _ in self.runs.values()]
        return np.repeat(np.asarray(list(self.runs), float), counts), n, caps

    @property
    def fewest(self) -> int:
        """Runs of the size that has the fewest, those that do not count included."""
        return min(len(n) for n, _ in self.runs.values())

    @property
    def caps(self) -> Float[np.ndarray, " G"]:
        """Largest cap of every size."""
        caps = [np.max(c, initial=0, where=c > 0) for _, c in self.runs.values()]
        return np.asarray(caps, float)

    def medians(self, *, draws: int = DRAWS) -> list[Estimate]:
        """Kaplan-Meier median of every size."""
        return [survival_estimate(*r, draws=draws) for r in self.runs.values()]

    def exponent(self, *, draws: int = DRAWS, seed: int = 0) -> Exponent:
        """Fitted power law; the resamples of the same seed are paired."""
        return fit_exponent(*self.rows, draws=draws, seed=seed)

    def slopes_to_json(self, *, draws: int = DRAWS) -> list[dict[str, Any]]:
        """Local slopes as JSON data, with the geometric mean of the two sizes."""
        x, slopes = local_slopes(*self.rows, draws=draws)
        return [
            {"d": round(float(d), 1), **e.to_json("slope")}
            for d, e in zip(x, slopes, strict=True)
        ]


def _observed(n: Runs, caps: Runs | float) -> tuple[np.ndarray, ...]:
    """Time on record, whether the run arrived then, and whether it counts."""
    n = np.asarray(n, float)
    caps = np.broadcast_to(np.asarray(caps, float), n.shape)
    require(
        bool(np.isfinite(caps[~np.isnan(n)]).all()),
        "caps must be finite: a run that never arrived was given up somewhere.",
    )
    known, arrived = ~np.isnan(n), n <= caps
    return np.where(arrived, n, caps), arrived, known


def _resample(x: Runs, draws: int, seed: int) -> Int[np.ndarray, "D R"]:
    """Rows of every resample: as many of each x as there are."""
    rng = np.random.default_rng(seed)
    index = np.empty((draws, len(x)), int)
    for v in np.unique(x):
        rows = np.flatnonzero(x == v)
        index[:, rows] = rows[rng.integers(0, len(rows), (draws, len(rows)))]
    return index


def _fit(x: Rows, y: Rows, arrived: Yes, known: Yes) -> tuple[np.ndarray, ...]:
    """Slope, intercept and sigma of every resample; NaN where there is no slope."""
    w = known.astype(float)
    seen, late = known & arrived, known & ~arrived
    low = np.where(seen, x, np.inf).min(1)
    high = np.where(seen, x, -np.inf).max(1)
    fits = high > low
    total = np.maximum(w.sum(1), 1)
    mean_x = (w * x).sum(1) / total
    dx = w * (x - mean_x[:, None])
    spread = np.where(fits, (dx * x).sum(1), 1.0)
    expected, variance, before, step = y, 0.0, np.inf, 0
    while True:
        slope = (dx * expected).sum(1) / spread
        start = (w * expected).sum(1) / total - slope * mean_x
        rest = expected - start[:, None] - slope[:, None] * x
        sigma = np.sqrt((w * (rest**2 + variance)).sum(1) / total)
        moved = (np.abs(slope - before)[fits] > TOLERANCE).any()
        if not late.any() or step == MAX_STEPS or (step and not moved):
            return np.where(fits, slope, np.nan), start, sigma
        s = np.maximum(sigma, 1e-9)[:, None]
        mu = start[:, None] + slope[:, None] * x
        z = np.where(late, (y - mu) / s, 0.0)
        hazard = np.exp(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - log_ndtr(-z))
        expected = np.where(late, mu + s * hazard, y)
        variance = np.where(late, s**2 * np.maximum(1 + z * hazard - hazard**2, 0), 0.0)
        before, step = slope, step + 1
