"""Curves over training with bands over seeds."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Real
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator


def band(
    ax: Axes,
    x: Real[np.ndarray, "S R"],
    y: Float[np.ndarray, "S R"],
    *,
    label: str,
    color: str,
    points: int = 300,
    shade: bool = True,
    **line: object,
) -> None:
    """Draws the median over seeds and the band between their quartiles.

    Each seed's curve is interpolated onto a common grid that ends where its curve does;
    the median is drawn while at least nine in ten seeds are still recorded. A single
    curve is drawn as it was recorded.

    Args:
      ax: where.
      x: abscissa of every seed.
      y: curve of every seed; NaN records are skipped.
      label: legend entry.
      color: of line and band.
      points: of the grid.
      shade: whether the band is drawn.
      **line: passed to `Axes.plot`.
    """
    kept = [(a[~np.isnan(b)], b[~np.isnan(b)]) for a, b in zip(x, y, strict=True)]
    kept = [(a, b) for a, b in kept if len(a) > 1]
    if not kept:
        return
    grid = kept[0][0]
    if len(kept) > 1:
        grid = np.linspace(0, max(a[-1] for a, _ in kept), points)
    rows = np.asarray([np.interp(grid, a, b, right=np.nan) for a, b in kept])
    alive = (~np.isnan(rows)).mean(0) >= 0.9
    low, mid, high = np.nanquantile(rows[:, alive], [0.25, 0.5, 0.75], axis=0)
    ax.plot(grid[alive], mid, color=color, label=label, **line)  # pyright: ignore
    if shade and len(rows) > 1:
        ax.fill_between(grid[alive], low, high, color=color, alpha=0.15, linewidth=0)


def strips(
    ax: Axes,
    values: Sequence[Real[np.ndarray, " _"]],
    *,
    labels: Sequence[str],
    colors: Sequence[str],
    cap: float,
) -> None:
    """One row of dots a strategy, a dot a run; what never happened sits at the cap.

    Args:
      ax: where; its x axis becomes logarithmic.
      values: one array a row, infinite where the level was not reached.
      labels: row names.
      colors: row colours.
      cap: abscissa at which runs that never got there are drawn, as triangles, with
        their count.
    """
    for row, (v, color) in enumerate(zip(values, colors, strict=True)):
        v = np.asarray(v, float)
        v = v[~np.isnan(v)]
        done, never = v[np.isfinite(v)], np.sum(np.isinf(v))
        jitter = 0.22 * np.sin(7.0 * np.arange(len(done)))
        ax.plot(done, row + jitter, "o", color=color, ms=3, alpha=0.7, mew=0)
        if never:
            ax.plot(cap, row, ">", color=color, ms=5, mew=0)
            ax.annotate(
                f"{never}", (cap, row), (5, 0), textcoords="offset points",
                va="center", fontsize=6.5,
            )  # fmt: skip
        if len(v) and np.isfinite(median := np.median(v)):
            ax.plot([median] * 2, [row - 0.32, row + 0.32], color=color, lw=2)
    ax.set_xscale("log")
    _few_labels(ax.xaxis, lambda v, _: f"{v:g}")
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def estimates(
    ax: Axes,
    x: Sequence[int | float] | Real[np.ndarray, " E"],
    found: Sequence[tuple[int | float, ...]],
    *,
    color: str,
    cap: int | float | Real[np.ndarray, " E"] = np.inf,
    fmt: str = "o-",
    label: str = "_",
    **line: object,
) -> None:
    """Draws numbers with their intervals; a hollow triangle at the cap if beyond it.

    Args:
      ax: where.
      x: abscissae.
      found: numbers with the ends of their intervals, as of an `Estimate`; one that
        does not exist is left out.
      color: of all marks.
      cap: ordinates beyond which nothing is known; intervals end there. Without one,
        an infinite end is not drawn.
      fmt: of the marks within the cap, as in `Axes.plot`.
      label: legend entry.
      **line: passed to `Axes.plot`.
    """
    x, ends = np.asarray(x, float), np.asarray([e[:3] for e in found]).reshape(-1, 3)
    beyond = np.isposinf(ends[:, 0]) & np.isfinite(cap)
    y, low, high = np.minimum(ends, np.reshape(cap, (-1, 1))).T
    there = np.isfinite(y)
    style: dict[str, Any] = {"ms": 3.5, "lw": 1.0, "color": color} | line
    ax.plot(x[there & ~beyond], y[there & ~beyond], fmt, label=label, **style)
    ax.plot(x[beyond], y[beyond], "^", ms=5, color=color, mfc="white")
    low, high = (np.where(np.isfinite(v), v, y)[there] for v in (low, high))
    ax.vlines(x[there], low, high, color=color, lw=1.0, alpha=0.7)


def log_steps(ax: Axes) -> None:
    """A logarithmic x axis with few plain labels: 50, 100, 200, 500, 1k, ..."""
    ax.set_xscale("log")
    _few_labels(ax.xaxis)


def log_ticks(ax: Axes, values: Sequence[int | float]) -> None:
    """A logarithmic x axis with ticks at these values alone."""
    ax.set_xscale("log")
    ax.set_xticks(values, [f"{v:g}" for v in values])
    ax.xaxis.set_minor_locator(NullLocator())


def log_levels(ax: Axes) -> None:
    """A logarithmic y axis with few plain labels: 0.5, 200, 2k, 5M."""
    ax.set_yscale("log")
    _few_labels(ax.yaxis)


def short(v: float, _: object = None) -> str:
    """1500 as `1.5k`, 2e6 as `2M`, 1e9 as `1G`."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if v >= unit:
            return f"{v / unit:g}{letter}"
    return f"{v:g}"


def _few_labels(axis: Axis, text: Callable[[float, object], str] = short) -> None:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(text))
    axis.set_minor_locator(NullLocator())


def stack_ragged(rows: Sequence[Real[np.ndarray, " _"]]) -> Float[np.ndarray, "S R"]:
    """Rows of different length as one array, padded with NaN."""
    longest = max((len(r) for r in rows), default=0)
    out = np.full((len(rows), longest), np.nan)
    for i, r in enumerate(rows):
        out[i, : len(r)] = r
    return out
