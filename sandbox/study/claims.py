"""Claims as statistics with a rule fixed before the runs.

    yield at_most("P2", r.n90["progressive"] / r.n90.teacher, 1.5,
                  "the progressive student keeps the teacher's pace",
                  paper="Fig. 1 left: 1.0 by 11M")

A rule compares a statistic (the median over teachers of one number each) with a
bound. Two questions are answered apart:

    point    does the statistic satisfy the rule
    whole    does the worse end of its 95% bootstrap interval over teachers, too

"held" is both, "point only" the first without the second, or without an interval, which
fewer than five teachers do not have: of n = 3, the bootstrap of a median covers 76%.
How many teachers entered, those that tied included, stands beside it. The text of a
rule is made from the rule, and the numbers that it was applied to are stored.
"""

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from sandbox.study.result import Quantity, Taught
from sandbox.text import digits, number, verdict
from sandbox.theory.sample_complexity import LEAST, Estimate, median_estimate

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
      values: the number of every teacher behind a median; empty of other statistics.
      teachers: that entered.
      students: that entered.
      point: whether the statistic satisfies the rule; None if it was not run.
      whole: whether the whole interval does; None without one.
      sensitivity: the verdicts that other bounds would give, in words.
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
    values: tuple[float, ...] = ()
    teachers: int
    students: int
    point: bool | None
    whole: bool | None
    sensitivity: str = ""

    @property
    def verdict(self) -> str:
        """`held`, `point only`, `failed` or `not run`."""
        return verdict(self.point, self.whole)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Claim":
        """Inverse of `to_json`."""
        numbers = ("obtained", "lower", "upper", "students_lower", "students_upper")
        values = tuple(_number(v) for v in row["values"])
        floats = {name: _number(row[name]) for name in numbers}
        return cls(**{**row, **floats, "values": values})

    def to_json(self) -> dict[str, Any]:
        """The row as JSON data."""
        row = {**asdict(self), "values": [number(v) for v in self.values]}
        if not self.sensitivity:
            del row["sensitivity"]
        return {k: number(v) if isinstance(v, float) else v for k, v in row.items()}


def _number(value: float | str | None) -> float:
    """Inverse of `sandbox.text.number`."""
    return math.nan if value is None else float(value)


def at_least(
    id: str,
    what: Quantity | Statistic,
    bound: int | float,
    statement: str,
    *,
    paper: str = "not in the paper",
    also: tuple[int | float, ...] = (),
) -> Claim:
    """Claims that a number is at least `bound`.

    Args:
      id: e.g. `P3.ce`.
      what: the number.
      bound: least value of the statistic.
      statement: in words.
      paper: what the paper shows.
      also: other bounds, whose verdicts stand beside the claim's and decide nothing.
    """
    return _claim(id, what, (">=", bound), statement, paper, also=also)


def at_most(
    id: str,
    what: Quantity | Statistic,
    bound: int | float,
    statement: str,
    *,
    paper: str = "not in the paper",
    also: tuple[int | float, ...] = (),
) -> Claim:
    """Claims that a number is at most `bound`; arguments as of `at_least`."""
    return _claim(id, what, ("<=", bound), statement, paper, also=also)


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
    return _claim(id, what, ("<", bound), statement, paper, in_all=in_all)


def positive(
    id: str,
    what: Quantity | Statistic,
    statement: str,
    *,
    paper: str = "not in the paper",
) -> Claim:
    """Claims that a number is positive; arguments as of `at_least`."""
    return _claim(id, what, (">", 0.0), statement, paper)


def above(
    id: str,
    what: Quantity | Statistic,
    bound: int | float,
    statement: str,
    *,
    paper: str = "not in the paper",
    also: tuple[int | float, ...] = (),
) -> Claim:
    """Claims that a number is above `bound`; arguments as of `at_least`."""
    return _claim(id, what, (">", bound), statement, paper, also=also)


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
    rule: tuple[str, int | float],
    statement: str,
    paper: str,
    *,
    in_all: bool = False,
    also: tuple[int | float, ...] = (),
) -> Claim:
    """Evaluates a rule.

    Where a teacher has several students, its number is their median, or the largest if
    the rule speaks of all of them.
    """
    low = high = math.nan
    values: tuple[float, ...] = ()
    if isinstance(what, Statistic):
        estimate, text, teachers, students = what
        if teachers < LEAST:
            estimate = estimate._replace(lower=math.nan, upper=math.nan)
    else:
        each, known = what.values, what.values[~np.isnan(what.values)]
        values = tuple(_per_teacher(each, in_all=in_all).tolist())
        estimate = median_estimate(np.asarray(values))
        over = "largest over a teacher's students, median of " if in_all else "median "
        text, teachers = over + what.text, estimate.n
        students = len(known) if what.students else 0
        if students and each.shape[1] > 1:
            low, high = float(known.min()), float(known.max())
    operator, bound = rule
    worse = estimate.lower if operator in (">", ">=") else estimate.upper

    def both(bound: int | float) -> tuple[bool | None, bool | None]:
        point = _satisfied(estimate.value, operator, bound)
        return point, _satisfied(worse, operator, bound)

    point, whole = both(bound)
    others = [f"{verdict(*both(b))} at {b:.3g}" for b in also]
    return Claim(
        id=id,
        statement=statement,
        rule=f"{text} {operator} {bound:g}",
        paper=paper,
        obtained=estimate.value,
        lower=estimate.lower,
        upper=estimate.upper,
        students_lower=low,
        students_upper=high,
        values=values,
        teachers=teachers,
        students=students,
        point=point,
        whole=whole,
        sensitivity=", ".join(others),
    )


def _satisfied(value: float, operator: str, bound: int | float) -> bool | None:
    """Whether a number satisfies a rule; None where there is none."""
    return None if math.isnan(value) else bool(_OPERATORS[operator](value, bound))


def _per_teacher(each: np.ndarray, *, in_all: bool) -> np.ndarray:
    """One number a teacher from `(T, I)`, over the students that have one."""
    known = [row[~np.isnan(row)] for row in each]
    of = max if in_all else np.median
    return np.asarray([float(of(row)) if len(row) else math.nan for row in known])


def show(c: Claim) -> str:
    """The statistic with its interval."""
    if c.point is None:
        return "not run"
    text = digits(c.obtained)
    if not math.isnan(c.lower):
        text += f" [{digits(c.lower)}, {digits(c.upper)}]"
    if not math.isnan(c.students_lower):
        text += f" ({digits(c.students_lower)} to {digits(c.students_upper)})"
    return text
