"""Phases of loss curves, on curves whose phases are known."""

import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.probes.phases import best_constant, locate_drop


def curve(steps):
    """Plateau at 1 to step 40, linear to .2 at step 60, slow tail to 0 at 100."""
    return np.interp(steps, [0, 40, 60, 100], [1.0, 1.0, 0.2, 0.0])


def test_a_drop_between_two_plateaus():
    steps = np.arange(0, 101, 2)
    found = locate_drop(steps, curve(steps))
    assert found is not None
    # .5 of a decrease of 1 at a slope of .04 a step takes 12.5 steps: 14 on this grid.
    assert (found.start, found.end) == (40.0, 54.0)
    assert found.decrease == pytest.approx(0.56)
    assert found.duration == pytest.approx(0.14)
    assert found.start < found.steepest < found.end


def test_the_shortest_phase_wins_and_the_earliest_of_equals():
    steps = np.arange(7)
    twice = locate_drop(steps, [4.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0])
    assert twice is not None and (twice.start, twice.end) == (0.0, 1.0)
    most = locate_drop(steps, [4.0, 2.1, 2.1, 2.1, 2.1, 0.0, 0.0])
    assert most is not None and (most.start, most.end) == (4.0, 5.0)


def test_share_and_uneven_steps():
    steps, loss = [0, 10, 20, 100], [1.0, 0.9, 0.3, 0.0]
    half = locate_drop(steps, loss)
    assert half is not None and (half.start, half.end) == (10.0, 20.0)
    most = locate_drop(steps, loss, share=0.8)
    assert most is not None and (most.start, most.end) == (10.0, 100.0)
    assert half.steepest == 10.0  # (1 - .3) / 20 a step, against .9 / 90 at 20


def test_non_finite_records_are_dropped():
    steps = np.arange(0, 101, 2)
    loss = curve(steps)
    loss[3] = np.nan
    assert locate_drop(steps, loss) == locate_drop(steps, curve(steps))


def test_a_loss_that_only_rises_has_no_drop():
    assert locate_drop([0, 1, 2], [1.0, 1.1, 1.2]) is None
    assert locate_drop([0, 1], [1.0, 0.5]) is None


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_shares_that_locate_nothing_are_refused(share):
    with pytest.raises(ConfigError, match="share must lie"):
        locate_drop([0, 1, 2], [1.0, 0.5, 0.0], share=share)


def noisy(loss, seed):
    return loss + 0.002 * np.random.default_rng(seed).normal(size=len(loss))


STEPS = np.arange(0, 8001, 50)
FREQUENCIES = 1.06 + 0.04 * np.exp(-STEPS / 50)
"""What is learned first: above the loss of the best constant prediction, 1.055."""


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "loss",
    [
        *(0.2 + 0.86 * np.exp(-STEPS / tau) for tau in (300, 1000, 4000)),
        *(0.1 + 0.96 * (1 + STEPS / 200) ** -power for power in (0.3, 0.6, 1, 2)),
    ],
)
def test_exponentials_and_power_laws_have_no_plateau(loss, seed):
    found = locate_drop(STEPS, noisy(loss, seed), below=1.055)
    assert found is not None and found.plateau < 0.02
    delayed = np.concatenate([FREQUENCIES[:10], loss])  # the constant comes first
    steps = 50 * np.arange(len(delayed))
    found = locate_drop(steps, noisy(delayed, seed), below=1.055)
    assert found is not None and found.plateau < 0.02


def test_a_plateau_below_the_best_constant_is_measured():
    flat = np.where(STEPS < 150, FREQUENCIES, 1.0)
    loss = flat - 0.8 / (1 + np.exp(-(STEPS - 1500) / 100))
    found = locate_drop(STEPS, loss, below=1.055)
    assert found is not None and found.start > 1200
    # from step 150 to where a tenth is lost: ln 9 scales before the middle
    assert found.plateau == pytest.approx(
        (1500 - 100 * np.log(9) - 150) / 7850, abs=0.01
    )
    whole = locate_drop(STEPS, loss)
    assert whole is not None and whole.start == found.start
    assert locate_drop(STEPS, loss, below=0.1) is None


def test_the_best_constant_is_the_entropy_of_what_counts():
    y, weight = np.asarray([[0, 1, 1], [2, 1, -1]]), np.asarray([[1, 1, 1], [1, 0, 0]])
    p = np.asarray([0.25, 0.5, 0.25])
    assert best_constant(y, weight) == pytest.approx(-(p * np.log(p)).sum(), rel=1e-14)
    # The loss that a network which outputs these frequencies is given.
    scored = -np.log(p[y])[weight > 0].mean()
    assert best_constant(y, weight) == pytest.approx(scored, rel=1e-14)
