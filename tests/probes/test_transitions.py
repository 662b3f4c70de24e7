"""Transitions and checkpoint rules on curves whose answers are known."""

import subprocess
import sys

import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.probes.transitions import (
    Phase,
    blind_choice,
    blind_score,
    choose_checkpoints,
    first_reach,
    half_rise,
    locate,
    output_variance,
)

STEPS = np.arange(0, 1010, 10)
RAMP = np.interp(STEPS, [0, 400, 500, 1000], [0.5, 0.5, 1.0, 1.0])


def test_locate_a_ramp():
    """u = (t - 400) / 100: in the low band to 405, half at 450, .95 at 495."""
    assert locate(STEPS, RAMP) == Phase(start=400.0, middle=450.0, end=500.0)
    assert locate(STEPS, RAMP, low=0.15, high=0.7) == Phase(410.0, 450.0, 470.0)


def test_locate_interpolates_the_middle():
    phase = locate(np.array([0, 1, 2, 3]), np.array([0.0, 0.2, 0.8, 1.0]))
    assert phase is not None and phase.middle == pytest.approx(1.5)
    assert (phase.start, phase.end) == (0, 3)


@pytest.mark.parametrize(("scale", "shift"), [(-1, 0), (7, 3), (-0.5, 2)])
def test_locate_ignores_direction_and_unit(scale, shift):
    phase = locate(STEPS, scale * RAMP + shift)
    assert phase is not None
    assert (phase.start, phase.end) == (400, 500)
    assert phase.middle == pytest.approx(450)


def test_locate_takes_the_last_departure_and_the_rise_of_a_spike():
    """An early bump below one half is not the start; a later fall is not the phase."""
    bump = RAMP + 0.2 * np.exp(-(((STEPS - 100) / 20) ** 2))
    phase = locate(STEPS, bump)
    assert phase is not None and (phase.start, phase.end) == (400, 500)
    spike = np.interp(STEPS, [0, 200, 300, 500, 1000], [0.0, 0.0, 1.0, 0.1, 0.1])
    assert locate(STEPS, spike) == Phase(200.0, 250.0, 300.0)


def test_locate_drops_missing_records():
    values = RAMP.copy()
    values[::7] = np.nan
    phase = locate(STEPS, values)
    assert phase is not None and phase.start == 400
    assert phase.middle == pytest.approx(450)


@pytest.mark.parametrize(
    "values", [np.full(101, 0.5), 0.5 + 0.09 * (STEPS > 500), np.full(101, np.nan)]
)
def test_no_transition(values):
    assert locate(STEPS, values) is None


def test_locate_refuses_bands_that_overlap():
    with pytest.raises(ConfigError, match="low and high"):
        locate(STEPS, RAMP, low=0.6)


def test_first_reach():
    assert first_reach(STEPS, RAMP, 0.75) == 450
    assert first_reach(STEPS, RAMP, 0.5) == 0
    assert first_reach(STEPS, RAMP, 1.01) == np.inf
    assert first_reach(np.array([0, 5, 9]), np.array([np.nan, np.nan, 1.0]), 0.9) == 9


def curve():
    """n53 = 410, n90 = 480, accuracy > .999 from 500; the gap peaks at 440."""
    steps = np.arange(0, 2010, 10)
    accuracy = np.interp(steps, [0, 400, 500], [0.5, 0.5, 1.0])
    gap = np.exp(-(((steps - 440) / 30) ** 2))
    gap[2] = 5.0  # batch-1 noise at chance accuracy
    gap[-3] = 5.0  # after the end
    return steps, accuracy, gap, np.zeros(len(steps)), (accuracy - 0.5) ** 2


def test_choose_checkpoints_cpu():
    got = choose_checkpoints(*curve(), n_classes=2, scale_rule="cpu")
    assert (got.final, got.after, got.middle) == (1440, 500, 440)
    assert (got.before, got.before_last, got.blind) == (200, 400, None)
    assert got.half_rise == 450


def test_choose_checkpoints_paper():
    """final: accuracy > .999 and at or after 1.3 x 480 = 624."""
    got = choose_checkpoints(*curve(), n_classes=2, scale_rule="paper")
    assert (got.final, got.after, got.middle) == (630, 500, 440)
    assert (got.before, got.before_last) == (200, 400)


def test_checkpoints_respect_the_classes_and_the_window():
    """C = 4: n53 is the first step at .28; middle is capped at accuracy .92."""
    steps = np.arange(0, 2010, 10)
    accuracy = np.interp(steps, [0, 400, 500], [0.25, 0.25, 1.0])
    flat = 0 * accuracy
    got = choose_checkpoints(
        steps, accuracy, accuracy, flat, flat, n_classes=4, scale_rule="cpu"
    )
    assert got.middle == 480  # .85; the next, .925, is too late
    assert got.before_last == 400
    late = choose_checkpoints(
        steps, accuracy, -accuracy, flat, flat, n_classes=4, scale_rule="cpu"
    )
    assert late.middle == 410  # .325; accuracy .25 is at chance


def test_missing_checkpoints_are_none():
    steps, accuracy, gap, score, variance = curve()
    short = steps <= 1000  # ends before 3 x n90
    args = [a[short] for a in (steps, accuracy, gap, score, variance)]
    got = choose_checkpoints(*args, n_classes=2, scale_rule="cpu")
    assert (got.final, got.after, got.middle) == (None, None, None)
    assert (got.before, got.before_last) == (200, 400)
    flat = np.full(len(steps), 0.5)
    never = choose_checkpoints(
        steps, flat, gap, score, 0 * flat, n_classes=2, scale_rule="cpu"
    )
    assert {*vars(never).values()} == {None}


def test_after_is_strictly_before_final_and_before_is_never_the_start():
    steps = np.array([0, 100, 200, 300])
    accuracy = np.array([0.5, 0.9, 0.95, 1.0])
    one, none = np.ones(4), np.zeros(4)
    got = choose_checkpoints(
        steps, accuracy, one, none, none, n_classes=2, scale_rule="cpu"
    )
    assert (got.final, got.after) == (300, None)
    assert (got.before, got.before_last) == (None, None)  # only step 0 is before n53


def test_half_rise_is_the_last_one_of_the_standard_deviation():
    sd = np.array([0.0, 0.3, 0.1, 0.2, 0.26, 0.24, 0.25, 0.4, 0.5, 0.48])
    steps = np.arange(10) * 10
    assert half_rise(steps, sd**2) == 60  # neither the swing at 10 nor that at 40
    assert half_rise(steps, 7 * sd**2) == 60
    sd[7] = np.nan
    assert half_rise(steps, sd**2) == 60
    assert half_rise(steps[:6], sd[:6] ** 2) == 30  # of the largest that was seen


@pytest.mark.parametrize("sd", [np.zeros(5), np.full(5, 0.5), [0.5, 0.5, 0.1], []])
def test_half_rise_needs_a_rise_that_lasts(sd):
    assert half_rise(np.arange(len(sd)), np.asarray(sd, float) ** 2) is None


def test_the_variance_of_the_output_from_its_correlations():
    x = np.random.default_rng(0).choice([-1.0, 1.0], (500, 6))
    p = 1 / (1 + np.exp(-x[:, 0] - 2 * x[:, 1] * x[:, 2]))
    z = (p - p.mean())[:, None] * x
    c, se = z.mean(0), z.std(0, ddof=1) / len(x) ** 0.5
    # The probe's error sums z^2 about the mean p, which is that of p for signs.
    found = output_variance(c[None], se[None], len(x))
    np.testing.assert_allclose(found, [p.var()], rtol=2e-3)


def test_blind_score_subtracts_the_sampling_floor():
    degree1 = np.array([[0.3, -0.4], [0.01, 0.0]])
    se = np.full((2, 2), 0.1)
    np.testing.assert_allclose(blind_score(degree1, se), [0.23, 0.0])


def blind_curve(seed, spike=0.01):
    """Noise that decays, a spike at 900, collapse at 1000; 10% ripple, as measured."""
    steps = np.arange(0, 3030, 30)
    ripple = np.exp(0.1 * np.random.default_rng(seed).standard_normal(len(steps)))
    noise = 0.04 * np.minimum(steps / 60, 1) * np.exp(-steps / 250) * (steps < 1000)
    bump = spike * np.exp(-(((steps - 900) / 80) ** 2)) * (steps < 1050)
    return steps, (noise + bump) * ripple + 2e-5 * ripple * (steps >= 1000)


@pytest.mark.parametrize("seed", range(8))
def test_blind_choice_takes_the_spike_not_the_noise(seed):
    steps, score = blind_curve(seed)
    assert steps[np.argmax(score)] < 200  # the plain maximum is the noise
    choice = blind_choice(steps, score)
    assert choice is not None and 830 <= choice <= 960
    scaled = blind_choice(steps, 1000 * score)
    assert scaled == choice


@pytest.mark.parametrize("seed", range(8))
def test_blind_choice_without_a_spike(seed):
    steps, score = blind_curve(seed, spike=0.0)
    assert blind_choice(steps, score) is None


def test_blind_choice_is_not_fooled_by_one_record():
    """A single high record after the trough is smoothed away."""
    steps, score = blind_curve(0)
    score[60] = 0.5
    choice = blind_choice(steps, score)
    assert choice is not None and 830 <= choice <= 960


@pytest.mark.parametrize(
    "score", [np.zeros(9), np.full(9, np.nan), np.arange(9.0), -np.arange(9.0) + 9]
)
def test_blind_choice_needs_a_valley(score):
    assert blind_choice(np.arange(9), score) is None
    assert blind_choice(np.arange(2), score[:2]) is None


def test_blind_choice_reads_off_a_valley():
    """Peaks 4 and 3 around 1: depth 3 / 1.04; unsmoothed, the choice is the second."""
    score = np.array([4.0, 2.0, 1.0, 2.0, 3.0, 0.5])
    assert blind_choice(np.arange(6) * 10, score, window=1) == 40
    assert blind_choice(np.arange(6) * 10, score, window=1, min_ratio=2.9) is None
    with pytest.raises(ConfigError, match="window"):
        blind_choice(np.arange(6), score, window=2)


def test_no_jax_is_imported():
    code = "import sys, sandbox.probes.transitions; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
