"""Censored medians and exponents, against SciPy and against a direct maximisation."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from sandbox.errors import ConfigError
from sandbox.theory.exponents import (
    difference,
    fit_exponent,
    local_slopes,
    survival_median,
)


def make_runs(p=2.0, sigma=0.4, cap=np.inf, each=30, seed=0):
    rng = np.random.default_rng(seed)
    x = np.repeat([8.0, 16.0, 32.0, 64.0], each)
    n = np.exp(1.0 + p * np.log(x) + sigma * rng.normal(size=x.size))
    return x, np.where(n <= cap, n, np.inf)


@pytest.mark.parametrize("seed", range(5))
def test_the_median_is_scipys_kaplan_meier(seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 30, 25).astype(float)
    caps = rng.integers(5, 40, 25).astype(float)
    n = np.where(n <= caps, n, np.inf)
    data = scipy.stats.CensoredData(
        uncensored=n[np.isfinite(n)], right=caps[np.isinf(n)]
    )
    sf = scipy.stats.ecdf(data).sf
    below = sf.quantiles[sf.probabilities <= 0.5 + 1e-12]
    want = below[0] if len(below) else np.inf
    assert survival_median(n, caps) == want


def test_the_median_uses_what_left_early():
    # Three given up at 1 say nothing of later times: of the other four, two by 20.
    n = np.array([10.0, 20.0, 30.0, 40.0, np.inf, np.inf, np.inf])
    caps = np.array([50.0] * 4 + [1.0] * 3)
    assert survival_median(n, caps) == 20
    assert survival_median(np.full(3, np.inf), 5.0) == np.inf
    assert survival_median(np.array([np.nan, 4.0]), 5.0) == 4


def test_without_censoring_it_is_least_squares():
    x, n = make_runs()
    fit = fit_exponent(x, n, 1e9)
    line = scipy.stats.linregress(np.log(x), np.log(n))
    assert fit.value == pytest.approx(line.slope)
    assert fit.log_factor == pytest.approx(line.intercept)
    half = 1.96 * line.stderr
    assert fit.lower == pytest.approx(line.slope - half, abs=0.35 * half)
    assert fit.upper == pytest.approx(line.slope + half, abs=0.35 * half)
    assert fit.censored == 0 and fit.runs == x.size


@pytest.mark.parametrize("cap", [3000.0, 1000.0])
def test_with_censoring_it_maximises_the_likelihood(cap):
    x, n = make_runs(cap=cap)
    late = np.isinf(n)
    assert late.any()

    def loss(v):
        mu, s = v[0] + v[1] * np.log(x), np.exp(v[2])
        y = np.log(np.where(late, cap, n))
        seen = scipy.stats.norm.logpdf(y, mu, s)
        return -np.where(late, scipy.stats.norm.logsf(y, mu, s), seen).sum()

    best = scipy.optimize.minimize(loss, [0.0, 1.0, 0.0], method="Nelder-Mead",
                                   options={"xatol": 1e-8, "fatol": 1e-10,
                                            "maxiter": 5000})  # fmt: skip
    fit = fit_exponent(x, n, cap, draws=0)
    assert fit.value == pytest.approx(best.x[1], abs=1e-4)
    assert fit.log_factor == pytest.approx(best.x[0], abs=4e-4)
    assert fit.sigma == pytest.approx(np.exp(best.x[2]), abs=1e-4)
    assert fit.censored == late.sum()


def test_dropping_censored_runs_would_be_wrong():
    x, n = make_runs(p=2.0, cap=2000.0, each=200)
    kept = np.isfinite(n)
    dropped = fit_exponent(x[kept], n[kept], 2000.0, draws=0).value
    fit = fit_exponent(x, n, 2000.0, draws=400)
    assert dropped < 1.9 < fit.lower < 2.0 < fit.upper


def test_intervals_cover_the_truth():
    inside = 0
    for seed in range(60):
        x, n = make_runs(p=1.5, cap=700.0, each=12, seed=seed)
        fit = fit_exponent(x, n, 700.0, draws=200, seed=seed)
        inside += fit.lower <= 1.5 <= fit.upper
    assert inside >= 51  # 95% of 60 is 57; 51 is four deviations below


def test_differences_are_paired():
    x, n = make_runs(sigma=1.0)
    a = fit_exponent(x, n, 1e12, draws=300)
    b = fit_exponent(x, n * x**0.5, 1e12, draws=300)
    gap = difference(b, a)
    assert gap.value == pytest.approx(0.5)
    assert gap.upper - gap.lower < 1e-9 < a.upper - a.lower


def test_runs_that_do_not_count_change_nothing():
    x, n = make_runs(cap=3000.0)
    more = np.append(x, [8.0, 64.0]), np.append(n, [np.nan, np.nan])
    a = fit_exponent(x, n, 3000.0, draws=0)
    b = fit_exponent(*more, np.append(np.full(x.size, 3000.0), [1.0, np.inf]), draws=0)
    assert b.value == pytest.approx(a.value) and b.runs == a.runs


def test_one_size_alone_has_no_exponent():
    x = np.array([8.0, 8.0, 16.0])
    fit = fit_exponent(x, np.array([5.0, 6.0, np.inf]), 10.0, draws=50)
    assert np.isnan(fit.value) and np.isnan(fit.lower)


def test_local_slopes_show_a_bend():
    rng = np.random.default_rng(0)
    x = np.repeat([8.0, 16.0, 32.0], 40)
    n = np.where(x <= 16, x, x**2 / 16) * np.exp(0.1 * rng.normal(size=x.size))
    at, slopes = local_slopes(x, n, 1e9, draws=200)
    assert at == pytest.approx([8 * 2**0.5, 16 * 2**0.5])
    assert slopes[0].lower < 1 < slopes[0].upper
    assert slopes[1].lower < 2 < slopes[1].upper and slopes[1].lower > 1.5


@pytest.mark.parametrize(
    ("x", "caps", "word"),
    [([1.0, -2.0], 5.0, "positive"), ([1.0, 2.0], np.inf, "caps")],
)
def test_bad_input_is_refused(x, caps, word):
    with pytest.raises(ConfigError, match=word):
        fit_exponent(np.array(x), np.array([1.0, 2.0]), caps)
