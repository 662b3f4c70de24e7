"""The study of exponents: made-up runs with known exponents, and tiny real ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import sample_complexity
from experiments.sample_complexity import Result, Solved
from experiments.sample_complexity_setting import (
    PRESETS,
    Config,
    Problem,
    cpu,
    hold_name,
    student_lanes,
)
from paper_repro.sample_complexity import ScalingReport, claims
from sandbox.errors import ConfigError, Interrupted
from sandbox.train.progress import Silent

POWERS = {"teacher": 2.0, "ce": 3.0, "one_shot": 3.0, "progressive": 2.0}


def make_result(*, slack: float = 1e6, teachers: int = 10) -> Result:
    """Log-normal n90 with exponents k - 2, k - 1, ..., and 2-shot ones near d^1.

    Caps are at `slack` times the median of every problem and strategy.
    """
    config = replace(cpu(), base=(32, 5, 2048))
    rng = np.random.default_rng(0)
    solved = []
    for p in config.problems:
        n90 = {
            name: 20
            * p.d ** (power + p.k - 4.0)
            * np.exp(0.3 * rng.normal(size=teachers))
            for name, power in POWERS.items()
        }
        for h in config.holds:
            n90[hold_name(h)] = h + 500 * p.d * np.exp(0.3 * rng.normal(size=teachers))
        n90["two_shot"] = n90[hold_name(config.hold)]
        caps = {n: np.full(teachers, slack * np.median(v)) for n, v in n90.items()}
        n90 = {n: np.where(v <= caps[n], v, np.inf) for n, v in n90.items()}
        solved.append(Solved(p, [], [], n90, caps))
    return Result(config, solved, "max_teachers")


@pytest.mark.parametrize("slack", [1e6, 1.2])
def test_known_exponents_are_found_with_and_without_caps(slack):
    result = make_result(slack=slack)
    assert result.ks == [4, 5, 6]
    inside = 0
    for k in result.ks:
        for name, power in POWERS.items():
            e = result.exponent(k, name, draws=300)
            assert abs(e.value - (power + k - 4)) < 0.5, (k, name)
            inside += e.lower < power + k - 4 < e.upper
    assert inside >= 9  # of twelve 95% intervals
    late = result.exponent(6, "ce", draws=0).censored
    assert late > 0 if slack < 2 else late == 0


def test_the_best_first_stage_of_every_d_is_found():
    best = make_result().best_holds(5)
    assert set(best.values()) == {5120}  # n90 is hold + 500 d


def test_claims_follow_from_the_exponents():
    made = {c.id: c for c in claims(make_result())}
    assert list(made) == ["P9", "P9.one_shot", "P9.best_hold", "P9.progressive", "P9.k"]
    assert made["P9"].holds and made["P9.one_shot"].holds and made["P9.k"].holds
    assert abs(made["P9.progressive"].obtained - 1) < 0.4
    assert made["P9"].lower > 0 and made["P9"].seeds["teachers"] == 10


def test_a_report_says_everything_and_draws(tmp_path):
    result = make_result(slack=1.2)
    solved = list(result.solved)
    n90 = dict(solved[0].n90) | {"teacher": np.r_[np.inf, np.full(9, 1e4)]}
    solved[0] = replace(solved[0], n90=n90)
    result = replace(result, solved=solved)
    report = ScalingReport(
        study="x",
        scale="tiny",
        config=result.config,
        figure=sample_complexity.draw(result),
        claims=claims(result),
        probe_seconds=0.0,
        result=result,
    )
    facts = report.facts()
    assert facts["left_out"][0] == "d=16, k=4: 1 of 10 teachers did not learn"
    assert facts["stopped_by"] == "max_teachers"
    assert len(facts["problems"]) == len(result.config.problems)
    ce = facts["problems"][0]["strategies"]["ce"]
    assert ce["passes"]["teacher_forward"] == 0 and ce["runs"] == 10
    assert json.dumps(facts)
    assert f"of {10 * len(solved)} teachers learned" in report.title()


def test_lanes_with_one_cap_share_a_run():
    config = cpu()
    setting = config.setting(config.problems[0])
    names = [
        [s.name for s in lanes] for lanes, _ in student_lanes(config, setting, middle=0)
    ]
    assert names == [
        ["ce"],
        ["one_shot"],
        ["progressive", *(hold_name(h) for h in config.holds)],
    ]
    even = replace(config, ce_cap=4.0, one_shot_cap=4.0)
    assert len(student_lanes(even, setting, middle=0)) == 1


def test_problems_are_listed_once():
    config = cpu()
    assert len(set(config.problems)) == len(config.problems)
    assert Problem(32, 5, 2048, 20, 0.0) in config.problems
    result = make_result()
    assert [s.problem.width for s in result.along("width", d=32, k=5)] == [
        10,
        20,
        100,
    ]
    assert [s.problem.eps for s in result.along("eps", d=32, k=5)] == [0, 0.1]
    assert [s.problem.d for s in result.along("d", k=6)] == [16, 24, 32]


@pytest.mark.parametrize("make", PRESETS.values())
def test_presets_are_valid(make):
    assert make().problems


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hold": 1000}, "hold"),
        ({"holds": (4096, 2048)}, "increase"),
        ({"holds": (100, 4096)}, "multiples"),
        ({"grid": ((10, 4, 128), (14, 4, 256))}, "main_k"),
        ({"grid": ((10, 4, 100),)}, "64"),
        ({"max_teachers": 5}, "group"),
        ({"noises": (0.0,)}, "noises"),
        ({"precision": 0.0}, "precision"),
        ({"ce_cap": 0.0}, "ce_cap"),
        ({"tau": -1.0}, "tau"),
    ],
)
def test_bad_values_are_refused_at_once(change, word):
    with pytest.raises(ConfigError, match=word):
        Config(**change)


TINY = Config(
    grid=((6, 2, 64), (8, 2, 64), (10, 2, 64)),
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
            import os
            import signal

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
        sample_complexity.run(TINY, root=tmp_path, progress=Stops(5))
    before = finished(tmp_path)
    assert before
    result = sample_complexity.run(TINY, root=tmp_path, progress=Silent())
    after = finished(tmp_path)
    assert {p: after[p] for p in before} == before  # nothing was trained twice
    assert len(after) == 3 * 2 * 2 and result.stopped == "max_teachers"
    assert all(len(s.n90["ce"]) == 4 for s in result.solved)
    again = sample_complexity.run(TINY, root=tmp_path, progress=Stops(0))
    assert finished(tmp_path) == after
    for a, b in zip(result.solved, again.solved, strict=True):
        for name in a.n90:
            np.testing.assert_array_equal(a.n90[name], b.n90[name])
    loose = replace(TINY, precision=100.0)
    stopped = sample_complexity.run(loose, root=tmp_path, progress=Stops(0))
    assert stopped.stopped == "precision"
    assert all(len(s.n90["ce"]) == 2 for s in stopped.solved)
