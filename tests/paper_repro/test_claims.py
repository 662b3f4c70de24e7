"""Claim rules on hand-made numbers, and the result file's form."""

import json

import numpy as np
import pytest

from paper_repro.claims import claim, show, write_results

HUGE = np.inf


def make(values, kind, bound=0.0):
    return claim(
        "X", "s", values, kind=kind, bound=bound, rule="r", expected="e", students=True
    )


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


def test_result_file_holds_infinities_as_text_and_missing_as_null(tmp_path):
    path = tmp_path / "x.json"
    claims = [make([HUGE] * 3, "ratio_at_least", 2), make([], "difference")]
    write_results(path, claims, {"study": "x", "wall_seconds": 1.0})
    data = json.loads(path.read_text())
    assert data["study"] == "x"
    first, second = data["claims"]
    assert first["obtained"] == "inf" and first["holds"] is True
    assert second["obtained"] is None and second["holds"] is None
    assert set(first) == {
        "id", "statement", "rule", "expected", "obtained", "lower", "upper", "seeds",
        "students_lower", "students_upper", "single_teacher", "holds",
    }  # fmt: skip


def test_a_teacher_counts_once_however_many_students_it_has():
    def one(in_all):
        return claim(
            "X", "s", [[0.2, 0.3, HUGE], [0.4, np.nan, np.nan], [np.nan] * 3],
            kind="below", bound=0.5, rule="r", expected="e", students=True,
            in_all=in_all,
        )  # fmt: skip

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
