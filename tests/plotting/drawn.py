"""What is wrong with a figure, seen on its drawn canvas."""

import itertools
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tests.plotting.vision import least_difference

SLACK = 1.0
"""Pixels by which boxes may touch."""
LEAST = 15.0
"""CIEDE2000 between curves of a panel."""


def faults(fig: Figure) -> list[str]:
    """One phrase a fault; none for a figure that can be printed."""
    fig.draw_without_rendering()
    return [*_cut(fig), *_collisions(fig), *_covered(fig), *_confused(fig)]


def texts(fig: Figure) -> dict[Text, Bbox]:
    """Every text that is shown, and its box in pixels."""
    hidden = set[Text]()
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            shown = set(map(id, axis._update_ticks() if axis.get_visible() else ()))
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if id(tick) not in shown:
                    hidden |= {tick.label1, tick.label2}
    for ax in fig.axes:
        if (legend := ax.get_legend()) is not None and not legend.get_visible():
            hidden |= set(legend.get_texts())
    return {
        t: t.get_window_extent()
        for t in fig.findobj(Text)
        if t.get_text().strip() and t.get_visible() and t not in hidden
    }


def _cut(fig: Figure) -> Iterator[str]:
    page = fig.bbox
    for t, box in texts(fig).items():
        inside = (
            box.x0 >= page.x0 - SLACK
            and box.x1 <= page.x1 + SLACK
            and box.y0 >= page.y0 - SLACK
            and box.y1 <= page.y1 + SLACK
        )
        if not inside:
            yield f"{t.get_text()!r} is cut"


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
