"""Figure sizes, the colour of each strategy, and byte-stable saving."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import style as mpl_style
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text

from sandbox.store.files import make_folder, write_atomic

STYLE = Path(__file__).with_name("sandbox.mplstyle")
WIDE = 6.75
"""Text width in inches."""

COLORS = {
    "teacher": "#000000",
    "ce": "#9c9ca1",
    "one_shot": "#e42536",
    "one_shot_hard": "#f2a1a8",
    "progressive": "#5790fc",
    "two_shot": "#7a21dd",
    "middle": "#7a21dd",
    "before": "#f89c20",
    "before_last": "#b9730a",
    "after": "#2a9d4e",
    "blind": "#d6409f",
    "half_rise": "#0b7fa3",
    "by_level": "#1b7f79",
    "by_node": "#8c510a",
}
"""One colour a strategy or candidate checkpoint, the same in every figure."""


DEGREE_COLORS = ("#0b6e69", "#c17c00", "#5a5a5a", "#a0522d", "#4b0082")
"""Colours of monomial degrees 1, 2, ...; none is a strategy's."""


LINES = ("-", "--", ":")
"""Of names that share a colour."""


def color_of(name: str) -> str:
    """A strategy's colour; the same grey for every name without one of its own."""
    return COLORS.get(name, "#6b7280")


def apart(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour of every name, its own where it has one, and a line for who shares it."""
    style: dict[str, dict[str, Any]] = {n: {} for n in names}
    for i, name in enumerate(n for n in names if n not in COLORS):
        nth, color = divmod(i, len(DEGREE_COLORS))
        style[name] = {"color": DEGREE_COLORS[color], "linestyle": LINES[nth % 3]}
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


def save(fig: Figure, stem: Path) -> tuple[Path, Path]:
    """Writes `stem.png` and `stem.svg` atomically; same data, same bytes.

    A character that the font lacks is written by its number (U+6587), not as a box.

    Args:
      fig: the figure.
      stem: path without suffix.
    """
    make_folder(stem.parent)
    written = []
    with styled():
        for text in fig.findobj(Text):
            _number_missing(text)  # pyright: ignore[reportArgumentType]
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            fig.savefig(buffer, format=suffix, metadata=metadata)
            path = stem.with_name(f"{stem.name}.{suffix}")
            write_atomic(path, buffer.getvalue())
            written.append(path)
    return written[0], written[1]


def _number_missing(text: Text) -> None:
    """Writes what the font of a text has no glyph for as `U+6587`."""
    shown = text.get_text()
    if not shown.isascii():
        glyphs = get_font(findfont(text.get_fontproperties())).get_charmap()
        text.set_text(
            "".join(c if ord(c) in glyphs else f"U+{ord(c):04X} " for c in shown)
        )
