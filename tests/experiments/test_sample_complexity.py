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
from experiments.sample_complexity import (
    SampleComplexity,
    closed_forms,
    gains,
    hold_name,
)
from sandbox.errors import ConfigError, Interrupted
from sandbox.plotting import layout
from sandbox.plotting.style import styled
from sandbox.train.progress import Silent
from tests.plotting.drawn import faults

CPU = SampleComplexity.preset("cpu")
POWERS = {"teacher": 2.0, "ce": 3.0}


def make_times(*, slack: float = 1e6, teachers: int = 10):
    """Log-normal n90 with exponents k - 2 and k - 1, and 2-shot ones near d^1.

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
        caps = {n: np.full(teachers, slack * np.median(v)) for n, v in n90.items()}
        runs = {n: (np.where(v <= caps[n], v, np.inf), caps[n]) for n, v in n90.items()}
        made[p] = CPU.judged(p, runs)
    return made


@pytest.mark.parametrize("slack", [1e6, 1.2])
def test_known_exponents_are_found_with_and_without_caps(slack):
    times, inside = make_times(slack=slack), 0
    for k in CPU.ks:
        for name, power in POWERS.items():
            e = CPU.law(times, k, name).exponent(draws=300)
            assert abs(e.value - (power + k - 4)) < 0.5, (k, name)
            inside += e.lower < power + k - 4 < e.upper
        after = CPU.law(times, k, "after").exponent(draws=0)
        assert abs(after.value - 1) < 0.3  # what a fixed stage hides
    assert inside >= 6  # of eight 95% intervals
    late = CPU.law(times, 6, "ce").exponent(draws=0).censored
    assert late > 0 if slack < 2 else late == 0


def test_the_first_stage_of_a_teacher_is_chosen_without_it():
    study = replace(CPU, holds=CPU.holds[:3])
    small, middle, large = map(hold_name, study.holds)
    cap = np.full(3, 1e6)
    times = {
        "teacher": (np.full(3, 4e4), cap),
        small: (np.asarray([6e3, 9e4, np.inf]), cap),
        middle: (np.asarray([5e4, 2e4, 3e4]), cap),
        large: (np.asarray([np.nan, 21_000.0, 4e4]), cap),
    }
    p = study.along(4)[0]
    # Medians of two are the lower: without the first 9e4, 2e4 and 21,000.
    assert study.held_out(times) == [10_240, 5120, 5120]
    runs = study.judged(p, times)
    np.testing.assert_array_equal(runs["chosen"][0], [5e4, 9e4, np.inf])
    np.testing.assert_array_equal(runs["after"][0], [5e4 - 10_240, 9e4 - 5120, np.inf])
    assert runs["after"][1][0] == 1e6 - 10_240
    assert runs["best_hold"] is runs["two_shot"] is times[large]  # 9e4, 3e4, 21,000
    early = times | {small: (np.full(3, 1e3), cap)}  # within the first stage
    assert set(study.judged(p, early)["after"][0]) == {float(p.every)}


def test_a_censored_run_counts_against_the_growth():
    one, cap = np.ones(6), np.full(6, 100.0)
    ce = np.asarray([20, 30, 40, np.inf, np.inf, np.nan])
    shot = np.asarray([10, np.inf, 10, 10, np.inf, np.nan])
    value, least, most = gains({"ce": (ce, 10 * cap), "chosen": (shot, cap)})
    np.testing.assert_array_equal(value, [2, 0, 4, np.inf, 1, np.nan])
    np.testing.assert_array_equal(least, [2, 0, 4, 100, 0, np.nan])
    np.testing.assert_array_equal(most, [2, 0.3, 4, np.inf, np.inf, np.nan])
    high, low = (next(p for p in CPU.along(k) if p.d == 32) for k in (6, 4))
    never = np.inf * one

    def growth(ce_high, ce_low, shot_high=10 * one, shot_low=10 * one):
        runs = ((high, ce_high, shot_high), (low, ce_low, shot_low))
        times = {p: {"ce": (a, cap), "chosen": (b, cap)} for p, a, b in runs}
        empty = {"ce": (one, cap), "chosen": (one, cap)}
        return CPU.growth(dict.fromkeys(CPU.problems, empty) | times)[32].value

    assert growth(80 * one, 20 * one) == 4
    assert growth(never, 20 * one) == 5  # the cap over 20, not infinite
    assert growth(80 * one, never) == 0
    assert growth(80 * one, 20 * one, shot_high=never) == 0
    assert growth(80 * one, 20 * one, shot_low=never) == pytest.approx(40)


def test_claims_follow_from_the_runs():
    times = make_times()
    made = {c.id: c for c in CPU.claims(SimpleNamespace(measured=times))}
    assert list(made) == ["P9", "P9.best_hold", "P9.k.d32", "P9.k.d48"]
    assert {c.verdict for c in made.values()} == {"held"}
    assert made["P9"].lower > 1 and made["P9"].teachers == 10
    for d in (32, 48):  # CE grows by d^2 from k = 4 to 6, 2-shot not at all
        claim = made[f"P9.k.d{d}"]
        assert claim.lower < d**2 < claim.upper and claim.teachers == 10
    of = {(p.k, p.d, p.width): runs for p, runs in times.items()}
    turned = {p: of[10 - p.k, p.d, p.width] for p in times if p.k > 3 and p.d < 64}
    made = CPU.claims(SimpleNamespace(measured=times | turned))
    assert {c.id: c.verdict for c in made}["P9.k.d32"] == "failed"


def test_closed_forms_have_the_exponents_of_the_theory():
    forms = closed_forms()
    np.testing.assert_allclose(forms["labels"], forms["k"], atol=0.1)
    np.testing.assert_allclose(forms["checkpoint"], 1, atol=0.1)


@pytest.mark.slow
def test_facts_say_everything_and_the_figure_draws():
    times = make_times(slack=1.2)
    first, last = CPU.problems[0], CPU.along(6)[-1]
    times[first]["teacher"] = np.r_[np.inf, np.full(9, 1e4)], np.full(10, 51_200.0)
    times[last]["ce"] = np.full(10, np.inf), np.full(10, 5e6)
    result = SimpleNamespace(measured=times)
    facts = CPU.facts(result)
    assert len(facts["problems"]) == len(CPU.problems) and json.dumps(facts)
    strategies = facts["problems"][0]["strategies"]
    assert strategies["teacher"]["censored"] == 1 and strategies["ce"]["runs"] == 10
    with styled():
        fig = CPU.figure(result)
        layout.clear(fig)
    assert faults(fig) == []
    axes = fig.axes
    assert [ax.get_title(loc="left")[:5] for ax in axes[:4]] == [
        f"k = {k}" for k in CPU.ks
    ]
    samples, ratios = (
        [line.get_xydata() for line in ax.get_lines() if line.get_marker() == "^"]
        for ax in (axes[3], axes[5])
    )
    assert [last.d, 5e6] in np.concatenate(samples).tolist()
    assert len(np.concatenate(ratios)) == 1  # above what the cap says


def test_lanes_have_runs_and_caps_of_their_own():
    t = st.Teachers.made_up(next(iter(CPU.settings.values())))
    runs = t.students(CPU.lanes(t))
    names = ["ce", *map(hold_name, CPU.holds)]
    assert [[s.name for s in run.strategies] for run in runs] == [[n] for n in names]
    caps = [run.stop.largest for run in runs]
    assert caps[0] > caps[1] == caps[-1]


def test_problems_are_listed_once():
    assert len(set(CPU.problems)) == len(CPU.problems) == len(CPU.settings)
    assert [p.width for p in CPU.problems if p[:2] == (32, 5)] == [20, 100]
    assert [p.d for p in CPU.along(6)] == [24, 32, 48]


@pytest.mark.parametrize("name", SampleComplexity.presets)
def test_presets_are_valid(name):
    assert SampleComplexity.preset(name).problems


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hold": 1000}, "hold"),
        ({"holds": (4096, 2048)}, "holds must hold 1 or more entries that incr"),
        ({"holds": (100, 4096)}, "multiples"),
        ({"cells": ((10, 4, 128), (14, 4, 256))}, "three or more d"),
        ({"cells": ((10, 4, 100),)}, "64"),
        ({"main_k": 5}, "main_k"),
        ({"widths": (20, 20)}, "widths must hold 1 or more entries"),
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
    teacher_width=32,
    widths=(16,),
    holds=(512,),
    hold=512,
    n_teachers=4,
    group=2,
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
    assert len(after) == 3 * 2 * 3
    assert all(len(t["ce"][0]) == 4 for t in result.measured.values())
    again = TINY.run(root=tmp_path, progress=Stops(0))
    assert finished(tmp_path) == after
    for a, b in zip(result.measured.values(), again.measured.values(), strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    report = TINY.report(again)
    assert "of 12 teachers learned" in report.title()
    assert {each["part"] for each in report.header()["teachers"]["each"]} == {
        str(p) for p in TINY.problems
    }
