"""What every engine shares: the static plan of a group, and one segment of rows.

A segment is R rows of every seed's stream with, for every lane, what its loss needs.
The teacher's logits are computed once per seed and checkpoint and serve all lanes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int, Integer

from sandbox.distill.losses import Supervision, supervise
from sandbox.distill.sources import Final, Labels
from sandbox.distill.strategy import Loss, Strategy, ends, shared_structure
from sandbox.distill.targets import annealed
from sandbox.models.base import Model
from sandbox.tasks.base import Task, is_sequence_task
from sandbox.train.buckets import micro_size
from sandbox.train.forward import forward
from sandbox.train.optim import Optimizer
from sandbox.train.spec import RunSpec
from sandbox.types import Array, Params

ALIVE = np.uint32(2**32 - 1)
"""`bad` of a lane that is still finite."""
_TASK, _TEACHER_INIT, _STUDENT_INIT = 0, 1, 2  # folds of a seed's key
_NOISE = 16  # fold of the task key behind dropout; probes use 3 to 8


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

    @classmethod
    def of(cls, spec: RunSpec) -> "Plan":
        """Strips a record of everything that changes no compiled program."""
        shared = shared_structure(spec.strategies)
        n_seeds, n_lanes = spec.shape
        structure = Strategy(
            name="shared",
            source=Final() if shared.source.needs_teacher else Labels(),
            loss=Loss(
                direction=shared.loss.direction,
                tau_student=shared.loss.tau_student,
                scale=shared.loss.scale,
            ),
            view=shared.view,
            update=shared.update,
        )
        return cls(
            task=spec.task,
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


class LaneArrays(NamedTuple):
    """Numbers that differ between lanes of one compiled program, each `(L,)`."""

    tau_start: Array
    tau_end: Array
    tau_over: Array
    alpha_start: Array
    alpha_end: Array
    alpha_over: Array

    @classmethod
    def of(cls, strategies: tuple[Strategy, ...]) -> "LaneArrays":
        """Reads temperatures and label weights off the strategies."""
        tau = [ends(s.target.tau) for s in strategies]
        alpha = [ends(s.alpha) for s in strategies]
        columns = [[row[i] for row in rows] for rows in (tau, alpha) for i in range(3)]
        return cls(*(jnp.asarray(c, jnp.result_type(float)) for c in columns))


class Segment(NamedTuple):
    """R rows of one seed: inputs, weights, rates; each lane's supervision (R, L).

    Weights and supervision of sequences have a further axis N.
    """

    x: Any
    weight: Float[Array, "R ..."]
    rate: Float[Array, " R"]
    supervision: Supervision


def make_segment(
    plan: Plan,
    key: Array,
    t0: Integer[Array, ""],
    teacher: Params | None,
    index: Int[Array, " L"],
    lanes: LaneArrays,
    active: Integer[Array, ""] | int | None = None,
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
    """
    n = plan.segment
    batch = plan.task.sample(key, t0, n, split=plan.split)
    t = jnp.asarray(t0, jnp.uint32) + jnp.arange(n, dtype=jnp.uint32)
    label = jax.nn.one_hot(batch.y, plan.task.n_classes, dtype=batch.weight.dtype)
    inner = label.shape[1:]  # (C,), or (N, C)
    label_RLC = jnp.broadcast_to(label[:, None], (n, plan.n_lanes, *inner))
    logits_RLC = None
    if teacher is not None and plan.teacher_model is not None:
        frozen = jax.lax.stop_gradient(teacher)
        k = jax.tree.leaves(frozen)[0].shape[0]
        logits_KRC = _logits(plan, frozen, batch.x, k if active is None else active)
        logits_RLC = jnp.swapaxes(logits_KRC[index], 0, 1)
    tau = annealed(lanes.tau_start, lanes.tau_end, lanes.tau_over, t)
    alpha = annealed(lanes.alpha_start, lanes.alpha_end, lanes.alpha_over, t)
    tau, alpha = (_along(a, label_RLC.shape[:-1]) for a in (tau, alpha))
    sup = supervise(plan.structure.loss, label_RLC, logits_RLC, tau, alpha)
    rate = plan.optimizer.lr.at(t)
    return Segment(batch.x, batch.weight, rate, sup)


def _logits(
    plan: Plan, teacher: Params, x: Any, active: Integer[Array, ""] | int
) -> Float[Array, "K R ..."]:
    """Outputs of the first `active` checkpoints, one after the other; 0 beyond."""
    model = plan.teacher_model
    assert model is not None

    def outputs(params: Params) -> Array:
        return forward(plan.task, model, params, x)

    def at(i: Array | int) -> Params:
        return jax.tree.map(lambda p: p[i], teacher)

    k = jax.tree.leaves(teacher)[0].shape[0]
    one = jax.eval_shape(outputs, at(0))
    empty = jnp.zeros((k, *one.shape), one.dtype)
    return jax.lax.fori_loop(
        0, active, lambda i, out: out.at[i].set(outputs(at(i))), empty
    )


def _along(a: Float[Array, "R L"], shape: tuple[int, ...]) -> Array:
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

    def from_phi(self, plan: Plan, phi: Params) -> Any:
        """The state that starts from trained tensors `(L, ...)`."""
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
    index: Array,
    lanes: LaneArrays,
) -> Any:
    """Trains every seed on `n_segments` segments from sample t0.

    The trip count is an argument, so chunks of any length run the same program and the
    chunk length cannot change a bit.
    """
    active = jnp.max(index) + 1

    def one(state, key, t, teacher, index):
        seg = make_segment(plan, key, t, teacher, index, lanes, active)
        return kernel.train(plan, state, key, t, seg)

    def segment(i, state):
        t = jnp.uint32(t0) + jnp.uint32(plan.segment) * i.astype(jnp.uint32)
        args = (state, keys, jnp.broadcast_to(t, (plan.n_seeds,)), teacher, index)
        if plan.n_seeds == 1:
            out = one(*jax.tree.map(lambda a: a[0], args))
            return jax.tree.map(lambda a: a[None], out)
        return (in_turn if plan.in_turn else jax.vmap)(one)(*args)

    return lax.fori_loop(0, n_segments, segment, state)
