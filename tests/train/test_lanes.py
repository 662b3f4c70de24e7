"""The host's plan of teachers: saturation lanes advance alone, indices are right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest

from sandbox.distill.sources import Lane, Source
from sandbox.distill.strategy import Strategy
from sandbox.store.trajectories import Trajectory
from sandbox.train import engine
from sandbox.train.lanes import ABSENT, LABELS, LanePlan, teacher_places
from sandbox.train.loop import fit
from sandbox.train.progress import Silent
from sandbox.train.run import folder_of
from sandbox.train.spec import RunSpec

Make = Callable[..., RunSpec]


def test_saturation_counts_from_its_last_switch(make_student: Make) -> None:
    """Flat curves: only the limit of 192 samples moves the lane, each time anew.

    Seed 1 learns and stalls between 192 and 320, and moves on earlier.
    """
    plan = LanePlan(make_student(), None)
    steps = np.arange(0, 513, 64)
    accuracy = np.full((2, 5, 9), 0.5)
    accuracy[1, 4, 4:] = 0.7  # the gain at 256 is after the switch at 192
    seen = []
    for r, t in enumerate(steps):
        plan.advance(int(t), steps[: r + 1], accuracy[..., : r + 1])
        seen.append(plan.position[:, 4].tolist())
    assert [s[0] for s in seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [s[1] for s in seen] == [0, 0, 0, 1, 1, 2, 2, 2, 3]
    np.testing.assert_array_equal(plan.switched_at[:, 4], [384, 512])
    assert (plan.position[:, :4] == 0).all()  # the other lanes never move


@dataclass(frozen=True)
class Eager(Source):
    """The next checkpoint at every evaluation that beats the last."""

    def checkpoint_at(self, t: int, lane: Lane) -> int | None:
        return min(128 * (lane.position + 1), lane.final)

    def next_switch(self, t: int, lane: Lane) -> int | None:
        return None

    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        return tuple(range(128, lane.final + 1, 128))

    def advances(self, t: int, lane: Lane, history: Sequence[float]) -> bool:
        return history[-1] > history[0]


@dataclass(frozen=True)
class Unlabelled(Eager):
    """The same questions, never asked: labels teach."""

    needs_teacher = False


def test_sources_of_ones_own(make_student: Make) -> None:
    own = (
        Strategy(name="eager", source=Eager()),
        Strategy(name="l", source=Unlabelled()),
    )
    spec = make_student(strategies=own)
    assert spec.saturating and spec.strategies[1].alpha == 1.0
    plan = LanePlan(spec, None)
    accuracy = np.array([0.5, 0.5, 0.6, 0.6]) * np.ones((2, 2, 1))
    steps = np.arange(0, 256, 64)
    for r, t in enumerate(steps):
        plan.advance(int(t), steps[: r + 1], accuracy[..., : r + 1])
    np.testing.assert_array_equal(plan.steps_at(200), [[256, LABELS]] * 2)
    assert not plan.absent.any()
    assert not make_student(strategies=own[1:], teacher=None).unit % 16


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
    places = teacher_places(plan.spec.strategies)
    assert kernels.shape[1] == max(places) + 1  # one shape, so one program
    for s, i in np.argwhere(steps >= 0):
        own = trajectory.read(int(steps[s, i]), seed=int(s))["layer_0"]["kernel"]
        np.testing.assert_array_equal(kernels[s, index[s, i]], own)


def test_a_stack_of_teachers_goes_to_the_device_once(
    make_student: Make, new_root: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks between two switches are given the same arrays, which lie there."""
    spec = make_student(strategies=make_student().strategies[:3])
    given, real = [], engine._chunk

    def chunk(*which: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            given.append(args[4]["layer_0"]["kernel"])
            return real(*which)(*args)

        return run

    monkeypatch.setattr(engine, "_chunk", chunk)
    fit(spec, root=new_root("runs"), progress=Silent(), chunk_samples=64)
    assert len(given) == 24 and all(isinstance(a, jax.Array) for a in given)
    assert len({id(a) for a in given}) == 8  # one every 128 samples, and the last
