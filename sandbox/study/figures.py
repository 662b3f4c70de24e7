"""Panels that studies share: curves, samples to .90, and what a figure leaves out.

    fig, (a, b) = panels(1, 2)
    accuracy(a, r)
    strips(b, r)

A study's `figure` is called with the project's style; letters, a legend of what panels
name, and a note of how many runs it shows and what is missing are added (`finish`).
"""

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sandbox.plotting import curves as plots
from sandbox.plotting import layout
from sandbox.plotting.style import (
    COLORS,
    FAMILIES,
    FAMILY_WORDS,
    LINES,
    MARKERS,
    WIDE,
    Shown,
    color_of,
)
from sandbox.study.lanes import base_name
from sandbox.study.result import Result, Taught
from sandbox.study.setting import STOP, Fixed

SHOWN, LINE, ROW = 4, 140, 120
"""Missing runs that are named below a figure; characters of a line there, and of a row
of the legend above it."""
LATE = "; ▸ not by its cap"
PUBLISHED: dict[str, Any] = {"ms": 7, "mec": "white", "mew": 0.6, "zorder": 5}
"""Stars of values read off a published figure."""

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


def finish(fig: Figure, r: Result) -> None:
    """Adds letters, a legend of what panels name, and a note below the figure.

    The note says of how many runs the figure is and what bands are (unless the figure
    has a `note` of its own), and what is missing.
    """
    _legend(fig)
    layout.letter(fig)
    said = fig.get_supxlabel()
    if not said and len(r.parts) > 1:
        counts = [learned(p) * p.setting.inits for p in r.parts.values()]
        kinds = " or ".join(dict.fromkeys(map(plots.spread, counts)))
        said = f"{counts_by_part(r.parts)}; lines: medians, bands: {kinds}"
    elif not said and r.teachers:
        said = f"{r.setting}; {counts_text(r)}"
    if missing := r.missing():
        text = "; ".join(missing[:SHOWN])
        more = len(missing) - SHOWN
        if more > 0:
            text += f"; and {more} more (see the report)"
        said = f"{said}. Left out: {text}" if said else f"left out: {text}"
    note(fig, said)
    layout.clear(fig)


def note(fig: Figure, text: str) -> None:
    """What stands below a figure, in small print."""
    if text:
        lines = textwrap.fill(text, LINE)
        fig.supxlabel(lines, x=0.01, ha="left", fontsize=6.5, color="0.35")


def _legend(fig: Figure) -> None:
    """One legend of all that panels name, but for panels with one of their own."""
    if fig.legends:
        return
    named: dict[str, Any] = {}
    for ax in fig.axes:
        if ax.get_legend() is None:
            handles, labels = ax.get_legend_handles_labels()
            for label, handle in zip(labels, handles, strict=True):
                named.setdefault(label, handle)
    legend(fig, named)


def legend(fig: Figure, named: Mapping[str, Any]) -> None:
    """A legend above a figure, in as many rows as it needs: label -> handle."""
    if not named:
        return
    where: dict[str, Any] = {"loc": "outside upper left"}
    lines = [h for h in named.values() if isinstance(h, Line2D)]
    marked = [h for h in lines if h.get_marker() not in ("", "None")]
    if broken := any(h.get_linestyle() in ("--", "-.") for h in marked):
        where["handlelength"] = 3.0  # dashes beside a mark
    widths = [len(label) + (9 if broken else 7) for label in named]
    rows, columns = 1, len(named)
    while columns > 1 and sum(map(max, np.array_split(widths, columns))) > ROW:
        rows += 1
        columns = -(-len(named) // rows)
    fig.legend(named.values(), named.keys(), ncols=columns, **where)


def families(fig: Figure, shown: Iterable[str]) -> None:
    """A legend of the families of methods that a figure shows."""
    known = set(shown)
    named = {
        words: Line2D([], [], marker="o", ls="", color=FAMILIES[name])
        for name, words in FAMILY_WORDS.items()
        if name in known
    }
    legend(fig, named)


def learned(r: Taught) -> int:
    """How many teachers learned."""
    return sum(int(t.usable.sum()) for t in r.teachers)


def counts_by_part(parts: Mapping[str, Taught]) -> str:
    """Every setting with its number of teachers, or those of its parts."""
    each = dict[str, list[int]]()
    for p in parts.values():
        each.setdefault(str(p.setting), []).append(learned(p))
    shown = {words: n if len({*n}) > 1 else n[:1] for words, n in each.items()}
    return "; ".join(f"{w}: n = {', '.join(map(str, n))}" for w, n in shown.items())


def counts_text(r: Taught) -> str:
    """How many runs a curve summarises, and how."""
    n, inits = int(np.sum(~np.isnan(r.abscissa))), r.setting.inits
    who = f"n = {n} teacher{'s' * (n != 1)}"
    if inits > 1:
        who += f" x {inits} students"
    if n * inits == 1:
        return who
    return f"{who}; lines: medians, bands: {plots.spread(n * inits)}"


def accuracy(
    ax: Axes,
    r: Taught,
    names: Iterable[str] | None = None,
    *,
    shaded: Iterable[str] | None = None,
    label: Callable[[str], str] | None = None,
) -> None:
    """Accuracy of the teacher and of every strategy's students over training.

    Only seeds whose teacher learned are drawn, in every curve the same ones.

    Args:
      ax: where.
      r: teachers and students.
      names: of strategies; all by default.
      shaded: those with a band between quartiles; by default all but controls and
        variants (another speed or first stage), whose lines are broken.
      label: what a strategy is called; its usual name by default.
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
    for i, name in enumerate(("teacher", *chosen)):
        x, y = r.rows(r.curves(name), **held)
        control = name == "one_shot_hard" and "one_shot" in chosen
        base = base_name(name)
        nth = 1 if control else seen[base]
        seen[base] += 1
        shade = nth == 0 if shaded is None else name in shaded
        style: dict[str, Any] = {"linestyle": LINES[nth % len(LINES)]} if nth else {}
        if name == "ce":  # shows beneath what it coincides with
            style = {"linewidth": 2.6}
        known = name if control else base
        plots.band(
            ax,
            x,
            y,
            label=(label or r.label)(name),
            color=color_of(known),
            shade=shade,
            marks=(MARKERS.get(known, "o"), i, len(chosen) + 1),
            **style,
        )
    least = 1 / s.made_task.n_classes
    if fixed:
        ax.set_ylabel("top-1 accuracy")
    else:
        ax.set_ylim(min(least - 0.05, ax.dataLim.y0 - 0.01), 1.02)
        ax.set_ylabel("accuracy on fresh inputs")
    ends = [float(np.max(line.get_xdata())) for line in ax.get_lines()]
    most = [end] if fixed or not single else []
    ax.set_xlim(0, min([*most, max(ends, default=end)]))
    ax.set_xlabel(r.abscissa_text)


def published(
    ax: Axes, points: Points, names: Iterable[str], *, unit: float = 1.0
) -> None:
    """Values read off a published figure, as stars in the colour of each curve.

    Those beyond the axis are left out. `unit` is a factor on the abscissa.
    """
    last = ax.get_xlim()[1]
    for name in names:
        for x, y in points.get(name, ()):
            if unit * x <= last:
                ax.plot(unit * x, y, "*", color=color_of(name), **PUBLISHED)
                ax.set_ylim(top=max(ax.get_ylim()[1], 1.02 * y))
    ax.set_xlim(right=last)
    ax.plot([], [], "*", color="0.3", label="published", **PUBLISHED)


def paces(
    r: Taught,
    names: Sequence[str] = ("two_shot", "ce"),
    label: Callable[[str], str] | None = None,
) -> str:
    """Median samples to .90 over the teacher's, for a title."""
    found = []
    for name in (n for n in names if n in r.strategies):
        each = (r.n90[name] / r.n90.teacher).values
        known = each[~np.isnan(each)]
        if len(known):
            half = float(np.median(known))
            size = f"{half:.2g}" if np.isfinite(half) else "> cap"
            found.append(f"{brief((label or r.label)(name))} {size}")
    return f"Samples to .90 / teacher's: {', '.join(found) or 'none learned'}"


def brief(label: str) -> str:
    """A label without what follows in brackets or after a comma."""
    return re.split(r" \(|,", label)[0]


def strips(ax: Axes, r: Taught) -> None:
    """Samples to .90 of the teachers, then of the students, one row a strategy."""
    names = ["teacher", *r.strategies]
    values = [r.n90[name].values for name in names]
    cap = max(float(np.max(t.caps())) for t in r.teachers)
    plots.strips(
        ax,
        [v.ravel() for v in values],
        labels=[r.label(n).partition(" (")[0] for n in names],
        colors=[color_of(n if n in COLORS else base_name(n)) for n in names],
        cap=cap,
    )
    ax.set(xlabel="samples to accuracy .90", title=f"Each run{LATE}")


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
    ax.axvline(1, color="0.5", lw=0.8, zorder=0)
    ax.set_xlabel("samples to .90 / teacher's")


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
        if name in p.strategies:
            plots.dots(ax, i, p.at(name).values.ravel(), color(name))
    plots.rows(ax, [label(n) for n in rows])
    ax.set_xlabel("accuracy at the end")
