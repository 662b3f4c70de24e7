"""Phases of loss curves, on curves whose phases are known."""

import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.probes.phases import locate_drop


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
