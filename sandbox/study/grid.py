"""What a grid ends with: one table and one figure of what was varied.

<runs>/studies/NAME.PRESET.grid.HASH/     figure.png, figure.md, summary.csv
"""

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from sandbox.platforms import suffix
from sandbox.plotting import curves as plots
from sandbox.plotting.style import apart, save, styled
from sandbox.store.config import digest, to_json
from sandbox.store.files import make_folder, write_atomic
from sandbox.study.figures import legend, note, panels
from sandbox.study.report import COLUMNS, Report, summary_rows, write_csv
from sandbox.text import count, digits, table

MOST = 12
"""Curves of a panel; those of more strategies are in the table."""
_QUANTITIES = {"n90": "samples to accuracy .90", "final accuracy": "final accuracy"}
"""What is shown, the first of which there is a number."""


class Point(NamedTuple):
    """Runs of one strategy at one point of a grid.

    Attributes:
      middle: median of what there is, infinite where most are beyond their cap.
      low: lower quartile.
      high: upper quartile.
      n: runs.
    """

    middle: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0

    @classmethod
    def of(cls, values: Sequence[float]) -> "Point":
        """Quartiles are numbers that were seen, since some may be infinite."""
        if not values:
            return cls()
        low = np.quantile(values, 0.25, method="lower")
        high = np.quantile(values, 0.75, method="higher")
        return cls(float(np.median(values)), float(low), float(high), len(values))


Curves = dict[str, dict[str, list[Point]]]
"""Part -> strategy -> what it did at each point."""


def write_grid(reports: Sequence[Report], root: Path) -> None:
    """Prints and writes the table, and draws the figure.

    Args:
      reports: one a point of the grid, of the same study.
      root: where runs are stored.
    """
    points = [_flat(r.config) for r in reports]
    varied = [k for k in points[0] if len({repr(p.get(k)) for p in points}) > 1]
    values = [tuple(p.get(k) for k in varied) for p in points]
    named = [name.rpartition(".")[2] for name in varied]
    names = named if len(set(named)) == len(named) else varied
    rows = [list(summary_rows(r.result)) for r in reports]
    config = digest([to_json(r.config) for r in reports])[:8]
    stem = f"{reports[0].study}.{reports[0].result.preset}.grid.{config}{suffix()}"
    folder = root / "studies" / stem
    make_folder(folder)
    lines = [[*v, *row] for v, own in zip(values, rows, strict=True) for row in own]
    write_csv(folder / "summary.csv", [[*varied, *COLUMNS], *lines])
    what, curves = _curves(rows)
    print(f"{what}: medians over runs (∞: beyond the cap)")
    print(_table(names, values, curves))
    caption = _draw(reports, names, values, what, curves, folder / "figure")
    write_atomic(folder / "figure.md", f"{caption}\n".encode())
    print(f"grid: {folder}: figure.png, summary.csv")


def _curves(rows: Sequence[Sequence[tuple[Any, ...]]]) -> tuple[str, Curves]:
    """The quantity that is shown, and every strategy's numbers of it."""
    there = {
        row[4] for own in rows for row in own if row[5] is not None and row[5] != "inf"
    }
    shown = next((q for q in _QUANTITIES if q in there), "")
    found: dict[str, dict[str, list[list[float]]]] = {}
    for i, own in enumerate(rows):
        for part, strategy, _, _, quantity, value in own:
            if quantity == (shown or quantity):
                name = strategy if shown else quantity
                every = found.setdefault(part, {}).setdefault(name, [[] for _ in rows])
                if value is not None:
                    every[i].append(float(value))
    curves = {
        part: {name: [Point.of(v) for v in every] for name, every in own.items()}
        for part, own in found.items()
    }
    return _QUANTITIES.get(shown, "value"), curves


def _table(
    names: Sequence[str], values: Sequence[tuple[Any, ...]], curves: Curves
) -> str:
    """A row a point and part; a row a strategy, too, where that is too wide."""
    which = ["part"] if len(curves) > 1 else []
    every = list(dict.fromkeys(n for own in curves.values() for n in own))

    def first(i: int, part: str) -> list[str]:
        return [*map(_text, values[i]), *([part] if which else [])]

    def size(p: Point) -> str:
        large = 1e3 <= p.middle < math.inf
        return "-" if not p.n else (count if large else digits)(p.middle)

    rows = [
        [*first(i, part), *(size(own[n][i]) if n in own else "-" for n in every)]
        for i in range(len(values))
        for part, own in curves.items()
    ]
    wide = table([*names, *which, *every], rows)
    if max(map(len, wide.split("\n"))) <= 80:
        return wide
    rows = [
        [*first(i, part), name, size(own[name][i]), f"{own[name][i].n}"]
        for i in range(len(values))
        for part, own in curves.items()
        for name in own
    ]
    return table([*names, *which, "strategy", "median", "n"], rows)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ":".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _draw(
    reports: Sequence[Report],
    names: Sequence[str],
    values: Sequence[tuple[Any, ...]],
    what: str,
    curves: Curves,
    stem: Path,
) -> str:
    """Draws a panel a part; returns the caption."""
    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    every = [p for own in curves.values() for e in own.values() for p in e]
    said = "medians and quartiles of n runs a point"
    if any(math.isinf(p.middle) for p in every):
        said += "; hollow: the median is beyond the cap, where it is drawn"
    hidden = max(len(own) for own in curves.values()) - MOST
    if hidden > 0:
        said += f"; {hidden} more strategies are in the table"
    with styled():
        height = 0.7 + 2.2 * rows
        fig, axes = panels(rows, columns, height=height, squeeze=False, sharey=True)
        for ax, (part, own) in zip(axes.flat, curves.items(), strict=False):
            x = _abscissa(ax, names, values)
            _strategies(ax, reports, part, x, dict(islice(own.items(), MOST)))
        for ax in axes.flat[len(curves) :]:
            ax.remove()
        for row in axes:
            row[0].set_ylabel(what)
        if what == _QUANTITIES["n90"]:
            plots.log_levels(axes[0, 0])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        legend(fig, dict(zip(labels, handles, strict=True)))
        note(fig, said)
    save(fig, stem)
    return f"{what} against {' and '.join(names)}: {said}."


def _strategies(
    ax: Axes,
    reports: Sequence[Report],
    part: str,
    x: np.ndarray,
    own: dict[str, list[Point]],
) -> None:
    """Every strategy of a part, each a little aside, so that none hides another."""
    cap = np.asarray([_cap(r, part) for r in reports])
    for i, (name, style) in enumerate(apart(list(own)).items()):
        aside = i - (len(own) - 1) / 2
        log = ax.get_xscale() == "log"
        at = x * 1.02**aside if log else x + 0.008 * np.ptp(x) * aside
        found, line = [p[:3] for p in own[name]], {"linestyle": "-"} | style
        label = _label(reports, name)
        plots.estimates(ax, at, found, cap=cap, label=label, fmt="o", **line)
    counts = sorted({p.n for every in own.values() for p in every if p.n}) or [0]
    runs = " to ".join(f"{n}" for n in dict.fromkeys((counts[0], counts[-1])))
    ax.set_title(", ".join(filter(None, (part, f"n = {runs}"))))


def _label(reports: Sequence[Report], name: str) -> str:
    """A strategy's name in figures, without what differs between the points."""
    said = [r.result.label(name).split(", ") for r in reports if r.result.parts]
    if not said:
        return name
    return ", ".join(word for word in said[0] if all(word in s for s in said))


def _abscissa(
    ax: Axes, names: Sequence[str], values: Sequence[tuple[Any, ...]]
) -> np.ndarray:
    """Where the points stand: at their numbers where one number is varied."""
    ax.set_xlabel(" / ".join(names))
    own = [v[0] for v in values]
    real = all(isinstance(v, int | float) and not isinstance(v, bool) for v in own)
    if len(names) == 1 and real:
        if min(own) > 0 and max(own) >= 4 * min(own):
            plots.log_ticks(ax, own)
        else:
            ax.set_xticks(own, [_text(v) for v in own])
        return np.asarray(own, float)
    texts = [" / ".join(map(_text, v)) for v in values]
    ax.set_xticks(range(len(texts)), texts)
    if sum(map(len, texts)) > 30:
        ax.tick_params("x", rotation=90 if len(texts) > 12 else 30)
    return np.arange(len(texts), dtype=float)


def _cap(report: Report, part: str) -> float:
    """The largest cap of a part's students; infinite where there is none."""
    taught = report.result.parts.get(part)
    caps = [float(np.max(t.caps())) for t in taught.teachers] if taught else []
    return max(caps, default=math.inf)


def _flat(record: Any, group: str = "") -> dict[str, Any]:
    """Every field of a record by its dotted name."""
    out: dict[str, Any] = {}
    for f in fields(record):
        value, name = getattr(record, f.name), group + f.name
        out |= _flat(value, f"{name}.") if is_dataclass(value) else {name: value}
    return out
