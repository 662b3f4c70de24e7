"""Claims as statistics with a rule fixed before the runs, and the table that says so.

A claim holds if its point rule is true and, with ten teachers or more, the worse end of
its 95% bootstrap interval supports it:

    ratio at least r      median >= r, lower end > 1
    ratio at most r       median <= r, upper end <= 2
    difference            median > 0, lower end > 0
    at most r, below r    median <= r (< r), upper end likewise
    at least r            median >= r, lower end likewise
    exponent gap r        difference of exponents >= r, lower end > 0

With fewer teachers the point rule decides and the interval is shown; with one there is
no interval. `holds` is None where nothing could be measured. How many teachers there
are is counted before any of them drops out of a ratio.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sandbox.store.files import write_json
from sandbox.theory.sample_complexity import Estimate, median_estimate

ENOUGH = 10
"""Teachers from which the interval must support the claim."""

Kind = Literal[
    "ratio_at_least",
    "ratio_at_most",
    "difference",
    "at_most",
    "below",
    "at_least",
    "exponent_gap",
]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One row of a claims table.

    Attributes:
      id: e.g. `P3.ce`.
      statement: what is claimed, in words.
      rule: the rule that decides.
      expected: what the paper shows, as text.
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
    expected: str
    obtained: float
    lower: float
    upper: float
    students_lower: float
    students_upper: float
    seeds: dict[str, int]
    single_teacher: bool
    holds: bool | None


def claim(
    id: str,
    statement: str,
    values: Sequence[float] | np.ndarray,
    *,
    kind: Kind,
    bound: float = 0.0,
    rule: str,
    expected: str,
    students: bool,
    in_all: bool = False,
) -> Claim:
    """Evaluates one claim.

    Where a teacher has several students, its number is their median, or the largest if
    the rule speaks of all of them.

    Args:
      id: e.g. `P2`.
      statement: in words.
      values: one number a trained teacher, `(T,)` or `(T, I)` with one a student; NaN
        where it has none, inf where never.
      kind: which rule of the module docstring.
      bound: r of that rule.
      rule: the rule in words.
      expected: what the paper shows.
      students: whether students entered.
      in_all: whether the rule must be true of every student.
    """
    each = np.asarray(values, float)
    each = each[:, None] if each.ndim == 1 else each
    estimate = median_estimate(_per_teacher(each, in_all=in_all))
    n, trained = estimate.n, len(each)
    several = students and each.shape[1] > 1 and n > 0
    known = each[~np.isnan(each)]
    return Claim(
        id=id,
        statement=statement,
        rule=rule,
        expected=expected,
        obtained=estimate.value,
        lower=estimate.lower,
        upper=estimate.upper,
        students_lower=float(known.min()) if several else math.nan,
        students_upper=float(known.max()) if several else math.nan,
        seeds={"teachers": n, "students": len(known) if students else 0},
        single_teacher=trained == 1,
        holds=decide(kind, bound, estimate, teachers=trained),
    )


def claim_of(
    id: str,
    statement: str,
    estimate: Estimate,
    *,
    kind: Kind,
    bound: float = 0.0,
    rule: str,
    expected: str,
    trained: int,
    students: int,
) -> Claim:
    """A claim about a statistic that is no median over teachers, such as an exponent.

    Args:
      id: e.g. `P9`.
      statement: in words.
      estimate: the statistic and its interval.
      kind: which rule of the module docstring.
      bound: r of that rule.
      rule: the rule in words.
      expected: what the paper shows.
      trained: teachers behind each point it was computed from.
      students: that entered.
    """
    return Claim(
        id=id,
        statement=statement,
        rule=rule,
        expected=expected,
        obtained=estimate.value,
        lower=estimate.lower,
        upper=estimate.upper,
        students_lower=math.nan,
        students_upper=math.nan,
        seeds={"teachers": trained, "students": students},
        single_teacher=trained == 1,
        holds=decide(kind, bound, estimate, teachers=trained),
    )


def _per_teacher(each: np.ndarray, *, in_all: bool) -> np.ndarray:
    """One number a teacher from `(T, I)`, over the students that have one."""
    out = np.full(len(each), np.nan)
    for i, row in enumerate(each):
        known = row[~np.isnan(row)]
        if len(known):
            out[i] = known.max() if in_all else median_estimate(known).value
    return out


def decide(kind: Kind, bound: float, e: Estimate, *, teachers: int) -> bool | None:
    """Applies a rule to an estimate from a number of trained teachers."""
    if e.n == 0 or math.isnan(e.value):
        return None
    point, support = {
        "ratio_at_least": (e.value >= bound, e.lower > 1),
        "ratio_at_most": (e.value <= bound, e.upper <= 2),
        "difference": (e.value > 0, e.lower > 0),
        "at_most": (e.value <= bound, e.upper <= bound),
        "below": (e.value < bound, e.upper < bound),
        "at_least": (e.value >= bound, e.lower >= bound),
        "exponent_gap": (e.value >= bound, e.lower > 0),
    }[kind]
    return bool(point and (teachers < ENOUGH or support))


def number(value: float) -> float | str | None:
    """A number as JSON can hold it: NaN as null, infinities as text."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def write_results(path: Path, claims: Sequence[Claim], header: dict[str, Any]) -> None:
    """Writes the machine-readable result of a study.

    Args:
      path: of the JSON file.
      claims: its rows.
      header: everything else: study, scale, hardware, versions, wall_seconds, ...
    """
    rows = []
    for c in claims:
        row = asdict(c)
        for name in (
            "obtained",
            "lower",
            "upper",
            "students_lower",
            "students_upper",
        ):
            row[name] = number(row[name])
        rows.append(row)
    write_json(path, {**header, "claims": rows})


def print_table(title: str, claims: Sequence[Claim]) -> None:
    """Prints the claims table."""
    from rich.console import Console
    from rich.table import Table

    if not claims:
        print(title)
        return
    table = Table(title=title, title_justify="left", show_lines=False)
    for name in (
        "claim",
        "statement",
        "rule",
        "paper",
        "obtained",
        "teachers",
        "holds",
    ):
        table.add_column(name, justify="left")
    words = {True: "[green]holds[/]", False: "[red]fails[/]", None: "not run"}
    for c in claims:
        table.add_row(
            c.id,
            c.statement,
            c.rule,
            c.expected,
            show(c),
            str(c.seeds["teachers"]),
            words[c.holds],
        )
    console = Console()
    if console.width >= 120:
        console.print(table)
    else:
        print(title)
        wide = max(15, *(len(c.id) for c in claims))
        for c in claims:
            mark = {True: "holds", False: "FAILS", None: "not run"}[c.holds]
            print(f"  {c.id:{wide}s} {mark:8s} {show(c):25s} {c.rule}")


def show(c: Claim) -> str:
    """The statistic with its interval."""
    if c.holds is None:
        return "not run"
    text = _digits(c.obtained)
    if not math.isnan(c.lower):
        text += f" [{_digits(c.lower)}, {_digits(c.upper)}]"
    if not math.isnan(c.students_lower):
        text += f" ({_digits(c.students_lower)} to {_digits(c.students_upper)})"
    return text


def _digits(v: float) -> str:
    return "∞" if math.isinf(v) else f"{v:.3g}"
