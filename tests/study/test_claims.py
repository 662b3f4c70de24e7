"""Claim rules on hand-made numbers, and the result file's form."""

import json

import numpy as np
import pytest

from sandbox.study.claims import (
    Statistic,
    at_least,
    at_most,
    below,
    positive,
    show,
)
from sandbox.study.result import Quantity
from sandbox.theory.sample_complexity import Estimate

HUGE = np.inf
KINDS = {
    "ratio_at_least": (at_least, True),
    "ratio_at_most": (at_most, True),
    "at_most": (at_most, False),
    "below": (below, False),
}


def quantity(values, *, ratio=False):
    each = np.asarray(values, float)
    return Quantity(each[:, None] if each.ndim == 1 else each, "x", ratio=ratio)


def make(values, kind, bound=0.0):
    if kind == "difference":
        return positive("X", quantity(values), "s", paper="e")
    rule, ratio = KINDS[kind]
    return rule("X", quantity(values, ratio=ratio), bound, "s", paper="e")


@pytest.mark.parametrize(
    ("values", "kind", "bound", "holds"),
    [
        ([3.0] * 10, "ratio_at_least", 2, True),
        ([1.9] * 10, "ratio_at_least", 2, False),
        ([0.5] * 4 + [3.0] * 6, "ratio_at_least", 2, False),  # interval reaches 1
        ([0.5] * 2 + [3.0] * 3, "ratio_at_least", 2, True),  # few: the point decides
        ([HUGE] * 10, "ratio_at_least", 2, True),
        ([1.2] * 10, "ratio_at_most", 1.5, True),
        ([1.2] * 6 + [5.0] * 4, "ratio_at_most", 1.5, False),  # upper end above 2
        ([HUGE] * 10, "ratio_at_most", 1.5, False),
        ([0.1] * 10, "difference", 0, True),
        ([0.1] * 6 + [-0.1] * 4, "difference", 0, False),
        ([-0.1], "difference", 0, False),
        ([0.3] * 10, "at_most", 0.5, True),
        ([0.5] * 3, "at_most", 0.5, True),
        ([0.5] * 3, "below", 0.5, False),
        ([0.3] * 6 + [0.7] * 4, "at_most", 0.5, False),
        # A teacher that dropped out of the ratio still makes ten.
        ([0.5] * 4 + [3.0] * 5 + [np.nan], "ratio_at_least", 2, False),
        ([], "difference", 0, None),
        ([np.nan] * 3, "difference", 0, None),
    ],
)
def test_rules(values, kind, bound, holds):
    assert make(np.asarray(values, float), kind, bound).holds is holds


def test_single_teacher_is_marked_and_has_no_interval():
    c = make([0.5], "difference")
    assert c.single_teacher and np.isnan(c.lower)
    assert c.seeds == {"teachers": 1, "students": 1}


def test_rows_hold_infinities_as_text_and_missing_as_null():
    first, second = (
        json.loads(json.dumps(make(*args).to_json(), allow_nan=False))
        for args in (([HUGE] * 3, "ratio_at_least", 2), ([], "difference"))
    )
    assert first["obtained"] == "inf" and first["holds"] is True
    assert second["obtained"] is None and second["holds"] is None
    assert set(first) == {
        "id", "statement", "rule", "paper", "scale", "since", "obtained", "lower",
        "upper", "seeds", "students_lower", "students_upper", "single_teacher", "holds",
    }  # fmt: skip


def test_the_text_of_a_rule_is_made_from_the_rule():
    a, b = (Quantity(np.ones((3, 1)), t, ratio=False) for t in ("n90(ce)", "n90(t)"))
    row = at_least("P3", a / b, 2.0, "s")
    assert row.rule == "median n90(ce) / n90(t) >= 2, lower end > 1"
    assert at_most("P2", a / b, 1.5, "s").rule.endswith("<= 1.5, upper end <= 2")
    assert at_most("P1", a, 0.5, "s").rule.endswith("<= 0.5, upper end <= 0.5")
    gap = Statistic(Estimate(1.2, 0.3, 2.0, 10), "exponent", 10)
    row = at_least("P9", gap, 1.0, "s", lower=0.0)
    assert (row.rule, row.holds) == ("exponent >= 1, lower end > 0", True)


def test_a_teacher_counts_once_however_many_students_it_has():
    def one(in_all):
        each = [[0.2, 0.3, HUGE], [0.4, np.nan, np.nan], [np.nan] * 3]
        return below("X", quantity(each), 0.5, "s", in_all=in_all)

    row = one(in_all=False)
    assert (row.seeds, row.single_teacher) == ({"teachers": 2, "students": 4}, False)
    assert row.obtained == pytest.approx(0.35)  # of the teachers' medians .3 and .4
    assert (row.students_lower, row.students_upper) == (0.2, HUGE)
    assert row.holds is True
    worst = one(in_all=True)
    assert (worst.obtained, worst.holds) == (HUGE, False)
    assert "(0.2 to ∞)" in show(row)


def test_one_student_a_teacher_shows_no_range():
    row = make([0.1, 0.2, 0.3], "at_most", 0.5)
    assert np.isnan(row.students_lower) and "(" not in show(row)
