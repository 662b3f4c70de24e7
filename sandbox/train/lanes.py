"""The host's side of teaching: which checkpoint teaches each lane, and until when."""

from collections import OrderedDict
from collections.abc import Iterator

import jax
import numpy as np

from sandbox.distill.sources import Adaptive, Lane
from sandbox.distill.strategy import Strategy
from sandbox.errors import StoreError
from sandbox.store.trajectories import Trajectory
from sandbox.train.spec import RunSpec
from sandbox.types import Params

LABELS, ABSENT = -1, -2
CACHE = 16
"""Checkpoints kept in memory, all seeds of each."""


def teacher_places(strategies: tuple[Strategy, ...]) -> list[int]:
    """Place of each lane's checkpoint among those that a seed could need at once.

    Lanes of one source need the same, unless each advances by its own evaluations; -1
    for lanes that labels teach.
    """
    own = [(s.source, isinstance(s.source, Adaptive) and s.name) for s in strategies]
    taught = [o for o in own if o[0].needs_teacher]
    places = {o: i for i, o in enumerate(dict.fromkeys(taught))}
    return [places.get(o, -1) for o in own]


class LanePlan:
    """Answers, for every seed and strategy, who teaches sample t.

    Attributes:
      position: `(S, L)` how often a saturation lane has advanced.
      switched_at: `(S, L)` the sample at which it last did.
    """

    def __init__(self, spec: RunSpec, trajectory: Trajectory | None) -> None:
        """Reads nothing until a checkpoint is needed."""
        self.spec, self.trajectory = spec, trajectory
        shape = (spec.n_seeds, len(spec.strategies))
        self.position = np.zeros(shape, np.int64)
        self.switched_at = np.zeros(shape, np.int64)
        self._cache: OrderedDict[int, Params] = OrderedDict()

    def _lane(self, s: int, i: int) -> Lane | None:
        lane = self.spec.teacher.lane(s) if self.spec.teacher else Lane(s, 0)
        if lane is None:
            return None
        return lane._replace(
            switched_at=int(self.switched_at[s, i]), position=int(self.position[s, i])
        )

    def require_stored(self) -> None:
        """Refuses steps that the teacher, having stopped early, never stored.

        Raises:
          StoreError: such a step, or the teacher is not trained yet.
        """
        if self.trajectory is None:
            return
        stored, folder = self.trajectory.steps, self.trajectory.run.path
        for s, i in np.ndindex(self.position.shape):
            lane, strategy = self._lane(s, i), self.spec.strategies[i]
            for step in strategy.source.checkpoints(lane) if lane else ():
                if step not in stored:
                    raise StoreError(
                        f"strategy {strategy.name!r} asks for teacher checkpoint {step}"
                        f", but {folder} stopped at {stored[-1]}."
                    )

    def steps_at(self, t: int) -> np.ndarray:
        """Checkpoint step that teaches sample t, `(S, L)`; LABELS or ABSENT if none."""
        out = np.full(self.position.shape, ABSENT, np.int64)
        for s, i in np.ndindex(out.shape):
            source = self.spec.strategies[i].source
            if not source.needs_teacher:
                out[s, i] = LABELS
                continue
            lane = self._lane(s, i)
            step = source.checkpoint_at(t, lane) if lane else None
            out[s, i] = ABSENT if step is None else step
        return out

    @property
    def absent(self) -> np.ndarray:
        """Lanes that have no teacher to learn from, `(S, L)` bool.

        The arithmetic of a group runs for them too, but on nothing meaningful: what
        they hold is no result, their metrics are NaN, and the outcome lists them.
        """
        return self.steps_at(0) == ABSENT

    def next_switch(self, t: int) -> int | None:
        """The first sample after t at which any lane's teacher changes."""
        found = []
        for s, i in np.ndindex(self.position.shape):
            lane = self._lane(s, i)
            at = self.spec.strategies[i].source.next_switch(t, lane) if lane else None
            if at is not None:
                found.append(at)
        return min(found, default=None)

    def switches(self) -> Iterator[tuple[int, list[list[int]]]]:
        """Every sample at which a teacher changes, and who teaches from there."""
        t: int | None = 0
        while t is not None and t < self.spec.stop.largest:
            yield t, self.steps_at(t).tolist()
            t = self.next_switch(t)

    def advance(self, t: int, steps: np.ndarray, accuracy: np.ndarray) -> None:
        """Lets adaptive lanes move on, at the evaluation at sample t.

        Args:
          t: samples seen.
          steps: `(R,)` evaluations so far.
          accuracy: `(R, S, L)` recorded there.
        """
        for s, i in np.ndindex(self.position.shape):
            source, lane = self.spec.strategies[i].source, self._lane(s, i)
            if not isinstance(source, Adaptive) or lane is None:
                continue
            since = accuracy[steps >= lane.switched_at, s, i]
            if source.advances(t, lane, [float(a) for a in since]):
                self.position[s, i] += 1
                self.switched_at[s, i] = t

    def teachers_at(self, t: int) -> tuple[Params | None, np.ndarray]:
        """Parameters `(S, K, ...)` of the active checkpoints and `(S, L)` indices in K.

        K is the most checkpoints that the strategies could need at once, so that one
        compiled program serves the whole run; places beyond those that are needed now
        repeat a seed's first, and no index points there.
        """
        steps = self.steps_at(t)
        if self.trajectory is None or (steps < 0).all():
            return None, np.zeros(steps.shape, np.int32)
        unique = [sorted({int(v) for v in row if v >= 0}) for row in steps]
        fallback = [self.trajectory.steps[-1]]  # for seeds whose lanes are all absent
        k = max(teacher_places(self.spec.strategies)) + 1
        unique = [(u or fallback) + (u or fallback)[:1] * k for u in unique]
        unique = [u[:k] for u in unique]
        index = [
            [u.index(v) if v >= 0 else 0 for v in row]
            for u, row in zip(unique, steps, strict=True)
        ]
        rows = [
            jax.tree.map(lambda *p: np.stack(p), *[self._read(step, s) for step in u])
            for s, u in enumerate(unique)
        ]
        stacked = jax.tree.map(lambda *p: np.stack(p), *rows)
        return stacked, np.asarray(index, np.int32)

    def _read(self, step: int, seed: int) -> Params:
        assert self.trajectory is not None
        if step not in self._cache:
            self._cache[step] = self.trajectory.read(step)
            while len(self._cache) > CACHE:
                self._cache.popitem(last=False)
        self._cache.move_to_end(step)
        return jax.tree.map(lambda p: p[seed, 0], self._cache[step])
