"""The host's plan of teachers: saturation lanes advance alone, indices are right."""

from collections.abc import Callable

import numpy as np
import pytest

from sandbox.store.trajectories import Trajectory
from sandbox.train.lanes import ABSENT, LABELS, LanePlan
from sandbox.train.run import folder_of
from sandbox.train.spec import RunSpec

Make = Callable[..., RunSpec]


def test_saturation_counts_from_its_last_switch(make_student: Make) -> None:
    """Flat curves: only the limit of 192 samples moves the lane, each time anew.

    Seed 1 learns and stalls between 192 and 320, and moves on earlier.
    """
    plan = LanePlan(make_student(), None)
    steps = np.arange(0, 513, 64)
    accuracy = np.full((9, 2, 5), 0.5)
    accuracy[4:, 1, 4] = 0.7  # the gain at 256 is after the switch at 192
    seen = []
    for r, t in enumerate(steps):
        plan.advance(int(t), steps[: r + 1], accuracy[: r + 1])
        seen.append(plan.position[:, 4].tolist())
    assert [s[0] for s in seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [s[1] for s in seen] == [0, 0, 0, 1, 1, 2, 2, 2, 3]
    np.testing.assert_array_equal(plan.switched_at[:, 4], [384, 512])
    assert (plan.position[:, :4] == 0).all()  # the other lanes never move


def test_steps_and_switches(make_student: Make) -> None:
    plan = LanePlan(make_student(), None)
    expected = [[LABELS, 1024, 128, 256, 128], [LABELS, 1024, 128, ABSENT, 128]]
    np.testing.assert_array_equal(plan.steps_at(0), expected)
    np.testing.assert_array_equal(plan.absent, np.array(expected) == ABSENT)
    assert [plan.next_switch(t) for t in (0, 128, 192, 895, 896)] == [
        128,
        192,
        256,
        896,
        None,
    ]


@pytest.mark.parametrize("t", [0, 200, 5000])
def test_each_lane_gets_its_checkpoint(
    make_student: Make, new_root: Callable, teacher: RunSpec, t: int
) -> None:
    """Stack and index together give the parameters that the schedule names."""
    trajectory = Trajectory(folder_of(teacher, new_root("runs")))
    plan = LanePlan(make_student(), trajectory)
    stack, index = plan.teachers_at(t)
    kernels, steps = stack["layer_0"]["kernel"], plan.steps_at(t)
    assert kernels.shape[1] == max(len({s for s in row if s >= 0}) for row in steps)
    for s, i in np.argwhere(steps >= 0):
        own = trajectory.read(int(steps[s, i]), seed=int(s))["layer_0"]["kernel"]
        np.testing.assert_array_equal(kernels[s, index[s, i]], own)
