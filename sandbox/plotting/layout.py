"""Panel letters, legends that lie on no data, and what runs off a figure."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

CORNERS = ("upper left", "upper right", "lower right", "lower left")
CORNERS += ("center right", "center left", "upper center", "lower center", "center")
PAD = 3.0
"""Pixels between a legend and what is drawn."""


def letter(fig: Figure) -> None:
    """Puts a, b, c, ... before the titles of a figure's panels, in their order."""
    seen = list[tuple[float, ...]]()
    panels = list[Axes]()
    for ax in fig.axes:
        place = ax.get_position(original=True).bounds
        if place not in seen:  # a second axis of a panel has none of its own
            seen.append(place)
            panels.append(ax)
    if len(panels) < 2:
        return
    for ax, name in zip(panels, "abcdefghijklmnopqrstuvwxyz", strict=False):
        ax.set_title(rf"$\mathbf{{{name}}}$  {ax.get_title(loc='left')}", loc="left")


def clear(fig: Figure) -> None:
    """Moves every panel's legend to a corner that is free, or makes room above."""
    owners = [ax for ax in fig.axes if ax.get_legend() is not None]
    if not owners:
        return
    fig.draw_without_rendering()
    for ax in owners:
        if not _free(ax):
            _make_room(ax)


def _free(ax: Axes) -> bool:
    legend = ax.get_legend()
    assert legend is not None
    owners = [a for a in ax.figure.axes if _same(a, ax)]
    for references in (True, False):
        for corner in (None, *CORNERS):
            if corner is not None:
                legend.set_loc(corner)
            box = legend.get_window_extent().padded(PAD)
            if not any(hits(a, box, references=references) for a in owners):
                return True
    return False


def _same(a: Axes, b: Axes) -> bool:
    return a.get_position().bounds == b.get_position().bounds


def _make_room(ax: Axes) -> None:
    """Raises the top of the axis until the legend, at the upper left, is above."""
    legend = ax.get_legend()
    assert legend is not None
    legend.set_loc("upper left")
    axis, scale = ax.transAxes.inverted(), ax.yaxis.get_transform()
    _, bottom = axis.transform(legend.get_window_extent().padded(2 * PAD).min)
    low, high = scale.transform(np.asarray(ax.get_ylim()))
    top = low + (high - low) / max(bottom, 0.3)
    if ax.get_yscale() == "linear":  # no ticks beside the legend
        limits = sorted(ax.get_ylim())
        ax.set_yticks([y for y in ax.get_yticks() if limits[0] <= y <= limits[1]])
    ax.set_ylim(top=float(scale.inverted().transform(np.asarray([top]))[0]))


def hits(ax: Axes, box: Bbox, *, references: bool = True) -> bool:
    """Whether anything that an axes shows enters a box, in pixels.

    `references` are lines across the whole panel, by `axvline` or `axhline`.
    """
    for line in ax.get_lines():
        path, across = line.get_path(), line.get_transform() != ax.transData
        if not len(points(path)) or (across and not references):
            continue
        shown = line.get_transform().transform_path(path)
        marked = line.get_marker() not in ("", "None", None)
        joined = line.get_linestyle() not in ("None", "", " ")
        if marked and any(box.contains(x, y) for x, y in points(shown)):
            return True
        if joined and _crosses(shown, box):
            return True
    for drawn in ax.collections:
        if isinstance(drawn, PathCollection):
            at = drawn.get_offset_transform().transform(drawn.get_offsets())
            if any(box.contains(x, y) for x, y in at):
                return True
            continue
        whole = isinstance(drawn, PolyCollection)
        for path in drawn.get_paths():
            shown = drawn.get_transform().transform_path(path)
            if shown.intersects_bbox(box, filled=whole):
                return True
    texts = [t.get_window_extent() for t in ax.texts if t.get_text()]
    return any(box.overlaps(t) for t in texts)


def _crosses(path: Path, box: Bbox) -> bool:
    """Whether a curve, broken where it is NaN, enters a box."""
    at = points(path)
    known = np.asarray(np.isfinite(at).all(1))
    pieces = np.split(np.arange(len(known)), np.flatnonzero(np.diff(known)) + 1)
    return any(
        Path(at[piece]).intersects_bbox(box, filled=False)
        for piece in pieces
        if known[piece[0]] and len(piece) > 1
    )


def cut(fig: Figure) -> list[str]:
    """Draws a figure, and returns its texts that do not fit on it."""
    fig.draw_without_rendering()
    page = fig.bbox.padded(1)
    out = []
    for text, box in texts(fig).items():
        inside = page.containsx(box.x0) and page.containsx(box.x1)
        if not (inside and page.containsy(box.y0) and page.containsy(box.y1)):
            out.append(text.get_text())
    return out


def texts(fig: Figure) -> dict[Text, Bbox]:
    """Every text that a drawn figure shows, and its box in pixels."""
    found, hidden = list[Text](), set[Text]()
    for artist in fig.findobj():
        if isinstance(artist, Text):
            found.append(artist)
        elif isinstance(artist, Legend) and not artist.get_visible():
            hidden |= set(artist.get_texts())
        elif isinstance(artist, Axis):  # those of insets and of secondary axes, too
            along = artist.get_transform()
            low, high = sorted(along.transform(artist.get_view_interval()))
            slack = 1e-6 * (high - low)
            for tick in (*artist.get_major_ticks(), *artist.get_minor_ticks()):
                at = along.transform(tick.get_loc())
                if not low - slack <= at <= high + slack or not artist.get_visible():
                    hidden |= {tick.label1, tick.label2}
    return {
        t: t.get_window_extent()
        for t in found
        if t not in hidden and t.get_text().strip() and t.get_visible()
    }


def points(path: Path) -> Float[np.ndarray, "n 2"]:
    """The vertices of a path."""
    return np.asarray(path.vertices, float)
