"""What every engine shares: the static plan of a group, and one segment of rows.

A segment is R rows of every seed's stream with, for every lane, what its loss needs.
The teacher's logits are computed once per seed and checkpoint and serve all lanes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int, Integer

from sandbox.distill.losses import Answers, Loss, Taught
from sandbox.distill.sources import Final, Labels, LiveSource
from sandbox.distill.strategy import Strategy, shared_structure
from sandbox.distill.targets import Anneal, Known, Target, annealed, ends
from sandbox.distill.updates import Trained
from sandbox.models.base import Model
from sandbox.tasks.base import Task, is_sequence_task, row_keys, row_numbers
from sandbox.tasks.data import Data
from sandbox.train.buckets import micro_size
from sandbox.train.devices import Shards
from sandbox.train.forward import joined, outputs, parted
from sandbox.train.optim import Optimizer
from sandbox.train.spec import RunSpec
from sandbox.types import Array, Params

ALIVE = np.uint32(2**32 - 1)
"""`bad` of a lane that is still finite."""
_TASK, _TEACHER_INIT, _STUDENT_INIT = 0, 1, 2  # folds of a seed's key
_NOISE = 16  # fold of the task key behind dropout; probes use 3 to 8
_EXTRA = 17  # behind the rows that a loss makes of each row
KNOWN_ROWS, KNOWN_SEQUENCES = 4096, 256
"""Rows of the quiz stream on which a teacher's statistics are computed."""


def task_key(seed: int) -> Array:
    """The key behind a seed's support and streams."""
    return jax.random.fold_in(jax.random.key(seed), _TASK)


def init_key(seed: int, kind: str, init: int = 0) -> Array:
    """The key behind a seed's initial parameters; teachers' and students' differ.

    Args:
      seed: the seed.
      kind: `teacher` or `student`.
      init: which of the seed's initialisations.
    """
    role = _TEACHER_INIT if kind == "teacher" else _STUDENT_INIT
    key = jax.random.fold_in(jax.random.key(seed), role)
    return jax.random.fold_in(key, init) if init else key


@dataclass(frozen=True)
class Plan:
    """The part of a run record that is compiled in."""

    task: Task
    data: Data
    model: Model
    teacher_model: Model | None
    structure: Strategy
    optimizer: Optimizer
    n_seeds: int
    n_lanes: int
    batch_size: int
    block: int
    segment: int
    split: str
    micro: int
    triton: bool
    shards: Shards | None = None

    @classmethod
    def of(cls, spec: RunSpec) -> "Plan":
        """Strips a record of everything that changes no compiled program."""
        shared = shared_structure(spec.strategies)
        n_seeds, n_lanes = spec.shape
        live, transforms, loss, view, update = shared.structure
        target = Target(transforms=transforms)
        if loss.refuses(target):  # at the temperature of 1
            target = shared.target
        structure = Strategy(
            name="shared",
            source=live or (Final() if shared.source.needs_teacher else Labels()),
            target=target,
            loss=loss,
            view=view,
            update=update,
        )
        return cls(
            task=spec.task,
            data=spec.data,
            model=spec.model,
            teacher_model=spec.teacher.spec.model if spec.teacher else None,
            structure=structure,
            optimizer=spec.optimizer,
            n_seeds=n_seeds,
            n_lanes=n_lanes,
            batch_size=spec.batch_size,
            block=spec.block,
            segment=spec.segment,
            split=spec.split,
            micro=micro_size(spec.batch_size, spec.micro),
            triton=spec.engine_used == "online_triton",
        )

    @property
    def in_turn(self) -> bool:
        """Whether seeds and lanes are computed one after the other.

        A step of a transformer is large enough to fill a device by itself, and rows cut
        to their length need a branch, which vmap would turn into all branches.
        """
        return is_sequence_task(self.task)

    def noise_key(self, key: Array, t: Array) -> Array:
        """The key behind the dropout of the step that begins at sample t."""
        own = jax.random.fold_in(jax.random.fold_in(key, _NOISE), self.split == "train")
        return jax.random.fold_in(own, t)


class Ramp(NamedTuple):
    """An annealed number of every lane, each `(L,)`."""

    start: Array
    end: Array
    over: Array

    @classmethod
    def of(cls, values: Sequence[float | Anneal]) -> "Ramp":
        """A constant or annealed number a lane."""
        columns = zip(*map(ends, values), strict=True)
        return cls(*(jnp.asarray(c, jnp.result_type(float)) for c in columns))


class LaneArrays(NamedTuple):
    """Numbers that differ between lanes of one compiled program."""

    tau: Ramp
    loss: tuple[Ramp, ...]

    @classmethod
    def of(cls, strategies: Sequence[Strategy]) -> "LaneArrays":
        """Reads temperatures and the losses' numbers off the strategies."""
        loss = zip(*(s.ramps for s in strategies), strict=True)
        taus = [s.target.tau for s in strategies]
        return cls(Ramp.of(taus), tuple(map(Ramp.of, loss)))


class Members(NamedTuple):
    """Several networks that teach a lane together, `(S, L, M)` each.

    Attributes:
      which: of the active checkpoints.
      weight: of its logits.
    """

    which: Any
    weight: Any


class Segment(NamedTuple):
    """R rows of one seed: inputs, weights, rates; each lane's supervision (R, L).

    Weights and supervision of sequences have a further axis N.

    Attributes:
      x: inputs.
      weight: of each row.
      rate: learning rate there.
      supervision: what the loss prepared; of a live source a `Prepared`.
      keep: weight of each row in each lane's loss; None where all count.
      extra: rows that the loss made of each row.
      quiz: rows `x, y, weight` of the quiz stream, those of each step in turn.
    """

    x: Any
    weight: Float[Array, "R ..."]
    rate: Float[Array, " R"]
    supervision: Any
    keep: Array | None = None
    extra: Any = None
    quiz: Any = None


class Prepared(NamedTuple):
    """What a loss prepares its supervision of, for one lane or all `(R, L, ...)`.

    Attributes:
      label: one-hot.
      answers: the stored teacher's; None without one.
      tau: its temperature.
      numbers: of the loss.
      t: number of the sample; None where nothing asks for it.
    """

    label: Array
    answers: Answers | None
    tau: Array
    numbers: tuple[Array, ...]
    t: Array | None


def supervised(
    plan: Plan, rows: Prepared, known: Known | None = None
) -> tuple[Any, Array | None]:
    """What the loss needs of rows, and the weight of each in it (None for 1)."""
    loss, target, taught = plan.structure.loss, plan.structure.target, None
    if rows.answers is not None:
        a = (rows.answers, rows.label, rows.tau, rows.t, target, known)
        taught = Taught(*a)
    sup = loss.supervise(rows.label, taught, rows.numbers)
    if taught is None or not target.transforms:
        return sup, None
    return sup, taught.transformed[1]


def make_segment(
    plan: Plan,
    key: Array,
    t0: Integer[Array, ""],
    teacher: Params | None,
    index: Int[Array, " L"] | Members,
    lanes: LaneArrays,
    active: Integer[Array, ""] | int | None = None,
    known: Known | None = None,
) -> Segment:
    """Samples rows t0 .. t0+R of one seed and prepares every lane's supervision.

    Args:
      plan: static plan.
      key: the seed's task key.
      t0: first row.
      teacher: active checkpoints stacked on a leading axis K, or None.
      index: which of them teaches each lane.
      lanes: temperatures and label weights.
      active: how many of them teach at all, the first ones; the others cost nothing.
      known: what they say of held-out rows, `(K, n, ...)`, if any part needs it.
    """
    n, structure = plan.segment, plan.structure
    batch = plan.data.sample(plan.task, key, t0, n, split=plan.split)
    t = row_numbers(t0, n)
    label = jax.nn.one_hot(batch.y, plan.task.n_classes, dtype=batch.weight.dtype)
    inner = label.shape[1:]  # (C,), or (N, C)
    label_RLC = jnp.broadcast_to(label[:, None], (n, plan.n_lanes, *inner))
    extra = _extra(plan, key, t0, batch.x)
    answers = None
    if teacher is not None and plan.teacher_model is not None:
        frozen = jax.lax.stop_gradient(teacher)
        k = jax.tree.leaves(frozen)[0].shape[0]
        k = k if active is None else active
        answers_KR = _answers(plan, frozen, batch.x, extra, k)
        answers = jax.tree.map(partial(_of_lanes, index), answers_KR)
    ramps = [annealed(*ramp, t) for ramp in (lanes.tau, *lanes.loss)]
    tau, *numbers = (_along(a, label_RLC.shape[:-1]) for a in ramps)
    rows = Prepared(label_RLC, answers, tau, tuple(numbers), None)
    if (
        type(structure.loss) is Loss
        and structure.source in (Final(), Labels())
        and not structure.target.transforms
    ):
        sup, keep = supervised(plan, rows)
    else:
        t_RL = jnp.broadcast_to(t[:, None], (n, plan.n_lanes))
        sup, keep = rows._replace(t=_along(t_RL, tau.shape)), None
        if not isinstance(structure.source, LiveSource):
            own = jax.tree.map(lambda a: a[index], known)
            sup, keep = jax.vmap(partial(supervised, plan), (1, 0), 1)(sup, own)
    rate = plan.optimizer.lr.at(t)
    return Segment(batch.x, batch.weight, rate, sup, keep, extra, _quiz(plan, key, t0))


def _of_lanes(index: Array | Members, a: Array) -> Array:
    """Of each lane `(R, L, ...)`, from what each checkpoint says, `(K, R, ...)`."""
    if not isinstance(index, Members):
        return jnp.swapaxes(a[index], 0, 1)
    parts = index.weight, a[index.which]
    return jnp.einsum("lm,lmr...->rl...", *parts, precision="highest")


def _extra(plan: Plan, key: Array, t0: Array, x: Any) -> Any:
    """The rows that the loss makes of each row: `(R, copies, ...)`; None for none.

    Of sequences `(R, N, copies)`, like everything else that is cut to their length.
    """
    if not plan.structure.loss.copies:
        return None
    keys = row_keys(jax.random.fold_in(key, _EXTRA), t0, plan.segment)
    rows = jax.vmap(plan.structure.loss.inputs)(keys, x)
    if not plan.in_turn:
        return rows
    return jax.tree.map(lambda a: jnp.moveaxis(a, 1, 2), rows)


def _quiz(plan: Plan, key: Array, t0: Array) -> Any:
    """Rows of the quiz stream for the steps of a segment, if the update takes any."""
    each = plan.structure.update.quiz_rows
    if not each:
        return None
    steps = plan.segment // plan.batch_size
    first = jnp.asarray(t0, jnp.uint32) // plan.batch_size * each
    batch = plan.task.sample(key, first, steps * each, split="quiz")
    return batch.x, batch.y, batch.weight


def _answers(
    plan: Plan, teacher: Params, x: Any, extra: Any, active: Integer[Array, ""] | int
) -> Answers:
    """Of the first `active` checkpoints (K, R, ...), one after the other; 0 beyond."""
    model, loss = plan.teacher_model, plan.structure.loss
    assert model is not None

    def answers(params: Params) -> Answers:
        out = outputs(plan.task, model, params, x, loss.teacher_taps)
        if extra is None:
            return Answers(out.logits, out.acts)
        rows = joined(extra, plan.in_turn)
        more = outputs(plan.task, model, params, rows).logits
        return Answers(out.logits, out.acts, parted(more, loss.copies, plan.in_turn))

    def at(i: Array | int) -> Params:
        return jax.tree.map(lambda p: p[i], teacher)

    k = jax.tree.leaves(teacher)[0].shape[0]
    one = jax.eval_shape(answers, at(0))
    empty = jax.tree.map(lambda s: jnp.zeros((k, *s.shape), s.dtype), one)

    def body(i: Array, out: Answers) -> Answers:
        return jax.tree.map(lambda a, new: a.at[i].set(new), out, answers(at(i)))

    return jax.lax.fori_loop(0, active, body, empty)


def answer_shapes(plan: Plan) -> tuple[Answers, Answers | None]:
    """Shapes of student's and stored teacher's answers to one row."""
    loss, key = plan.structure.loss, jax.random.key(0)
    x = jax.eval_shape(
        lambda k: plan.task.sample(k, jnp.uint32(0), 1, split=plan.split).x, key
    )

    def of(model: Model, taps: tuple[str, ...]) -> Answers:
        params = jax.eval_shape(model.init, key)
        out = jax.eval_shape(
            lambda p, rows: outputs(plan.task, model, p, rows, taps), params, x
        )
        return Answers(out.logits, out.acts)

    teacher = plan.teacher_model
    known = None if teacher is None else of(teacher, loss.teacher_taps)
    return of(plan.model, loss.taps), known


@partial(jax.jit, static_argnums=0)
def known_rows(plan: Plan, keys: Array, teacher: Params) -> Known:
    """What stacked checkpoints `(S, K, ...)` say of held-out rows, `(S, K, n, ...)`."""
    n = KNOWN_SEQUENCES if plan.in_turn else KNOWN_ROWS

    def one(args: tuple[Array, Params]) -> Known:
        key, stacked = args
        batch = plan.task.sample(key, jnp.uint32(0), n, split="quiz")
        k = jax.tree.leaves(stacked)[0].shape[0]
        said = _answers(plan, stacked, batch.x, None, k)
        label = jax.nn.one_hot(batch.y, plan.task.n_classes, dtype=batch.weight.dtype)

        def repeated(a: Array) -> Array:
            return jnp.broadcast_to(a, (k, *a.shape))

        label, weight = repeated(label), repeated(batch.weight)
        found = Known(said.logits, label, weight, said.acts)
        if plan.in_turn:
            found = jax.tree.map(lambda a: a.reshape(k, -1, *a.shape[3:]), found)
        stats = None
        if plan.structure.loss.uses_known:
            stats = jax.lax.map(plan.structure.loss.statistics, found)
        return found._replace(acts=None, stats=stats)

    return jax.lax.map(one, (keys, teacher))


def _along(a: Array, shape: tuple[int, ...]) -> Array:
    """Repeats the number of each row and lane over the row's positions."""
    return jnp.broadcast_to(a.reshape(*a.shape, *(1,) * (len(shape) - 2)), shape)


def in_turn(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Like `jax.vmap(fn)`, one after the other."""
    return lambda *args: jax.lax.map(lambda a: fn(*a), args)


@runtime_checkable
class Kernel(Protocol):
    """What an engine is: three functions on one seed, all its lanes together.

    A state is a named tuple with `bad`, `loss` and `weight`, each `(L,)`: the first
    sample that left the floats' range or `ALIVE`, and the sums of training losses and
    of their weights since they were last read.
    """

    def begin(self, plan: Plan, trained: Trained) -> Any:
        """The state that starts from trained tensors `(L, ...)`, without optimizer."""
        ...

    def train(self, plan: Plan, state: Any, key: Array, t0: Array, seg: Segment) -> Any:
        """The state after a segment.

        Args:
          plan: static plan.
          state: before it.
          key: the seed's task key.
          t0: first sample of the segment.
          seg: its rows.
        """
        ...

    def deployed(self, plan: Plan, state: Any) -> Params:
        """Parameters `(L, ...)` as they are stored and evaluated."""
        ...


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def run_chunk(
    kernel: Kernel,
    plan: Plan,
    state: Any,
    keys: Array,
    t0: Array,
    n_segments: Array,
    teacher: Params | None,
    index: Array | Members,
    lanes: LaneArrays,
    known: Known | None = None,
) -> Any:
    """Trains every seed on `n_segments` segments from sample t0.

    The trip count is an argument, so chunks of any length run the same program and the
    chunk length cannot change a bit.
    """
    active = jnp.max(index.which if isinstance(index, Members) else index) + 1

    def one(state, key, t, teacher, index, known):
        seg = make_segment(plan, key, t, teacher, index, lanes, active, known)
        return kernel.train(plan, state, key, t, seg)

    def segment(i, state):
        t = jnp.uint32(t0) + jnp.uint32(plan.segment) * i.astype(jnp.uint32)
        each = jnp.broadcast_to(t, (plan.n_seeds,))
        args = (state, keys, each, teacher, index, known)
        if plan.n_seeds == 1:
            out = one(*jax.tree.map(lambda a: a[0], args))
            return jax.tree.map(lambda a: a[None], out)
        return (in_turn if plan.in_turn else jax.vmap)(one)(*args)

    return lax.fori_loop(0, n_segments, segment, state)
