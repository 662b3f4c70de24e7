"""The host's side of teaching: which checkpoint teaches each lane, and until when."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sandbox.distill.sources import Adaptive, Lane, Member, of_seed
from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError, StoreError
from sandbox.store.trajectories import Trajectory
from sandbox.train.run import Run, folder_of
from sandbox.train.spec import RunSpec
from sandbox.train.teaching import Members
from sandbox.types import Params

LABELS, ABSENT, LIVE = -1, -2, -3
CACHE = 16
"""Checkpoints kept in memory, all seeds of each."""


def teacher_places(strategies: tuple[Strategy, ...]) -> list[int]:
    """Place of each lane's checkpoint among those that a seed could need at once.

    Lanes of one source need the same, unless each advances by its own evaluations; -1
    for lanes that labels teach.
    """
    own = [(s.source, isinstance(s.source, Adaptive) and s.name) for s in strategies]
    taught = [o for o in own if o[0].reads]
    places = {o: i for i, o in enumerate(dict.fromkeys(taught))}
    return [places.get(o, -1) for o in own]


def most_active(strategies: tuple[Strategy, ...]) -> int:
    """Stored networks that a seed could need at once."""
    places = zip(teacher_places(strategies), strategies, strict=True)
    return sum({i: s.source.n_members for i, s in places if i >= 0}.values())


def begin_from(spec: RunSpec, root: Path) -> Params | None:
    """Parameters `(S, ...)` that the seeds start from; None for fresh ones."""
    if spec.start is None:
        return None
    found = Run(folder_of(spec.start.spec, root), spec.start.spec).trajectory
    finals = [of_seed(spec.start.final, i) for i in range(spec.n_seeds)]
    steps = [found.steps[-1] if step is None else step for step in finals]
    rows = [found.read(step, seed=i) for i, step in enumerate(steps)]
    return jax.tree.map(lambda *p: np.stack(p), *rows)


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
        self._last: tuple[Any, Params] = None, None

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
        """Checkpoint step that teaches sample t, `(S, L)`; below 0 if there is none.

        That is LABELS, LIVE without a stored run, or ABSENT where it has no checkpoint.
        """
        out = np.full(self.position.shape, ABSENT, np.int64)
        for s, i in np.ndindex(out.shape):
            source = self.spec.strategies[i].source
            if not source.reads:
                out[s, i] = LIVE if source.needs_teacher else LABELS
                continue
            lane = self._lane(s, i)
            step = source.checkpoint_at(t, lane) if lane else None
            out[s, i] = ABSENT if step is None else step
        return out

    @property
    def absent(self) -> np.ndarray:
        """Lanes that have no teacher to learn from, or no start, `(S, L)` bool.

        The arithmetic of a group runs for them too, but on nothing meaningful: what
        they hold is no result, their metrics are NaN, and the outcome lists them.
        """
        out = self.steps_at(0) == ABSENT
        if (start := self.spec.start) is not None:
            out |= [[start.lane(s) is None] for s in range(self.spec.n_seeds)]
        return out

    def next_switch(self, t: int) -> int | None:
        """The first sample after t at which any lane's teacher changes."""
        found = []
        for s, i in np.ndindex(self.position.shape):
            lane = self._lane(s, i)
            at = self.spec.strategies[i].source.next_switch(t, lane) if lane else None
            if at is not None:
                found.append(at)
        return min(found, default=None)

    def switches(self) -> Iterator[tuple[Any, ...]]:
        """Every sample at which a teacher changes, and who teaches from there."""
        t: int | None = 0
        while t is not None and t < self.spec.stop.largest:
            members = [m for row in self._members_at(t) for m in row]
            plain = all(m == Member(m.step) for own in members for m in own)
            plain = plain and all(len(own) <= 1 for own in members)
            yield t, self.steps_at(t).tolist(), *([] if plain else [members])
            t = self.next_switch(t)

    def _members_at(self, t: int) -> list[list[tuple[Member, ...]]]:
        """Who teaches sample t, seed by seed and lane by lane."""
        seeds, lanes = map(range, self.position.shape)
        return [[self._members(t, s, i) for i in lanes] for s in seeds]

    def _members(self, t: int, s: int, i: int) -> tuple[Member, ...]:
        strategy, lane = self.spec.strategies[i], self._lane(s, i)
        if lane is None or not strategy.source.reads:
            return ()
        own, n = strategy.source.members_at(t, lane), strategy.source.n_members
        if len(own) not in (0, n) or (n == 1 and any(m.weight != 1 for m in own)):
            raise ConfigError(
                f"strategy {strategy.name!r}: source.members_at must give n_members ="
                f" {n} networks (of weight 1 if one), got {own}."
            )
        return own

    def advance(self, t: int, steps: np.ndarray, accuracy: np.ndarray) -> None:
        """Lets adaptive lanes move on, at the evaluation at sample t.

        Args:
          t: samples seen.
          steps: `(R,)` evaluations so far.
          accuracy: `(S, L, R)` recorded there.
        """
        for s, i in np.ndindex(self.position.shape):
            source, lane = self.spec.strategies[i].source, self._lane(s, i)
            if not isinstance(source, Adaptive) or lane is None:
                continue
            since = accuracy[s, i, steps >= lane.switched_at]
            if source.advances(t, lane, [float(a) for a in since]):
                self.position[s, i] += 1
                self.switched_at[s, i] = t

    def teachers_at(self, t: int) -> tuple[Params | None, np.ndarray | Members]:
        """Parameters `(S, K, ...)` of the active checkpoints and `(S, L)` indices in K.

        K is the most networks that the strategies could need at once, so that one
        compiled program serves the whole run; places beyond those that are needed now
        repeat a seed's first, and no index points there. While nothing changes the same
        arrays are returned. Where several teach a lane, indices and weights of all are
        `(S, L, M)`.
        """
        members = self._members_at(t)
        if self.trajectory is None or not any(own for row in members for own in row):
            return None, np.zeros(self.position.shape, np.int32)
        fallback = [(self.trajectory.steps[-1], 0, 0, 0)]  # of seeds without a teacher
        k = most_active(self.spec.strategies)
        asked = [
            [[self._network(m, i) for m in own] for i, own in enumerate(row)]
            for row in members
        ]
        unique = [sorted({n for own in row for n in own}) for row in asked]
        unique = [((u or fallback) + (u or fallback)[:1] * k)[:k] for u in unique]
        if self._last[0] != unique:
            rows = [
                jax.tree.map(lambda *p: np.stack(p), *[self._read(n, s) for n in u])
                for s, u in enumerate(unique)
            ]
            self._last = unique, jax.tree.map(lambda *p: np.stack(p), *rows)
        m = max(s.source.n_members for s in self.spec.strategies)
        shape = (*self.position.shape, m)
        index, weight = np.zeros(shape, np.int32), np.zeros(shape)
        for s, i in np.ndindex(self.position.shape):
            for j, n in enumerate(asked[s][i]):
                index[s, i, j] = unique[s].index(n)
                weight[s, i, j] = members[s][i][j].weight
        if m == 1:
            return self._last[1], index[..., 0]
        return self._last[1], Members(index, weight.astype(self.spec.dtype))

    def _network(self, member: Member, i: int) -> tuple[int, int, int, int]:
        """Step, lane, variant, and the first strategy whose source prepares it."""
        first = 0
        if member.variant:
            sources = [s.source for s in self.spec.strategies]
            first = sources.index(sources[i])
        return member.step, member.lane, member.variant, first

    def _read(self, network: tuple[int, int, int, int], s: int) -> Params:
        """Parameters of one network of the seed at position s."""
        assert self.trajectory is not None
        step, lane, variant, i = network
        if step not in self._cache:
            self._cache[step] = self.trajectory.read(step)
            while len(self._cache) > CACHE:
                self._cache.popitem(last=False)
        self._cache.move_to_end(step)
        params = jax.tree.map(lambda p: p[s, lane], self._cache[step])
        if not variant:
            return params
        source = self.spec.strategies[i].source
        return source.prepare(params, variant, self.spec.seeds[s])
