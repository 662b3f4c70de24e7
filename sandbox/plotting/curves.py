"""Curves over training with bands over seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Real
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from scipy.optimize import isotonic_regression

FEW = 10
"""Curves below which quartiles say little, and a band is their whole range."""


def spread(n: int) -> str:
    """What the band of so many curves is, in a word."""
    return "quartiles" if n >= FEW else "ranges"


def band(
    ax: Axes,
    x: Real[np.ndarray, "S R"],
    y: Float[np.ndarray, "S R"],
    *,
    label: str,
    color: str,
    points: int = 300,
    shade: bool = True,
    log: bool = False,
    marks: tuple[str, int, int] = ("", 0, 1),
    **line: object,
) -> None:
    """Draws the median over seeds and the band between their quartiles or extremes.

    Each seed's curve is interpolated onto a common grid that ends where its curve does;
    the median is drawn while at least nine in ten seeds are still recorded. A single
    curve is drawn as it was recorded. Of fewer than ten, those without a curve
    included, the band is the whole range.

    Args:
      ax: where.
      x: abscissa of every seed.
      y: curve of every seed; NaN records are skipped.
      label: legend entry.
      color: of line and band.
      points: of the grid.
      shade: whether the band is drawn.
      log: whether the grid is even in the logarithm of the abscissa.
      marks: a mark, and which of how many places between those of other curves it
        takes, so that curves that coincide are told apart.
      **line: passed to `Axes.plot`.
    """
    kept = [(a[~np.isnan(b)], b[~np.isnan(b)]) for a, b in zip(x, y, strict=True)]
    kept = [(a, b) for a, b in kept if len(a) > 1]
    if not kept:
        return
    grid = kept[0][0]
    if len(kept) > 1:
        last = max(a[-1] for a, _ in kept)
        grid = np.linspace(0, last, points)
        if log:
            first = min(np.min(a[a > 0], initial=last) for a, _ in kept)
            grid = np.geomspace(first, last, points)
    rows = np.asarray([np.interp(grid, a, b, right=np.nan) for a, b in kept])
    alive = (~np.isnan(rows)).mean(0) >= 0.9
    ends = (0.0, 0.5, 1.0) if len(y) < FEW else (0.25, 0.5, 0.75)  # as `spread` says
    low, mid, high = np.nanquantile(rows[:, alive], ends, axis=0)
    mark, place, places = marks
    if mark:
        every = max(len(mid) // MARKED, places)
        style = {"marker": mark, "markevery": (place * every // places, every)}
        line = {"ms": 3.5, "mew": 0.9, "mfc": "white", **style, **line}
    ax.plot(grid[alive], mid, color=color, label=label, **line)  # pyright: ignore
    if not shade or len(rows) == 1:
        return
    faint: dict[str, Any] = {"color": color, "zorder": 1.4}
    ax.fill_between(grid[alive], low, high, alpha=0.1, lw=0, **faint)
    for edge in (low, high):  # of bands that lie over each other
        ax.plot(grid[alive], edge, lw=0.4, alpha=0.6, label="_", **faint)


MARKED = 7
"""Marks on a curve."""


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
      cap: abscissa beyond which runs that never got there are drawn, as a triangle
        with their count.
    """
    beyond = 1.12 * cap
    for row, (v, color) in enumerate(zip(values, colors, strict=True)):
        v = np.asarray(v, float)
        v = v[~np.isnan(v)]
        dots(ax, row, v, color)
        if never := np.sum(np.isinf(v)):
            ax.plot(beyond, row, ">", color=color, ms=5, mew=0)
            ax.annotate(
                f"{never}", (beyond, row), (5, 0), textcoords="offset points",
                va="center", fontsize=6.5, color="0.25",
            )  # fmt: skip
    log_steps(ax)
    rows(ax, labels)


def dots(ax: Axes, row: int, values: Real[np.ndarray, " _"], color: str) -> None:
    """Finite values as dots along a row, a bar at the median of all that exist."""
    v = np.asarray(values, float)
    v = v[~np.isnan(v)]
    done = v[np.isfinite(v)]
    jitter = 0.22 * np.sin(7.0 * np.arange(len(done)))
    ax.plot(done, row + jitter, "o", color=color, ms=3, alpha=0.55, mew=0)
    if len(v) and np.isfinite(median := np.median(v)):
        ax.plot([median] * 2, [row - 0.32, row + 0.32], color=color, lw=2)


def rows(ax: Axes, labels: Sequence[str]) -> None:
    """Names the rows of a panel from the top down, with a faint line along each."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="y", visible=True)
    ax.tick_params(axis="y", length=0)


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

    A line joins neighbours that are both known, where there are three numbers or more.

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
    if np.sum(there) < 3:
        fmt = fmt[:1]  # the mark alone
    known = np.where(there & ~beyond, y, np.nan)
    ax.plot(x, known, fmt, label=label, **style)
    ax.plot(x[beyond], y[beyond], "^", ms=5, color=color, mfc="white")
    low, high = (np.where(np.isfinite(v), v, y)[there] for v in (low, high))
    ax.vlines(x[there], low, high, color=color, lw=1.0, alpha=0.7)


def end_labels(
    ax: Axes, x: int | float, y: Sequence[float], words: Sequence[str]
) -> None:
    """Names curves at their right ends, no two names on each other.

    Called last, when the limits of the axis are set. Names keep the order of the ends,
    each as near to its own as the others' height and the lower axis let it.

    Args:
      ax: where.
      x: abscissa of the ends.
      y: ordinates of the ends.
      words: one name a curve.
    """
    (low, high), dpi = ax.get_ylim(), ax.get_figure(root=True).dpi  # pyright: ignore
    line = (high - low) * 8.5 * dpi / 72 / ax.get_window_extent().height
    order, step = sorted(range(len(y)), key=y.__getitem__), line * np.arange(len(y))
    places = isotonic_regression(np.asarray([y[i] for i in order]) - step).x
    places = np.maximum(places, low + line / 2) + step
    for i, at in zip(order, places, strict=True):
        ax.annotate(
            words[i], (x, at), (4, 0), textcoords="offset points", va="center",
            fontsize=6.5, color="0.35", annotation_clip=False,
        )  # fmt: skip


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
    """1500 as `1.5k`, 2e6 as `2M`, 1e9 as `1B`."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if v >= unit:
            return f"{v / unit:g}{letter}"
    return f"{v:g}"


class _Few(LogLocator):
    """The roundest numbers that make three ticks, or two over many octaves.

    No third one where labels would touch.
    """

    def tick_values(self, vmin: float, vmax: float) -> Any:
        ticks, shown = np.empty(0), np.empty(0)
        for subs in ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)):
            fewer, fewer_shown = ticks, shown
            self.set_params(subs=subs)
            ticks = np.asarray(super().tick_values(vmin, vmax))
            shown = ticks[(vmin <= ticks) & (ticks <= vmax)]
            if len(fewer_shown) > 1 and not self._fit(shown, vmax / vmin):
                return fewer
            if len(shown) >= 3 - (vmax > 300 * vmin):
                break
        return ticks

    def _fit(self, ticks: np.ndarray, span: float) -> bool:
        """Whether labels, of five points a character and ten high, lie apart."""
        axis = self.axis
        assert isinstance(axis, Axis)
        fig, box = axis.get_figure(root=True), axis.axes.get_window_extent()
        assert fig is not None
        along, needed = box.height, 10.0
        if axis is axis.axes.xaxis:
            along, needed = box.width, 5.0 * max(len(short(t)) for t in ticks)
        gaps = np.diff(np.log(ticks)) / np.log(span) * along * 72 / fig.dpi
        return bool(np.min(gaps, initial=np.inf) > needed)


def _few_labels(axis: Axis) -> None:
    axis.set_major_locator(_Few())
    axis.set_major_formatter(FuncFormatter(short))
    axis.set_minor_locator(NullLocator())


def stack_ragged(rows: Sequence[Real[np.ndarray, " _"]]) -> Float[np.ndarray, "S R"]:
    """Rows of different length as one array, padded with NaN."""
    longest = max((len(r) for r in rows), default=0)
    out = np.full((len(rows), longest), np.nan)
    for i, r in enumerate(rows):
        out[i, : len(r)] = r
    return out
