"""What every method must satisfy, tried on a small parity: for one's own methods too.

    battery(Strategy(name="mine", source=Final(), loss=MyLoss()))

Raises an `AssertionError` that says what does not hold. A minute at most; nothing is
stored.
"""

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from sandbox.distill.losses import Loss
from sandbox.distill.sources import Adaptive, Final, Lane, Source
from sandbox.distill.strategy import Strategy
from sandbox.distill.targets import Target
from sandbox.distill.updates import Joint
from sandbox.distill.views import Identity
from sandbox.models.base import Model
from sandbox.models.mlp import MLP
from sandbox.store.code import classes
from sandbox.store.config import from_json, to_json
from sandbox.tasks.base import Task
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.train.engine import Engine
from sandbox.train.lanes import most_active
from sandbox.train.run import BUILT_IN
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from sandbox.train.teaching import (
    LaneArrays,
    Plan,
    known_rows,
    make_segment,
    run_chunk,
    task_key,
)
from sandbox.types import Outputs, Params

_TASK = Parity(d=10, k=3, support=RandomSupport())
_EVERY = 64  # samples between checkpoints, and of a segment
_LAST = 256


@dataclass(frozen=True)
class _Counted:
    """A model that counts the rows which pass through it, by who it is."""

    model: Model
    who: str
    rows: ClassVar[Counter[str]] = Counter()

    def __getattr__(self, name: str) -> Any:
        """Everything else is the model's, but that the blocked engine may take it."""
        if name in ("model", "two_layer_relu"):
            raise AttributeError(name)
        return getattr(self.model, name)

    @property
    def n_classes(self) -> int:
        """The model's."""
        return self.model.n_classes

    def init(self, key: Any) -> Params:
        """The model's."""
        return self.model.init(key)

    def width_axes(self, params: Params) -> Params:
        """The model's."""
        return self.model.width_axes(params)

    def apply(
        self, params: Params, x: Any, *, key: Any = None, taps: Sequence[str] = ()
    ) -> Outputs:
        """The model's, counted while it is traced."""
        self.rows[self.who] += x.shape[0]
        return self.model.apply(params, x, key=key, taps=taps)


def battery(
    strategy: Strategy,
    *,
    off: Strategy | None = None,
    task: Task = _TASK,
    student: Model = MLP(d=10, hidden=(8,)),  # noqa: B008 (frozen)
    teacher: Model = MLP(d=10, hidden=(32,)),  # noqa: B008 (frozen)
) -> None:
    """Tries a method: one's own loss, target, source, view or update.

    Its record survives JSON; its source answers consistently; seeds and lanes together
    equal each alone; no gradient reaches a stored teacher, which is random here; its
    cost is the passes forward that are made; and with its options off it is
    cross-entropy, bit for bit.

    Args:
      strategy: the method; schedules count in multiples of 64 up to 256 samples.
      off: the method with its options off, if there is such a setting.
      task: on vectors.
      student: the network that is trained.
      teacher: the one whose checkpoints, random here, teach.

    Raises:
      AssertionError: one of these does not hold, in words.
    """
    extra = (*BUILT_IN, *classes(strategy))
    read = from_json(Strategy, to_json(strategy), extra=extra)
    assert read == strategy, f"JSON does not give {strategy.name!r} back: {read}"
    spec = _spec(task, student, teacher, strategy, replace(strategy, name="b", init=1))
    together = _train(spec)
    for s in range(2):
        for i, lane in enumerate(spec.strategies):
            alone = _train(_spec(task, student, teacher, lane, first=s, n=1))
            gap = jax.tree.map(
                lambda a, b, s=s, i=i: np.abs(np.asarray(a[s, i] - b[0, 0])).max(),
                together,
                alone,
            )
            worst = max(jax.tree.leaves(gap))
            assert worst < 1e-5, f"alone and together differ by {worst:.2g}"
    _check_source(strategy.source)
    _check_frozen(spec)
    _check_cost(spec)
    if off is not None:
        two = (_spec(task, student, teacher, s) for s in (Strategy(name="ce"), off))
        ce, mine = (_train(replace(s, engine="generic")) for s in two)
        same = jax.tree.map(lambda a, b: bool((a == b).all()), ce, mine)
        assert all(jax.tree.leaves(same)), f"{off.name!r} is not cross-entropy"


def _spec(
    task: Task,
    student: Model,
    teacher: Model,
    *lanes: Strategy,
    first: int = 0,
    n: int = 2,
) -> RunSpec:
    own: dict[str, Any] = dict(
        task=task,
        stop=Stop(max_samples=_LAST),
        eval_every=_EVERY,
        eval_points=64,
        n_seeds=n,
        first_seed=first,
    )
    taught = RunSpec(
        kind="teacher",
        model=teacher,
        strategies=(Strategy(name="teacher"),),
        checkpoint_every=_EVERY,
        **own,
    )
    ref = TeacherRef(spec=taught, final=_LAST)
    return RunSpec(kind="student", model=student, strategies=lanes, teacher=ref, **own)


def _teachers(spec: RunSpec) -> tuple[Params, np.ndarray]:
    """Random checkpoints `(S, K, ...)`, the same of a seed in any group."""
    assert spec.teacher is not None
    k = max(most_active(spec.strategies), 1)
    keys = [[jax.random.key(100 * s + i) for i in range(k)] for s in spec.seeds]
    make = jax.vmap(jax.vmap(spec.teacher.spec.model.init))
    shape = (spec.n_seeds, len(spec.strategies))
    return make(jnp.stack([jnp.stack(row) for row in keys])), np.zeros(shape, np.int32)


def _train(spec: RunSpec) -> Params:
    engine = Engine(spec)
    taught = any(s.source.reads for s in spec.strategies)
    teacher, index = _teachers(spec)
    state = engine.run(engine.init(), 0, 4, teacher if taught else None, index)
    return engine.params(state)


def _check_source(source: Source) -> None:
    """What it answers along a student's training follows from itself."""
    lane = Lane(0, _LAST)
    known = source.checkpoints(lane)
    for t in range(0, 2 * _LAST, _EVERY):
        members, switch = source.members_at(t, lane), source.next_switch(t, lane)
        n = len(members)
        assert n == source.n_members * source.reads, f"{n} networks teach sample {t}"
        assert all(m.step in known for m in members), f"{members} not in {known}"
        assert switch is None or switch > t, f"after {t} comes a switch at {switch}"
        end = 2 * _LAST if switch is None else min(switch, 2 * _LAST)
        for later in range(t, end, _EVERY):
            then = source.members_at(later, lane)
            assert then == members or isinstance(source, Adaptive), (
                f"sample {later} is taught by {then} without a switch from {members}"
            )


def _check_frozen(spec: RunSpec) -> None:
    """No gradient of what a segment is taught reaches a stored teacher."""
    lane = spec.strategies[0]
    if not lane.source.reads:
        return
    plan, lanes = Plan.of(spec), LaneArrays.of(spec.strategies)
    teacher, index = _teachers(spec)
    one = jax.tree.map(lambda p: p[0], teacher)

    def taught(params: Params) -> Any:
        known = None
        if spec.uses_known:
            stacked = jax.tree.map(lambda p: p[None], jax.lax.stop_gradient(params))
            found = known_rows(plan, task_key(0)[None], stacked)
            known = jax.tree.map(lambda a: a[0], found)
        seg = make_segment(
            plan, task_key(0), jnp.uint32(0), params, index[0], lanes, 1, known
        )
        found = [a for a in jax.tree.leaves(seg.supervision) if a.dtype.kind == "f"]
        return sum(jnp.sum(a) for a in found)

    grad = jax.tree.leaves(jax.grad(taught)(one))
    assert all((g == 0).all() for g in grad), "a gradient reaches the stored teacher"


def _check_cost(spec: RunSpec) -> None:
    """Rows that pass through the networks for a sample are what the cost says."""
    lane = spec.strategies[0]
    plain = replace(lane, source=Final(), target=Target(), loss=Loss(), view=Identity())
    plain = replace(plain, update=Joint())
    unit, seen = (_rows(replace(spec, strategies=(s,))) for s in (plain, lane))
    for who, claimed in (
        ("student", lane.cost.student_forward + lane.update.quiz_rows),
        ("teacher", lane.cost.teacher_forward),
    ):
        made = seen[who] / unit[who]  # members pass one after the other, counted once
        made *= lane.source.n_members if who == "teacher" else 1
        assert made == claimed or (who == "teacher" and not lane.source.stored), (
            f"{made:g} passes of the {who} a sample, and not {claimed} as its cost says"
        )


def _rows(spec: RunSpec) -> Counter[str]:
    """Rows that the networks see where a chunk of the generic engine is traced."""
    assert spec.teacher is not None
    taught = _Counted(spec.teacher.spec.model, "teacher")
    ref = replace(spec.teacher, spec=replace(spec.teacher.spec, model=taught))
    counted = replace(spec, model=_Counted(spec.model, "student"), teacher=ref)
    engine, source = Engine(counted), counted.strategies[0].source
    teacher, index = _teachers(counted)
    given = engine.taught(teacher if source.reads else None, index)
    state = engine.init()
    _Counted.rows.clear()
    chunk = partial(inspect.unwrap(run_chunk), engine.kernel, engine.plan)
    jax.eval_shape(chunk, state, engine.keys, np.uint32(0), np.int32(1), *given)
    return Counter(_Counted.rows)
