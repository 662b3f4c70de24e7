"""Claims as statistics with a rule fixed before the runs.

    yield at_most("P2", r.n90["progressive"] / r.n90.teacher, 1.5,
                  "the progressive student keeps the teacher's pace",
                  paper="Fig. 1 left: 1.0 by 11M")

A claim holds if its statistic (the median over teachers of one number each) satisfies
the point rule and, with ten teachers or more, the worse end of its 95% bootstrap
interval supports it:

    at_least r   value >= r, lower end >= r; of ratios of samples: lower end > 1
    at_most r    value <= r, upper end <= r; of ratios of samples: upper end <= 2
    below r      value < r, upper end < r
    positive     value > 0, lower end > 0

With fewer teachers the point rule decides and the interval is shown; with one there is
no interval. `holds` is None where nothing could be measured. How many teachers there
are is counted before any of them drops out of a ratio. The text of a rule is made from
the rule.
"""

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from sandbox.study.result import Quantity, Taught
from sandbox.text import digits, number
from sandbox.theory.sample_complexity import Estimate, median_estimate

ENOUGH = 10
"""Teachers from which the interval must support the claim."""

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class Statistic(NamedTuple):
    """A number that is no median over teachers, such as an exponent.

    Attributes:
      estimate: the number and its interval.
      text: what it is.
      teachers: behind each point it was computed from.
      students: that entered.
    """

    estimate: Estimate
    text: str
    teachers: int
    students: int = 0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One row of a claims table.

    Attributes:
      id: e.g. `P3.ce`.
      statement: what is claimed, in words.
      rule: the rule that decides, in words.
      paper: what the paper shows, as text.
      scale: the scales that the rule is for.
      since: date and commit that first evaluated it; empty for a new one.
      obtained: the statistic.
      lower: lower end of its interval.
      upper: upper end.
      students_lower: smallest statistic of a single student; NaN with one a teacher.
      students_upper: largest.
      seeds: teachers and students that entered.
      single_teacher: whether it rests on one teacher.
      holds: True, False, or None if it was not run.
    """

    id: str
    statement: str
    rule: str
    paper: str
    scale: str = "any"
    since: str = ""
    obtained: float
    lower: float
    upper: float
    students_lower: float = math.nan
    students_upper: float = math.nan
    seeds: dict[str, int]
    single_teacher: bool
    holds: bool | None

    def to_json(self) -> dict[str, Any]:
        """The row as JSON data."""
        row = asdict(self)
        return {k: number(v) if isinstance(v, float) else v for k, v in row.items()}


def at_least(
    id: str,
    what: Quantity | Statistic,
    bound: int | float,
    statement: str,
    *,
    paper: str = "not in the paper",
    lower: int | float | None = None,
) -> Claim:
    """Claims that a number is at least `bound`.

    Args:
      id: e.g. `P3.ce`.
      what: the number.
      bound: least value of the statistic.
      statement: in words.
      paper: what the paper shows.
      lower: the interval's lower end must exceed it, where that is not `bound` (or 1
        of ratios).
    """
    if lower is None and isinstance(what, Quantity) and what.ratio:
        lower = 1.0
    end = (">=", bound) if lower is None else (">", lower)
    return _claim(id, what, (">=", bound), end, statement, paper)


def at_most(
    id: str,
    what: Quantity | Statistic,
    bound: int | float,
    statement: str,
    *,
    paper: str = "not in the paper",
) -> Claim:
    """Claims that a number is at most `bound`; arguments as of `at_least`."""
    ratio = isinstance(what, Quantity) and what.ratio
    end = ("<=", 2.0 if ratio else bound)
    return _claim(id, what, ("<=", bound), end, statement, paper)


def below(
    id: str,
    what: Quantity,
    bound: int | float,
    statement: str,
    *,
    paper: str = "not in the paper",
    in_all: bool = False,
) -> Claim:
    """Claims that a number is below `bound`, with `in_all` that of every student.

    The other arguments are as of `at_least`.
    """
    rule = ("<", bound)
    return _claim(id, what, rule, rule, statement, paper, in_all=in_all)


def positive(
    id: str,
    what: Quantity | Statistic,
    statement: str,
    *,
    paper: str = "not in the paper",
) -> Claim:
    """Claims that a number is positive; arguments as of `at_least`."""
    return _claim(id, what, (">", 0.0), (">", 0.0), statement, paper)


def pace(r: Taught, id: str, most: float, paper: str, on: str = "") -> Claim:
    """That progressive students learn about as soon as their teacher."""
    ratio = r.n90["progressive"] / r.n90.teacher
    words = f"{on}the progressive student keeps the teacher's pace"
    return at_most(id, ratio, most, words, paper=paper)


def later(r: Taught, id: str, ce: str, one_shot: str, on: str = "") -> Iterator[Claim]:
    """That CE and one-shot students, shown so in the paper, take twice as long."""
    for name, paper in (("ce", ce), ("one_shot", one_shot)):
        ratio = r.n90[name] / r.n90["progressive"]
        words = f"{on}{r.label(name)} learns later than progressive"
        yield at_least(f"{id}.{name}", ratio, 2.0, words, paper=paper)


def _claim(
    id: str,
    what: Quantity | Statistic,
    point: tuple[str, int | float],
    end: tuple[str, int | float],
    statement: str,
    paper: str,
    *,
    in_all: bool = False,
) -> Claim:
    """Evaluates a rule.

    Where a teacher has several students, its number is their median, or the largest if
    the rule speaks of all of them.
    """
    low = high = math.nan
    if isinstance(what, Statistic):
        estimate, text, trained, students = what
        teachers = trained
    else:
        each, known = what.values, what.values[~np.isnan(what.values)]
        estimate = median_estimate(_per_teacher(each, in_all=in_all))
        over = "largest over a teacher's students, median of " if in_all else "median "
        text, trained, teachers = over + what.text, len(each), estimate.n
        students = len(known) if what.students else 0
        if students and each.shape[1] > 1:
            low, high = float(known.min()), float(known.max())
    return Claim(
        id=id,
        statement=statement,
        rule=_rule(text, point, end),
        paper=paper,
        obtained=estimate.value,
        lower=estimate.lower,
        upper=estimate.upper,
        students_lower=low,
        students_upper=high,
        seeds={"teachers": teachers, "students": students},
        single_teacher=trained == 1,
        holds=_decide(point, end, estimate, teachers=trained),
    )


def _rule(
    text: str, point: tuple[str, int | float], end: tuple[str, int | float]
) -> str:
    side = "lower" if end[0] in (">", ">=") else "upper"
    return f"{text} {point[0]} {point[1]:g}, {side} end {end[0]} {end[1]:g}"


def _per_teacher(each: np.ndarray, *, in_all: bool) -> np.ndarray:
    """One number a teacher from `(T, I)`, over the students that have one."""
    known = [row[~np.isnan(row)] for row in each]
    of = max if in_all else lambda row: median_estimate(row).value
    return np.asarray([of(row) if len(row) else math.nan for row in known])


def _decide(
    point: tuple[str, int | float],
    end: tuple[str, int | float],
    e: Estimate,
    *,
    teachers: int,
) -> bool | None:
    """Applies a rule to an estimate from a number of trained teachers."""
    if e.n == 0 or math.isnan(e.value):
        return None
    worse = e.lower if end[0] in (">", ">=") else e.upper
    return bool(
        _OPERATORS[point[0]](e.value, point[1])
        and (teachers < ENOUGH or _OPERATORS[end[0]](worse, end[1]))
    )


def show(c: Claim) -> str:
    """The statistic with its interval."""
    if c.holds is None:
        return "not run"
    text = digits(c.obtained)
    if not math.isnan(c.lower):
        text += f" [{digits(c.lower)}, {digits(c.upper)}]"
    if not math.isnan(c.students_lower):
        text += f" ({digits(c.students_lower)} to {digits(c.students_upper)})"
    return text
