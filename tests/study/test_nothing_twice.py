"""More seeds and strategies train only what is missing, and come out the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sandbox.study as st
from sandbox.distill.sources import Final
from sandbox.distill.strategy import Loss, Strategy
from sandbox.errors import DivergenceError
from sandbox.study.result import Taught, student_lanes
from sandbox.study.teachers import Teachers, train_group, train_students, train_teachers
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.train.progress import Silent
from sandbox.train.run import Run

BITS = st.Setting(
    task=Parity(d=12, k=2, support=RandomSupport()),
    teacher=st.TwoLayer(64),
    student=st.TwoLayer(8),
    n_teachers=4,
    group=3,
    spacing=256,
    student_every=256,
    eval_points=128,
    budget=st.UntilLearned(limit=4096, cap=2.0),
    rule=st.ByGap(points=64, degrees=(1,)),
)
STRINGS = st.Setting(
    task=st.Strings(grammar="cfg3b", start=("10", "11", "12")),
    teacher=st.Heads(2, layers=1, head_dim=4),
    student=st.Heads(1, layers=1, head_dim=4),
    n_teachers=1,
    group=1,
    spacing=4,
    student_every=4,
    hold=4,
    unit="steps",
    batch=8,
    eval_points=32,
    budget=st.Fixed(teacher=8, student=8),
    rule=st.ByDrop(least=0.0),
)


class Trained(Silent):
    """Remembers what was trained."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def start(self, title: str, total: int, done: int, unit: str = "samples") -> None:
        self.titles.append(title)

    def seen(self, kind: str) -> list[str]:
        found = [t.partition(", ")[2] for t in self.titles if t.startswith(kind)]
        self.titles.clear()
        return found


def lanes(t: Teachers, n: int) -> list[st.Lane]:
    every = t.setting.samples(t.setting.spacing)
    made = [st.ce(), st.one_shot(), st.progressive(every), st.one_shot(0.0, "hard")]
    return [*made, st.two_shot(t["middle"], t.hold)][:n]


def run(
    setting: st.Setting, n: int, root: Path, told: Any = None
) -> tuple[list[Teachers], Taught]:
    told = told or Silent()
    teachers = train_teachers(setting, root, told)
    students = [
        tuple(
            r
            for spec in t.students(lanes(t, n))
            for r in train_students(spec, root, told)
        )
        for t in teachers
    ]
    names = ("ce", "one_shot", "progressive", "hard", "two_shot")[:n]
    return teachers, Taught(teachers=teachers, students=students, names=names)


def numbers(found: tuple[list[Teachers], Taught]) -> dict[str, np.ndarray]:
    """Curves up to where every run goes, and samples to .90, of all lanes."""
    teachers, taught = found
    out = {}
    for who in ("teacher", *taught.strategies):
        out[f"{who} n90"] = taught.n90[who].values
        rows = [y[..., :6] for _, y in taught.curves(who, "loss")]
        out[f"{who} loss"] = np.concatenate(rows)
    assert teachers == taught.teachers
    return out


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)


@pytest.mark.slow
def test_more_teachers_train_only_the_new_ones(tmp_path: Path) -> None:
    told = Trained()
    whole = numbers(run(BITS, 2, tmp_path / "empty", told))
    assert told.seen("teacher") == ["seeds 0-2", "seed 3"]
    grown = tmp_path / "grown"
    for n, new in ((2, ["seeds 0-1"]), (4, ["seeds 2-3"]), (4, []), (3, [])):
        setting = replace(BITS, n_teachers=n)
        found = run(setting, 2, grown, told)
        assert told.seen("teacher") == (new if n != 3 else ["seed 2"])
        told.titles.clear()
        if n == 4:
            same(numbers(found), whole)
    late = tmp_path / "late"
    run(replace(BITS, seed=1, n_teachers=1), 2, late)
    same(numbers(run(BITS, 2, late, told)), whole)
    assert told.seen("teacher") == ["seed 0", "seeds 2-3"]


@pytest.mark.slow
@pytest.mark.parametrize("setting", [BITS, STRINGS], ids=["bits", "strings"])
def test_more_strategies_train_only_the_new_ones(
    tmp_path: Path, setting: st.Setting
) -> None:
    told, one = Trained(), setting
    setting = replace(setting, n_teachers=1)
    steps = (1, 2, 5) if one is BITS else (3, 4)
    whole = numbers(run(setting, steps[-1], tmp_path / "empty"))
    for n in steps:
        found = run(setting, n, tmp_path / "grown", told)
        assert len(told.seen("student")) == 1, n  # a run of the new ones
        assert list(found[1].strategies) == [
            lane.name for lane in lanes(found[0][0], n)
        ]
    same(numbers(found), whole)
    few = run(setting, 2, tmp_path / "empty", told)
    assert told.seen("student") == [] and list(few[1].strategies) == ["ce", "one_shot"]
    same(numbers(few), {k: v for k, v in whole.items() if k in numbers(few)})


@pytest.mark.slow
def test_more_initialisations_and_other_records(tmp_path: Path) -> None:
    told, one = Trained(), replace(BITS, n_teachers=1)
    run(one, 2, tmp_path, told)
    told.titles.clear()
    two = run(replace(one, inits=2), 2, tmp_path, told)
    assert len(told.seen("student")) == 1  # as others: padded to twice as many lanes
    (group,) = two[1].students
    assert [student_lanes(r, "ce") for r in group] == [["ce", "ce#1"]]
    run(replace(one, student=st.TwoLayer(9)), 2, tmp_path, told)
    assert len(told.seen("student")) == 1
    run(replace(one, student_every=128), 2, tmp_path, told)
    assert len(told.seen("student")) == 1


@pytest.mark.slow
def test_a_lane_of_a_larger_run_is_found_by_its_name(tmp_path: Path) -> None:
    """A strategy of the same name that is another one is not taken for it."""
    told, one = Trained(), replace(BITS, n_teachers=1)
    (t,) = train_teachers(one, tmp_path, told)
    (spec,) = t.students([st.ce(), st.one_shot(1.0)])
    train_students(spec, tmp_path, told)
    told.titles.clear()
    (other,) = t.students([st.ce(), st.one_shot(2.0)])
    old, new = train_students(other, tmp_path, told)
    assert (old.lanes, new.lanes) == (("ce",), ()) and len(told.seen("student")) == 1
    assert [s.name for s in old.strategies] == ["ce"]
    taught = Taught(teachers=[t], students=[(old, new)], names=("ce", "one_shot"))
    assert taught.runs("one_shot") == [new] and taught.runs("ce") == [old]
    assert isinstance(old, Run) and old.lost("failed") == []


@pytest.mark.slow
def test_a_strategy_that_diverges_apart_is_listed(tmp_path: Path) -> None:
    one = replace(BITS, n_teachers=1)
    (t,) = train_teachers(one, tmp_path, Silent())
    wild = Strategy(name="wild", source=Final(), loss=Loss(scale=1e38))
    for root in (tmp_path, tmp_path / "b"):
        if root != tmp_path:
            (t,) = train_teachers(one, root, Silent())
            train_students(t.students([st.ce()])[0], root, Silent())
        (spec,) = t.students([st.ce(), wild])
        runs = train_students(spec, root, Silent())
        lost = [lane["strategy"] for r in runs for lane in r.lost("failed")]
        assert lost == ["wild"]


@pytest.mark.slow
def test_a_strategy_that_diverges_alone_stops_no_other(tmp_path: Path) -> None:
    one = replace(BITS, n_teachers=1, alone=True)
    (t,) = train_teachers(one, tmp_path, Silent())
    wild = Strategy(name="wild", source=Final(), loss=Loss(scale=1e38))
    for _ in range(2):  # trained, then opened
        first, second = train_group(t.students([wild, st.ce()]), tmp_path, Silent())
        assert [lane["strategy"] for lane in first.lost("failed")] == ["wild"]
        assert second.lost("failed") == [] and len(second.metrics.steps) > 1
    with pytest.raises(DivergenceError):
        train_group(t.students([wild]), tmp_path, Silent())


@pytest.mark.slow
def test_what_is_kept_aside_or_damaged_has_no_lanes(tmp_path: Path) -> None:
    told, one = Trained(), replace(BITS, n_teachers=1)
    (t,) = train_teachers(one, tmp_path, told)
    few, more = (t.students(lanes(t, n))[0] for n in (1, 2))
    (run,) = train_students(few, tmp_path, told)
    told.titles.clear()
    kept = run.folder.set_aside()
    config = kept.with_name("0" * 16) / "config.json"
    config.parent.mkdir()
    config.write_text("[")
    (all_,) = train_students(more, tmp_path, told)
    assert all_.lanes == () and len(told.seen("student")) == 1
