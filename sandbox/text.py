"""Words and numbers as people and JSON read them: near names, tables, sizes."""

import csv
import difflib
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

_LONG_NAME = 60
"""Characters of a name that are compared and repeated; more is cut."""


def near(word: object, known: Iterable[str], most: int) -> list[str]:
    """The known names near a word, the nearest first."""
    names = [k for k in known if len(k) <= _LONG_NAME]
    short = word if isinstance(word, str) and len(word) <= _LONG_NAME else ""
    return difflib.get_close_matches(short, names, n=most)


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known name nearest to a word, if any is near."""
    return next(iter(near(word, known, 1)), None)


def meant(word: object, known: Iterable[str], *, otherwise: str = "") -> str:
    """The end of a message: `; did you mean NAME?`, or `otherwise` if none is near."""
    name = nearest(word, known)
    return f"; did you mean {name}?" if name else otherwise


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """`there is no WHAT 'word'; did you mean NAME?`, else the names there are."""
    known = list(known)
    hint = meant(word, known, otherwise=f"; it is one of {', '.join(known)}")
    return f"there is no {what} {word[:_LONG_NAME]!r}{hint}"


def printable(text: str, most: int = 1000) -> str:
    """Text of unknown origin on one line: nothing in it can steer a terminal."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def number(value: int | float) -> float | str | None:
    """A number as JSON can hold it: NaN as null, infinities as text."""
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else str(float(value))


def digits(value: int | float) -> str:
    """Three significant digits, or an infinity sign."""
    return "∞" if math.isinf(value) else f"{value:.3g}"


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as comma-separated values, a line each."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def verdict(point: bool | None, whole: bool | None) -> str:
    """What a claim's two answers, those of point and interval, come to in words."""
    if point is None:
        return "not run"
    return ("held" if whole else "point only") if point else "failed"


def count(n: int | float) -> str:
    """A count in three digits: `950`, `12.8k`, `3.41M`."""
    n = float(f"{n:.3g}")
    power = next((p for p in range(3) if n < 1000 ** (p + 1)), 3)
    return f"{n / 1000**power:.3g}{('', 'k', 'M', 'G')[power]}"


def size(n_bytes: int | float) -> str:
    """Bytes as `812 B`, `3.4 MB`."""
    power = next((p for p in range(4) if n_bytes < 1000 ** (p + 1)), 4)
    unit = ("B", "kB", "MB", "GB", "TB")[power]
    return f"{n_bytes / 1000**power:.1f} {unit}" if power else f"{n_bytes} B"


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = ""
) -> str:
    """Aligned columns, two spaces apart.

    Args:
      header: a name for every column.
      rows: the cells.
      right: one letter a column, `r` to align it to the right.
    """
    sides = [">" if s == "r" else "<" for s in right.ljust(len(header))]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    shape = "  ".join(f"{{:{s}{w}}}" for s, w in zip(sides, widths, strict=True))
    return "\n".join(shape.format(*row).rstrip() for row in (header, *rows))
