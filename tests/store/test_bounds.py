"""Bounds written into the annotation of a field."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import tyro

from sandbox.errors import ConfigError
from sandbox.store.bounds import AtLeast, AtMost, MoreThan, Within, check_fields
from sandbox.store.config import digest, from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """Two numbers where one is declared."""

    start: float
    end: float

    @property
    def numbers(self) -> tuple[float, float]:
        """What a bound applies to."""
        return self.start, self.end


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """A field of each kind."""

    n: Annotated[int, AtLeast(1), AtMost(9)] = 5
    depth: Annotated[int, Within(1, 10)] = 3
    share: Annotated[float, Within(0, 1, "[)")] = 0.0
    rate: Annotated[float, MoreThan(0)] = 1.0
    speed: Annotated[float, AtMost(2)] = 1.0
    tau: Annotated[float | Ramp, AtLeast(0)] = 1.0
    limit: Annotated[int, MoreThan(4)] | None = None
    widths: tuple[Annotated[int, AtLeast(1)], ...] = (100,)
    kind: Literal["a", "b", "c"] = "a"
    flag: bool = False
    level: float = 0.5
    ramp: Ramp | None = None

    def __post_init__(self) -> None:
        """Checks."""
        check_fields(self, "r")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n", 0, "r.n must be at least 1, got 0."),
        ("n", 10, "r.n must be at most 9, got 10."),
        ("n", "x", "r.n must be a whole number, got 'x'."),
        ("n", True, "r.n must be a whole number, got True."),
        ("n", 2.0, "r.n must be a whole number, got 2.0."),
        ("n", -(10**40), "r.n must be at least 1, got -1000000000000"),
        ("depth", 11, "r.depth must lie in 1..10, got 11."),
        ("share", 1, "r.share must lie in [0, 1), got 1."),
        ("share", "0", "r.share must lie in [0, 1), got '0'."),
        ("rate", 0, "r.rate must be positive and finite, got 0."),
        ("rate", math.nan, "r.rate must be positive and finite, got nan."),
        ("rate", math.inf, "r.rate must be positive and finite, got inf."),
        ("speed", 2.5, "r.speed must be at most 2 and finite, got 2.5."),
        ("tau", -1, "r.tau must be at least 0 and finite, got -1."),
        (
            "tau",
            Ramp(start=-1.0, end=1.0),
            "r.tau must be at least 0 and finite, got Ramp",
        ),
        ("tau", None, "r.tau must be at least 0 and finite, got None."),
        ("limit", 4, "r.limit must be more than 4, got 4."),
        ("limit", 4.5, "r.limit must be a whole number or None, got 4.5."),
        ("rate", Ramp(start=1.0, end=2.0), "r.rate must be a finite number, got Ramp("),
        ("widths", (3, 0), "r.widths must be at least 1 in each entry, got (3, 0)."),
        ("widths", [3], "r.widths must be a tuple of whole numbers, got [3]."),
        ("widths", (3, 4.0), "r.widths must be a tuple of whole numbers, got (3, 4."),
        ("kind", "d", "r.kind must be a, b or c, got 'd'."),
        ("kind", ["a"], "r.kind must be a, b or c, got ['a']."),
        ("flag", 1, "r.flag must be True or False, got 1."),
        ("level", math.nan, "r.level must be a finite number, got nan."),
        ("ramp", 3, "r.ramp must be a Ramp or None, got 3."),
    ],
)
@pytest.mark.usefixtures("no_shapes")
def test_a_misfit_is_named(name: str, value: Any, message: str) -> None:
    """Field, what it must be, and what it is."""
    with pytest.raises(ConfigError) as error:
        Bounded(**{name: value})
    assert str(error.value).startswith(message)


def test_records_and_commands_see_through_bounds() -> None:
    """JSON, hash and command line are those of the plain annotations."""
    full = Bounded(share=0.0, tau=Ramp(start=0.0, end=2.0), limit=5, widths=(2, 3))
    data = to_json(full)
    assert data["share"] == 0.0 and isinstance(data["share"], float)
    assert from_json(Bounded, data) == full
    assert digest(data) == digest(to_json(from_json(Bounded, data)))
    parsed = tyro.cli(Bounded, args="--n 7 --widths 2 3 --limit 8 --share 0.5".split())
    assert parsed == Bounded(n=7, widths=(2, 3), limit=8, share=0.5)
