"""Bounds that belong to one field of a record, written where the field is declared.

    points: Annotated[int, AtLeast(2)] = 100_000
    momentum: Annotated[float, Within(0, 1, "[)")] = 0.0
    widths: tuple[Annotated[int, AtLeast(1)], ...] = (100,)
    give_up: Annotated[int, AtLeast(1)] | None = None
    tau: Annotated[float | Anneal, AtLeast(0)] = 1.0

A record's `__post_init__` begins with `check_fields(self, "probe")`, which also refuses
what the plain annotation rules out: an `int` must be a whole number and no bool, a
`float` finite, a `Literal` one of its options. A record in a union with numbers has
`numbers`, what the bound applies to. What relates several fields is said by `require`.
"""

import reprlib
import types
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from math import inf
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from sandbox.errors import require

LONGEST = 60
"""Characters of a value or a name that a message repeats."""
_PLAIN = {bool: "True or False", str: "a text"}


@dataclass(frozen=True)
class Within:
    """Numbers between two, both included unless `ends` says otherwise."""

    low: int | float
    high: int | float
    ends: Literal["[]", "[)", "(]", "()"] = "[]"

    def __contains__(self, value: int | float) -> bool:
        """Whether a number keeps to the bound."""
        low, high = (end in "[]" for end in self.ends)
        above = self.low <= value if low else self.low < value
        return above and (value <= self.high if high else value < self.high)

    def words(self, kind: type) -> str:
        """How a message goes on after `must`."""
        finite = " and finite" if kind is float else ""
        if self.high < inf and self.low > -inf:
            if kind is int and self.ends == "[]":
                return f"lie in {self.low}..{self.high}"
            return f"lie in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"
        if self.high < inf:
            return f"be at most {self.high}{finite}"
        if self.ends[0] == "[":
            return f"be at least {self.low}{finite}"
        return f"be {f'more than {self.low}' if self.low else 'positive'}{finite}"


def AtLeast(least: int | float) -> Within:
    """Numbers from `least`."""
    return Within(least, inf)


def AtMost(most: int | float) -> Within:
    """Numbers up to `most`."""
    return Within(-inf, most)


def MoreThan(low: int | float) -> Within:
    """Numbers above `low`, without it."""
    return Within(low, inf, "(]")


def check_fields(record: Any, prefix: str = "") -> None:
    """Refuses values that do not fit the annotation of their own field.

    Args:
      record: a dataclass.
      prefix: what messages call it: `probe.points must be at least 2, got 1.`

    Raises:
      ConfigError: with the field, what it must be and what it is.
    """
    for name, hint in _hints(type(record)).items():
        path = f"{prefix}.{name}" if prefix else name
        wrong = _wrong(hint, getattr(record, name), path)
        require(not wrong, wrong)


@cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls)}


def _wrong(hint: Any, value: Any, name: str) -> str:
    """What is wrong with a value, as a sentence; empty if nothing is."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [b for b in args[1:] if isinstance(b, Within)]
        return _out_of_bounds(args[0], bounds, value, name)
    if origin in (Union, types.UnionType):
        wrongs = [_wrong(option, value, name) for option in args]
        return wrongs[0] if all(wrongs) else ""
    must = _misfit(hint, value)
    if not must and origin is tuple and args[1:] == (...,):
        items = (_wrong(args[0], v, f"{name}[{i}]") for i, v in enumerate(value))
        return next(filter(None, items), "")
    return f"{name} must be {must}, got {shown(value)}." if must else ""


def _out_of_bounds(base: Any, bounds: list[Within], value: Any, name: str) -> str:
    options = get_args(base) or (base,)
    kind = float if float in options else int
    if kind is int or not bounds:  # for a float the bound's own sentence says it all
        if wrong := _wrong(base, value, name):
            return wrong
    has_numbers = any(_is_record(o) and isinstance(value, o) for o in options)
    numbers = value.numbers if has_numbers else (value,)
    for bound in bounds:
        if not all(is_number(v) and v in bound for v in numbers):
            return f"{name} must {bound.words(kind)}, got {shown(value)}."
    return ""


def _is_record(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def _misfit(hint: Any, value: Any) -> str:
    """What a value of a plain type must be instead; empty where it fits."""
    if hint is int:
        return "" if is_whole(value) else "a whole number"
    if hint is float:
        return "" if is_number(value) else "a finite number"
    if get_origin(hint) is Literal:
        *most, last = get_args(hint)
        known = not isinstance(value, bool) and value in get_args(hint)
        return "" if known else " or ".join(filter(None, (", ".join(most), last)))
    if hint is None or hint is type(None):
        return "" if value is None else "None"
    if hint in _PLAIN:
        return "" if isinstance(value, hint) else _PLAIN[hint]
    if get_origin(hint) is tuple:
        return "" if isinstance(value, tuple) else "a tuple"
    if _is_record(hint):
        return "" if isinstance(value, hint) else f"a {hint.__name__}"
    return ""  # a protocol, an array: not for one field to judge


def is_whole(value: object) -> bool:
    """Whether a value is an `int` proper, which is what records store."""
    return type(value) is int


def is_number(value: object) -> bool:
    """Whether a value is a finite number and no `bool`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300  # neither infinite nor NaN


def shown(value: Any) -> str:
    """A value as a message shows it: short, whatever its size or depth."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxlist, short.maxdict = 3, 200, 20, 20
    try:
        text = short.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        text = "a number of thousands of digits"
    return cut(text)


def cut(text: str, most: int = LONGEST) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."
