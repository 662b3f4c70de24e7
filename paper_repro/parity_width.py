"""Width and learning rate: claim P7 on sparse parity with MLPs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import parity_width
from experiments.parity_width import Result
from paper_repro.claims import Claim, claim_of, number
from paper_repro.report import Report
from sandbox.theory.exponents import fit_exponent
from sandbox.theory.ranks import rank_correlation
from sandbox.theory.sample_complexity import (
    DRAWS,
    Estimate,
    median_estimate,
    percentiles,
)

if TYPE_CHECKING:
    from sandbox.train.run import Run


@dataclass(frozen=True, kw_only=True)
class WidthReport(Report):
    """A finished study of widths.

    Attributes:
      result: every run.
    """

    result: Result

    def title(self) -> str:
        """What heads the claims table: medians by width, a line a rate."""
        lines = [super().title()]
        for rate in self.result.config.rates:
            found = [median_estimate(row).value for row in self.result.n90(rate)]
            each = zip(self.result.config.widths, found, strict=True)
            text = ", ".join(f"{m}: {_samples(v)}" for m, v in each)
            lines.append(f"  rate {rate:g}, median n90 by width: {text}")
        return "\n".join(lines)

    def runs(self) -> "list[Run]":
        """By rate, then width."""
        return list(self.result.runs.values())

    def facts(self) -> dict[str, Any]:
        """What is missing, and every rate's numbers."""
        result = self.result
        return {
            "left_out": result.diverged(),
            "rates": {f"{r:g}": numbers(result, r) for r in result.config.rates},
        }


def reproduce(scale: str, root: Path) -> WidthReport:
    """Runs what is missing, draws and evaluates; there is no rule at paper scale."""
    result = parity_width.run(parity_width.PRESETS[scale](), root=root)
    return WidthReport(
        study="parity_width",
        scale=scale,
        config=result.config,
        figure=parity_width.draw(result),
        claims=[] if scale == "paper" else [width_claim(result)],
        caption=parity_width.CAPTION,
        probe_seconds=0.0,
        result=result,
    )


def spearman(widths: tuple[int, ...], n90: np.ndarray, *, seed: int = 0) -> Estimate:
    """Rank correlation of width and the median of n90, bootstrapped over seeds.

    A resample takes the same seeds at every width, since they share support and
    samples. Medians beyond the cap are infinite and tie; where all tie there is no
    order, 0.

    Args:
      widths: one a row of `n90`.
      n90: `(W, S)`, infinite beyond the cap.
      seed: of the resampling.
    """
    n = n90.shape[1]

    def order(medians: np.ndarray) -> float:
        r = rank_correlation(np.asarray(widths), medians)
        return 0.0 if np.isnan(r) else r

    value = order(np.median(n90, 1))
    if n == 1:
        return Estimate(value, np.nan, np.nan, n)
    pick = np.random.default_rng(seed).integers(0, n, (DRAWS, n))
    medians = np.median(n90[:, pick], 2).T
    distinct, times = np.unique(medians, axis=0, return_counts=True)
    draws = np.repeat([order(row) for row in distinct], times)
    return Estimate(value, *percentiles(draws), n)


def width_claim(result: Result) -> Claim:
    """P7 at the config's claim rate."""
    c = result.config
    found = spearman(c.widths, result.n90(c.claim_rate))
    return claim_of(
        "P7",
        "wider networks learn sooner",
        found,
        kind="at_most",
        bound=-0.8,
        rule=f"Spearman of width and median n90 over {len(c.widths)} widths <= -.8",
        expected="wider MLPs learn sooner (text)",
        trained=found.n,
        students=0,
    )


def numbers(result: Result, rate: float) -> dict[str, Any]:
    """One rate: every width's median n90 and product, the order and the slope.

    The slope is the exponent p of n90 ~ width^p, censored runs included.
    """
    c, n90 = result.config, result.n90(rate)
    rows = []
    for m, each in zip(c.widths, n90, strict=True):
        e = median_estimate(each)
        rows.append(
            {
                "width": m,
                "median_n90": number(e.value),
                "interval": [number(e.lower), number(e.upper)],
                "width_x_median_n90": number(m * e.value),
                "not_by_the_cap": int(np.isinf(each).sum()),
                "n90": [number(float(v)) for v in each],
            }
        )
    order = spearman(c.widths, n90)
    x = np.repeat(np.asarray(c.widths, float), n90.shape[1])
    slope = fit_exponent(x, n90.ravel(), float(c.cap))
    return {
        "spearman": [number(v) for v in order[:3]],
        "exponent_in_width": [number(v) for v in slope.estimate[:3]],
        "cap": c.cap,
        "widths": rows,
    }


def _samples(n90: float) -> str:
    return "> cap" if np.isinf(n90) else f"{n90 / 1000:,.0f}k"
