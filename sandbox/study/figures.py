"""Panels that studies share: curves, samples to .90, and what a figure leaves out.

    fig, (a, b) = panels(1, 2)
    accuracy(a, r)
    strips(b, r)

A study's `figure` is called with the project's style; the legend of the first panel
and the list of what is missing are added to it (`finish`).
"""

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbox.plotting import curves as plots
from sandbox.plotting.style import COLORS, WIDE, Shown, color_of
from sandbox.study.lanes import base_name
from sandbox.study.result import Taught
from sandbox.study.setting import STOP, Fixed

SHOWN, LINE = 4, 130
"""Missing runs that are named below a figure, and characters of a line there."""
LINES = ("-", "--", ":", "-.")
"""Of a strategy and its variants, in one colour."""

Points = Mapping[str, Sequence[tuple[float, float]]]
"""Values read off a published figure: name -> (abscissa, value)."""


def panels(
    rows: int, columns: int, *, height: float = 2.7, **grid: Any
) -> tuple[Figure, Any]:
    """A figure of the text's width and some inches of height, with its axes.

    What else is given goes to `Figure.subplots`.
    """
    fig = Shown(figsize=(WIDE, height), layout="constrained")
    return fig, fig.subplots(rows, columns, **grid)


def finish(fig: Figure, r: Taught) -> None:
    """Adds the legend of the first panel with names, and what is missing."""
    named = [ax for ax in fig.axes if ax.get_legend_handles_labels()[0]]
    if named and not fig.legends and named[0].get_legend() is None:
        handles, labels = named[0].get_legend_handles_labels()
        columns = min(len(handles), 6 if max(map(len, labels)) < 20 else 4)
        fig.legend(handles, labels, loc="outside upper left", ncols=columns)
    missing = r.missing()
    if missing and not fig.get_supxlabel():
        text = "; ".join(missing[:SHOWN])
        more = len(missing) - SHOWN
        if more > 0:
            text += f"; and {more} more (see the report)"
        lines = textwrap.fill(f"left out: {text}", LINE)
        fig.supxlabel(lines, fontsize=6.5, color="0.35")


def counts_text(r: Taught) -> str:
    """How many runs a curve summarises, and how."""
    n, inits = int(np.sum(~np.isnan(r.abscissa))), r.setting.inits
    if n * inits == 1:
        return "one seed"
    if inits == 1:
        return f"median and quartiles of {n} seeds"
    who = "one teacher" if n == 1 else f"{n} teachers"
    return f"{who} x {inits} students, quartiles"


def accuracy(
    ax: Axes,
    r: Taught,
    names: Iterable[str] | None = None,
    *,
    shaded: Iterable[str] | None = None,
) -> None:
    """Accuracy of the teacher and of every strategy's students over training.

    Only seeds whose teacher learned are drawn, in every curve the same ones.

    Args:
      ax: where.
      r: teachers and students.
      names: of strategies; all by default.
      shaded: those with a band between quartiles; by default all but controls and
        variants (another speed or first stage), whose lines are broken.
    """
    s = r.setting
    fixed = isinstance(s.budget, Fixed)
    end = s.budget.student if isinstance(s.budget, Fixed) else s.budget.cap
    single = len(r.abscissa) == 1
    # Students that train alone stop as soon as they have learned.
    alone = s.group == 1 and not single and not fixed
    held = {"learned": STOP, "until": end} if alone else {}
    chosen = list(r.strategies if names is None else names)
    seen: Counter[str] = Counter()
    for name in ("teacher", *chosen):
        x, y = r.rows(r.curves(name), **held)
        control = name == "one_shot_hard" and "one_shot" in chosen
        base = base_name(name)
        nth = 1 if control else seen[base]
        seen[base] += 1
        shade = nth == 0 if shaded is None else name in shaded
        style: dict[str, Any] = {"linestyle": LINES[nth % len(LINES)]} if nth else {}
        if fixed and name == "teacher":
            style = {"linewidth": 0.9}
        color = color_of(name if control else base)
        plots.band(ax, x, y, label=r.label(name), color=color, shade=shade, **style)
    least = 1 / s.made_task.n_classes
    if fixed:
        ax.set_ylabel("top-1 accuracy at scored tokens")
    else:
        ax.set_ylim(least - 0.05, 1.02)
        ax.set_ylabel("accuracy on fresh inputs")
    if fixed or not single:
        ax.set_xlim(0, end)
    ax.set_xlabel(r.abscissa_text)


def published(
    ax: Axes, points: Points, names: Iterable[str], *, unit: float = 1.0
) -> None:
    """Values read off a published figure, as open circles in the colour of each curve.

    `unit` is a factor on the abscissa.
    """
    for name in names:
        for x, y in points.get(name, ()):
            ax.plot(unit * x, y, "o", mfc="none", mec=color_of(name), ms=4, zorder=5)
            ax.set_ylim(top=max(ax.get_ylim()[1], 1.02 * y))
    ax.plot([], [], "o", mfc="none", mec="0.3", ms=4, label="published")


def strips(ax: Axes, r: Taught) -> None:
    """Samples to .90 of the teachers, then of the students, one row a strategy."""
    names = ["teacher", *r.strategies]
    values = [r.n90[name].values for name in names]
    slow = np.any(np.nan_to_num(values[0]) > 2e6)
    unit, word = (1e6, "million") if slow else (1e3, "thousand")
    cap = max(float(np.max(t.caps())) for t in r.teachers) / unit
    plots.strips(
        ax,
        [v.ravel() / unit for v in values],
        labels=[r.label(n).partition(" (")[0] for n in names],
        colors=[color_of(n if n in COLORS else base_name(n)) for n in names],
        cap=cap,
    )
    ax.set_xlabel(f"samples to accuracy .90 ({word})")
    ax.set_title("each run; ▸ not by its cap")


def ratios(
    ax: Axes,
    parts: Mapping[str, Taught],
    names: Sequence[str] | None = None,
    *,
    label: Callable[[str], str] | None = None,
    color: Callable[[str], str] = color_of,
) -> None:
    """Samples to .90 over the teacher's, one row a setting and strategy.

    Args:
      ax: where.
      parts: settings by name.
      names: of strategies; what a setting lacks is an empty row. All by default.
      label: what a strategy is called; its part and usual name by default.
      color: its colour.
    """
    rows = [(a, p, n) for a, p in parts.items() for n in names or p.strategies]
    none = np.empty(0)
    plots.strips(
        ax,
        [
            (p.n90[n] / p.n90.teacher).values.ravel() if n in p.strategies else none
            for _, p, n in rows
        ],
        labels=[label(n) if label else f"{a}: {p.label(n)}" for a, p, n in rows],
        colors=[color(n) for *_, n in rows],
        cap=max(
            float(np.nanmax(t.caps() / t.n90, initial=1))
            for p in parts.values()
            for t in p.teachers
        ),
    )
    ax.set_xlabel("samples to .90 / n90 of teacher; ▸ not by its cap")


def endings(
    ax: Axes,
    p: Taught,
    names: Sequence[str] | None = None,
    *,
    label: Callable[[str], str],
    color: Callable[[str], str] = color_of,
) -> None:
    """Accuracy at the end, one row a strategy and a dot a run, as in `ratios`."""
    rows = list(names or p.strategies)
    for i, name in enumerate(rows):
        values = p.at(name).values.ravel() if name in p.strategies else np.empty(0)
        ax.plot(values, np.full(len(values), i), "o", color=color(name), ms=4, mew=0)
    ax.set_yticks(range(len(rows)), [label(n) for n in rows])
    ax.invert_yaxis()
    ax.set_xlabel("accuracy at the end")
