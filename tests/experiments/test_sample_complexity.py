"""The study of exponents: made-up runs with known exponents, and tiny real ones."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import sandbox.study as st
from experiments.sample_complexity import Problem, SampleComplexity, hold_name
from sandbox.errors import ConfigError, Interrupted
from sandbox.train.progress import Silent

POWERS = {"teacher": 2.0, "ce": 3.0, "one_shot": 3.0, "progressive": 2.0}
CPU = SampleComplexity.preset("cpu")


def make_times(*, slack: float = 1e6, teachers: int = 10):
    """Log-normal n90 with exponents k - 2, k - 1, ..., and 2-shot ones near d^1.

    Caps are at `slack` times the median of every problem and strategy.
    """
    rng = np.random.default_rng(0)
    made = {}
    for p in CPU.problems:
        n90 = {
            name: 20
            * p.d ** (power + p.k - 4.0)
            * np.exp(0.3 * rng.normal(size=teachers))
            for name, power in POWERS.items()
        }
        for h in CPU.holds:
            n90[hold_name(h)] = h + 500 * p.d * np.exp(0.3 * rng.normal(size=teachers))
        n90["two_shot"] = n90[hold_name(CPU.hold)]
        caps = {n: np.full(teachers, slack * np.median(v)) for n, v in n90.items()}
        made[p] = {
            n: (np.where(v <= caps[n], v, np.inf), caps[n]) for n, v in n90.items()
        }
    return made


@pytest.mark.parametrize("slack", [1e6, 1.2])
def test_known_exponents_are_found_with_and_without_caps(slack):
    times, inside = make_times(slack=slack), 0
    assert CPU.ks == [4, 5, 6]
    for k in CPU.ks:
        for name, power in POWERS.items():
            e = CPU.law(times, k, name).exponent(draws=300)
            assert abs(e.value - (power + k - 4)) < 0.5, (k, name)
            inside += e.lower < power + k - 4 < e.upper
    assert inside >= 9  # of twelve 95% intervals
    late = CPU.law(times, 6, "ce").exponent(draws=0).censored
    assert late > 0 if slack < 2 else late == 0


def test_the_best_first_stage_of_every_d_is_found():
    best = CPU.best_holds(make_times(), 5)
    assert set(best.values()) == {5120}  # n90 is hold + 500 d


def test_claims_follow_from_the_exponents():
    made = {c.id: c for c in CPU.claims(SimpleNamespace(measured=make_times()))}
    assert list(made) == ["P9", "P9.one_shot", "P9.best_hold", "P9.progressive", "P9.k"]
    for name in ("P9", "P9.one_shot", "P9.k"):
        assert made[name].verdict == "held", name
    assert abs(made["P9.progressive"].obtained - 1) < 0.4
    assert made["P9"].lower > 0 and made["P9"].teachers == 10


@pytest.mark.long
def test_facts_say_everything_and_the_figure_draws():
    times = make_times(slack=1.2)
    first = times[CPU.problems[0]]
    first["teacher"] = np.r_[np.inf, np.full(9, 1e4)], np.full(10, 51_200.0)
    result = SimpleNamespace(measured=times)
    facts = CPU.facts(result)
    assert facts["stopped_by"] == "max_teachers"
    assert len(facts["problems"]) == len(CPU.problems)
    strategies = facts["problems"][0]["strategies"]
    assert strategies["teacher"]["censored"] == 1
    ce = strategies["ce"]
    assert ce["passes"]["teacher_forward"] == 0 and ce["runs"] == 10
    assert json.dumps(facts) and len(CPU.figure(result).axes) == 6


def test_lanes_have_runs_and_caps_of_their_own():
    t = st.Teachers.made_up(next(iter(CPU.settings.values())))
    runs = t.students(CPU.lanes(t))
    names = ["ce", "one_shot", "progressive", *map(hold_name, CPU.holds)]
    assert [[s.name for s in run.strategies] for run in runs] == [[n] for n in names]
    caps = [run.stop.largest for run in runs]
    assert caps[0] > caps[1] > caps[2] == caps[-1]


def test_problems_are_listed_once():
    assert len(set(CPU.problems)) == len(CPU.problems) == len(CPU.settings)
    assert Problem(32, 5, 2048, 20, 0.0) in CPU.problems
    assert [p.width for p in CPU.along("width", d=32, k=5)] == [10, 20, 100]
    assert [p.eps for p in CPU.along("eps", d=32, k=5)] == [0, 0.1]
    assert [p.d for p in CPU.along("d", k=6)] == [16, 24, 32]


@pytest.mark.parametrize("name", SampleComplexity.presets)
def test_presets_are_valid(name):
    assert SampleComplexity.preset(name).problems


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hold": 1000}, "hold"),
        ({"holds": (4096, 2048)}, "holds must hold 1 or more entries that incr"),
        ({"holds": (100, 4096)}, "multiples"),
        ({"cells": ((10, 4, 128), (14, 4, 256))}, "main_k"),
        ({"cells": ((10, 4, 100),)}, "64"),
        ({"max_teachers": 5}, "group"),
        ({"noises": (0.0,)}, "noises"),
        ({"precision": 0.0}, "precision"),
        ({"ce_cap": 0.0}, "ce_cap"),
        ({"tau": -1.0}, "tau"),
    ],
)
def test_bad_values_are_refused_at_once(change, word):
    with pytest.raises(ConfigError, match=word):
        SampleComplexity(**change)


TINY = SampleComplexity(
    cells=((6, 2, 64), (8, 2, 64), (10, 2, 64)),
    main_k=2,
    base=(6, 2, 64),
    teacher_width=32,
    student_width=16,
    holds=(512,),
    hold=512,
    min_teachers=2,
    max_teachers=4,
    group=2,
    precision=1e-6,
)


class Stops(Silent):
    """Ends the process's work in the middle of the n-th run."""

    def __init__(self, n: int) -> None:
        self.left = n

    def start(self, *args: object) -> None:
        self.left -= 1

    def update(self, *args: object) -> None:
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGTERM)


def finished(root: Path) -> dict[Path, int]:
    """Every finished run's folder with the time its manifest was written."""
    return {
        p.parent: p.stat().st_mtime_ns
        for kind in ("teacher", "student")
        for p in (root / kind).glob("*/manifest.json")
    }


@pytest.mark.slow
def test_a_killed_study_goes_on_with_what_is_missing(tmp_path):
    with pytest.raises(Interrupted):
        TINY.run(root=tmp_path, progress=Stops(5))
    before = finished(tmp_path)
    assert before
    result = TINY.run(root=tmp_path, progress=Silent())
    after = finished(tmp_path)
    assert {p: after[p] for p in before} == before  # nothing was trained twice
    assert len(after) == 3 * 2 * 2 and TINY.stopped(result.measured) == "max_teachers"
    assert all(len(t["ce"][0]) == 4 for t in result.measured.values())
    again = TINY.run(root=tmp_path, progress=Stops(0))
    assert finished(tmp_path) == after
    for a, b in zip(result.measured.values(), again.measured.values(), strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    loose = replace(TINY, precision=100.0)
    stopped = loose.run(root=tmp_path, progress=Stops(0))
    assert loose.stopped(stopped.measured) == "precision"
    assert all(len(t["ce"][0]) == 2 for t in stopped.measured.values())
    report = loose.report(stopped)
    assert "of 6 teachers learned" in report.title()
    assert {each["part"] for each in report.header()["teachers"]["each"]} == {
        str(p) for p in TINY.problems
    }
