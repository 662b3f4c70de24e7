"""Claim rules on hand-made numbers, and the result file's form."""

import json

import numpy as np
import pytest

from sandbox.study.claims import (
    Claim,
    Statistic,
    above,
    at_least,
    at_most,
    below,
    positive,
    show,
)
from sandbox.study.lanes import base_name, label_of, progressive, two_shot
from sandbox.study.result import Quantity, of_teachers
from sandbox.theory.sample_complexity import Estimate, median_estimate

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
    ("values", "kind", "bound", "verdict"),
    [
        ([3.0] * 10, "ratio_at_least", 2, "held"),
        ([1.9] * 10, "ratio_at_least", 2, "failed"),
        ([1.6] * 4 + [3.0] * 6, "ratio_at_least", 2, "point only"),  # lower end 1.6
        ([3.0] * 4, "ratio_at_least", 2, "point only"),  # too few for an interval
        ([3.0] * 5, "ratio_at_least", 2, "held"),
        ([HUGE] * 10, "ratio_at_least", 2, "held"),
        ([1.2] * 10, "ratio_at_most", 1.5, "held"),
        ([1.2] * 6 + [1.8] * 4, "ratio_at_most", 1.5, "point only"),
        ([HUGE] * 10, "ratio_at_most", 1.5, "failed"),
        ([0.1] * 10, "difference", 0, "held"),
        ([0.1] * 6 + [-0.1] * 4, "difference", 0, "point only"),
        ([0.0] * 10, "difference", 0, "failed"),  # the bound itself is not beyond it
        ([-0.1], "difference", 0, "failed"),
        ([0.3] * 10, "at_most", 0.5, "held"),
        ([0.5] * 5, "at_most", 0.5, "held"),
        ([0.5] * 5, "below", 0.5, "failed"),
        ([0.3] * 6 + [0.7] * 4, "at_most", 0.5, "point only"),
        # A teacher that dropped out of the ratio does not count.
        ([3.0] * 4 + [np.nan], "ratio_at_least", 2, "point only"),
        ([], "difference", 0, "not run"),
        ([np.nan] * 3, "difference", 0, "not run"),
    ],
)
def test_rules(values, kind, bound, verdict):
    values = np.asarray(values, float)
    row = make(values, kind, bound)
    n = int((~np.isnan(values)).sum())
    assert (row.verdict, row.teachers) == (verdict, n)
    assert (row.whole is None) == (n < 5) == np.isnan(row.lower)


def test_a_tie_is_not_above():
    row = above("X", quantity([1.0, 1.0, 1.0, 2.0, 2.0]), 1.0, "s", also=(0.9,))
    assert (row.verdict, row.sensitivity) == ("failed", "held at 0.9")
    assert row.rule.endswith("> 1")


def test_differences_pair_the_initialisations_that_both_have():
    one = Quantity(np.asarray([[3.0], [5.0]]), "a")
    four = Quantity(np.asarray([[1.0, 9.0], [2.0, 9.0]]), "b")
    assert (one - four).values.tolist() == [[2.0], [3.0]]
    assert (four - one).values.tolist() == [[-2.0], [-3.0]]
    teacher = of_teachers([1.0, 2.0], "t")  # that every student is paired with
    assert (four - teacher).values.tolist() == [[0.0, 8.0], [0.0, 7.0]]


def test_ties_count_as_ties():
    both = quantity([HUGE, HUGE, HUGE, 6.0, 8.0])
    row = at_least("X", both / quantity([HUGE, HUGE, HUGE, 2.0, 2.0]), 2.0, "s")
    assert (row.values, row.obtained, row.verdict) == ((1, 1, 1, 3, 4), 1, "failed")


def test_intervals_follow_from_what_is_stored():
    row = make(np.random.default_rng(0).normal(size=12), "difference").to_json()
    e = median_estimate(np.asarray(row["values"]))
    assert (e.value, e.lower, e.upper) == (row["obtained"], row["lower"], row["upper"])


def test_one_teacher_has_no_interval():
    c = make([0.5], "difference")
    assert np.isnan(c.lower) and (c.teachers, c.students) == (1, 1)


def test_rows_hold_infinities_as_text_and_missing_as_null():
    first, second = (
        json.loads(json.dumps(make(*args).to_json(), allow_nan=False))
        for args in (([HUGE] * 3, "ratio_at_least", 2), ([], "difference"))
    )
    assert first["obtained"] == "inf" and first["point"] is True
    assert first["values"] == ["inf"] * 3 and first["whole"] is None
    assert second["obtained"] is None and second["point"] is None
    assert set(first) == {
        "id", "statement", "rule", "paper", "scale", "since", "obtained", "lower",
        "upper", "teachers", "students", "students_lower", "students_upper", "values",
        "point", "whole",
    }  # fmt: skip


def test_the_text_of_a_rule_is_made_from_the_rule():
    a, b = (Quantity(np.ones((3, 1)), t, ratio=False) for t in ("n90(ce)", "n90(t)"))
    assert at_least("P3", a / b, 2.0, "s").rule == "median n90(ce) / n90(t) >= 2"
    assert at_most("P1", a, 0.5, "s").rule.endswith("<= 0.5")
    for teachers in (10, 4):
        gap = Statistic(Estimate(1.2, 0.3, 2.0, 10), "exponent", teachers)
        row = at_least("P9", gap, 1.0, "s")
        assert (row.rule, row.verdict) == ("exponent >= 1", "point only")
        assert np.isnan(row.lower) == (teachers < 5)


def test_a_teacher_counts_once_however_many_students_it_has():
    def one(in_all):
        each = [[0.2, 0.3, HUGE], [0.4, np.nan, np.nan], [np.nan] * 3]
        return below("X", quantity(each), 0.5, "s", in_all=in_all)

    row = one(in_all=False)
    assert (row.teachers, row.students) == (2, 4)
    assert row.obtained == pytest.approx(0.35)  # of the teachers' medians .3 and .4
    assert (row.students_lower, row.students_upper) == (0.2, HUGE)
    assert row.point is True
    worst = one(in_all=True)
    assert (worst.obtained, worst.point) == (HUGE, False)
    assert "(0.2 to ∞)" in show(row)


def test_one_student_a_teacher_shows_no_range():
    row = make([0.1, 0.2, 0.3], "at_most", 0.5)
    assert np.isnan(row.students_lower) and "(" not in show(row)


def test_other_bounds_stand_beside_the_claim_and_decide_nothing() -> None:
    each = quantity(np.linspace(1.8, 2.2, 9))
    plain = at_least("A", each, 1.9, "words")
    claim = at_least("A", each, 1.9, "words", also=(1.5, 1.95, 4.0))
    assert claim.sensitivity == "held at 1.5, point only at 1.95, failed at 4"
    assert (claim.point, claim.whole) == (plain.point, plain.whole)
    assert "sensitivity" not in plain.to_json() and plain.sensitivity == ""
    for c in (plain, claim):
        assert Claim.from_json(c.to_json()) == c


def test_what_was_varied_is_said_and_keeps_the_colour_of_its_strategy() -> None:
    slow = progressive(640, speed=0.25, name="progressive_speed0.25")
    held = two_shot(640, 640, name="two_shot_hold640")
    assert [label_of(s) for s in (slow, held)] == [
        "progressive, speed 0.25",
        "2-shot, hold 640",
    ]
    names = ("one_shot_hard", "two_shot_tau0.25", slow.name, held.name, "by_level")
    assert [base_name(n) for n in names] == [
        *("one_shot", "two_shot", "progressive", "two_shot", "by_level"),
    ]
