"""What is wrong with a figure, seen on its drawn canvas."""

import itertools
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sandbox.plotting.layout import cut, texts
from tests.plotting.vision import least_difference

SLACK = 1.0
"""Pixels by which boxes may touch."""
LEAST = 15.0
"""CIEDE2000 between curves of a panel."""


def faults(fig: Figure) -> list[str]:
    """One phrase a fault; none for a figure that can be printed."""
    whole = [f"{text!r} is cut" for text in cut(fig)]
    return [*whole, *_collisions(fig), *_covered(fig), *_confused(fig)]


def _collisions(fig: Figure) -> Iterator[str]:
    for (a, x), (b, y) in itertools.combinations(texts(fig).items(), 2):
        width = min(x.x1, y.x1) - max(x.x0, y.x0)
        height = min(x.y1, y.y1) - max(x.y0, y.y0)
        if width > SLACK and height > SLACK:
            yield f"{a.get_text()!r} lies on {b.get_text()!r}"


def _covered(fig: Figure) -> Iterator[str]:
    for ax in fig.axes:
        legend = ax.get_legend()
        if legend is None or not legend.get_visible():
            continue
        box = legend.get_window_extent()
        for line in curves(ax):
            x, y = np.asarray(line.get_data(), float)
            known = np.isfinite(x) & np.isfinite(y)
            at = ax.transData.transform(np.stack([x[known], y[known]], 1))
            if line.get_linestyle() not in ("None", "") and len(at) > 1:
                steps = np.linspace(0, 1, 20, endpoint=False)[:, None, None]
                at = (at[:-1] + steps * np.diff(at, axis=0)).reshape(-1, 2)
            over = (at > box.min).all(1) & (at < box.max).all(1)
            if over.any():
                yield f"the legend of {ax.get_title(loc='left')!r} lies on a curve"
                break


def curves(ax: Axes) -> list[Line2D]:
    """Lines that are data, not references across the panel."""
    return [line for line in ax.get_lines() if line.get_transform() == ax.transData]


def _confused(fig: Figure) -> Iterator[str]:
    for ax in fig.axes:
        named = {
            (to_rgb(line.get_color()), line.get_linestyle(), str(line.get_marker()))
            for line in curves(ax)
            if not str(line.get_label()).startswith("_")
        }
        for (a, *style), (b, *other) in itertools.combinations(sorted(named), 2):
            if style == other and (d := least_difference(a, b)) < LEAST:
                yield f"{ax.get_title(loc='left')!r}: {a}, {b} differ by {d:.1f}"
