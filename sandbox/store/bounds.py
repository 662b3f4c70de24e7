"""Bounds that belong to one field of a record, written where the field is declared.

    points: Annotated[int, AtLeast(2)] = 100_000
    momentum: Annotated[float, Within(0, 1, "[)")] = 0.0
    widths: tuple[Annotated[int, AtLeast(1)], ...] = (100,)
    steps: Annotated[tuple[int, ...], Increasing(2)] = (1, 10)
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
from itertools import pairwise
from math import inf
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from sandbox.errors import require

LONGEST = 60
"""Characters of a value or a name that a message repeats."""
_UNIONS = (Union, types.UnionType)
_NOUNS = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "a text",
    type(None): "None",
}


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


@dataclass(frozen=True)
class Increasing:
    """Tuples of at least so many entries, each above the one before."""

    least: int = 1

    def __contains__(self, value: tuple[Any, ...]) -> bool:
        """Whether a tuple keeps to the bound."""
        rises = all(a < b for a, b in pairwise(value))
        return rises and len(value) >= self.least

    @property
    def words(self) -> str:
        """How a message goes on after `must`."""
        return f"hold {self.least} or more entries that increase"


def check_fields(record: Any, prefix: str = "") -> None:
    """Refuses values that do not fit the annotation of their own field.

    Args:
      record: a dataclass.
      prefix: what messages call it: `probe.points must be at least 2, got 1.`

    Raises:
      ConfigError: with the field, what it must be and what it is.
    """
    for name, (plain, full) in _hints(type(record)).items():
        value = getattr(record, name)
        must = _violated(full, value)
        if not must and not _fits(plain, value):
            must = f"be {_noun(plain)}"
        where = f"{prefix}.{name}" if prefix else name
        require(not must, f"{where} must {must}, got {shown(value)}.")


@cache
def _hints(cls: Any) -> dict[str, tuple[Any, Any]]:
    """Name -> annotation without and with its bounds."""
    plain, full = get_type_hints(cls), get_type_hints(cls, include_extras=True)
    return {f.name: (plain[f.name], full[f.name]) for f in fields(cls)}


def _violated(hint: Any, value: Any) -> str:
    """What a value must do to keep to its bounds; empty if it does."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, tuple):
        words = next(filter(None, (_violated(args[0], v) for v in value)), "")
        return words and f"{words} in each entry"
    if origin in _UNIONS:
        own = [option for option in args if _fits(option, value)]
        return _violated((own or args)[0], value)
    if origin is Annotated:
        kind = float if float in (args[0], *get_args(args[0])) else int
        rising = next((b for b in args[1:] if isinstance(b, Increasing)), None)
        if rising is not None and _fits(args[0], value):  # else its type is at fault
            said = "" if value in rising else rising.words
            return _violated(args[0], value) or said
        for bound in (b for b in args[1:] if isinstance(b, Within)):
            for v in getattr(value, "numbers", (value,)):
                # What is no number at all: for a float the bound's words say it too.
                if v not in bound if is_whole(v) or is_number(v) else kind is float:
                    return bound.words(kind)
    return ""


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of the plain type of an annotation."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fits(args[0], value)
    if origin in _UNIONS:
        return any(_fits(option, value) for option in args)
    if origin is tuple:
        items = value if args[1:] == (...,) else ()
        return isinstance(value, tuple) and all(_fits(args[0], v) for v in items)
    if origin is Literal:
        return value in args and not isinstance(value, bool)
    if hint in (int, float):
        return is_whole(value) if hint is int else is_number(value)
    if hint in _NOUNS or _is_record(hint):
        return isinstance(value, hint)
    if getattr(hint, "_is_protocol", False):
        return isinstance(value, hint) and not isinstance(value, type)
    return True  # an array: not for one field to judge


def _noun(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in _UNIONS and not all(map(_is_record, args)):
        return _noun(args[0]) + " or None" * (type(None) in args)
    if origin is tuple:
        item, of, items = _noun(args[0]).removeprefix("a ").partition(" of ")
        return f"a tuple of {item}s{of}{items}"
    if origin is Literal or origin in _UNIONS:
        names = [a if origin is Literal else f"{a.__name__}()" for a in args]
        return ", ".join(names[:-1]) + f" or {names[-1]}"
    return _NOUNS.get(hint) or f"a {hint.__name__}"


def _is_record(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


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
