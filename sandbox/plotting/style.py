"""Figure sizes, the colour of each strategy, and byte-stable saving."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import style as mpl_style
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text

from sandbox.store.files import make_folder, write_atomic

STYLE = Path(__file__).with_name("sandbox.mplstyle")
WIDE = 6.75
"""Text width in inches."""
UNDATED = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
"""What is left out of each file, so that it says nothing of when it was made."""

COLORS = {
    "teacher": "#000000",
    "ce": "#9a9aa1",
    "one_shot": "#af2c29",
    "one_shot_hard": "#e58f86",
    "progressive": "#4283ea",
    "two_shot": "#5c21b5",
    "middle": "#5c21b5",
    "before": "#f7a820",
    "before_last": "#8b5907",
    "after": "#2f9c5e",
    "blind": "#e1529a",
    "half_rise": "#30a8cb",
    "by_level": "#04766e",
    "by_node": "#c76b0b",
}
"""One colour a strategy or candidate checkpoint, the same in every figure.

Those that meet in a panel differ by 15 or more (CIEDE2000), also to eyes without red or
green cones; a variant has its strategy's hue and a broken line.
"""
MARKERS = {
    "teacher": "",
    "ce": "s",
    "one_shot": "o",
    "one_shot_hard": "x",
    "progressive": "^",
    "two_shot": "D",
    "middle": "D",
    "before": "s",
    "before_last": "P",
    "after": "o",
    "blind": "v",
    "half_rise": "^",
    "by_level": "v",
    "by_node": "P",
}
"""Marks of the same, which tell curves apart where they coincide."""
FAMILIES = {
    "labels": "#9e9c9a",
    "checkpoints": "#1c72f7",
    "parts": "#1a805d",
    "final": "#e08a1f",
    "moving": "#700ea9",
    "tuned": "#b55795",
}
"""One colour a family of methods."""
FAMILY_WORDS = {
    "labels": "labels, final outputs, controls",
    "checkpoints": "checkpoints as they are",
    "parts": "parts of their targets",
    "final": "other uses of the final teacher",
    "moving": "teachers that move",
    "tuned": "teachers that learn to teach",
}
"""What figures call them."""
DEGREE_COLORS = ("#117b76", "#e19f1f", "#7d2e8e", "#3c86d3", "#c7553d")
"""Colours of monomial degrees 1, 2, ..., or of other groups that are not strategies."""
SEQUENCE = ("#2a0a4a", "#3b528b", "#1b918c", "#65c188", "#e4be1f")
"""Colours of an ordered quantity, the least one darkest."""
LINES = ("-", "--", ":", "-.")
"""Of names that share a colour."""
NAMES = {
    "teacher": "teacher",
    "ce": "CE (labels)",
    "one_shot": "one-shot",
    "progressive": "progressive",
    "two_shot": "2-shot",
}
"""What a strategy is called where its name does not say it."""


def color_of(name: str) -> str:
    """A strategy's colour; the same grey for every name without one of its own."""
    return COLORS.get(name, "#6b7280")


def name_of(name: str) -> str:
    """What a strategy, or who else has a name, is called in figures."""
    return NAMES.get(name, name.replace("_", " "))


def apart(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour of every name, its own where it has one, and a line for who shares it."""
    style: dict[str, dict[str, Any]] = {n: {} for n in names}
    for i, name in enumerate(n for n in names if n not in COLORS):
        nth, color = divmod(i, len(DEGREE_COLORS))
        style[name] = {
            "color": DEGREE_COLORS[color],
            "linestyle": LINES[nth % len(LINES)],
        }
    return {n: s or {"color": COLORS[n]} for n, s in style.items()}


class Shown(Figure):
    """A figure that a notebook shows, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with styled():
            self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


@contextmanager
def styled() -> Iterator[None]:
    """Draws with the project's style and no display."""
    with mpl.rc_context():
        mpl_style.use(STYLE)
        yield


def sequence(n: int) -> list[str]:
    """Colours of n values of an ordered quantity, spread over `SEQUENCE`."""
    along = LinearSegmentedColormap.from_list("sequence", SEQUENCE, N=1025)
    return [to_hex(along(i / max(n - 1, 1))) for i in range(n)]


def save(fig: Figure, stem: Path) -> list[Path]:
    """Writes `stem.png`, `.svg` and `.pdf` atomically; same data, same bytes.

    A character that the font lacks is written by its number (U+6587), not as a box.

    Args:
      fig: the figure.
      stem: path without suffix.

    Returns:
      The three paths in this order.
    """
    make_folder(stem.parent)
    written = []
    with styled():
        for text in fig.findobj(Text):
            _number_missing(text)  # pyright: ignore[reportArgumentType]
        fig.draw_without_rendering()  # lays out once for all files
        fig.set_layout_engine("none")
        for suffix, metadata in UNDATED.items():
            buffer = io.BytesIO()
            fig.savefig(buffer, format=suffix, metadata=metadata)
            path = stem.with_name(f"{stem.name}.{suffix}")
            write_atomic(path, buffer.getvalue())
            written.append(path)
    return written


def _number_missing(text: Text) -> None:
    """Writes what the font of a text has no glyph for as `U+6587`."""
    shown = text.get_text()
    if not shown.isascii():
        glyphs = get_font(findfont(text.get_fontproperties())).get_charmap()
        text.set_text(
            "".join(
                c if c == "\n" or ord(c) in glyphs else f"U+{ord(c):04X} "
                for c in shown
            )
        )
