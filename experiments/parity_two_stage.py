r"""Two-stage training of mirrored networks on sparse parity, batch by batch.

The analysed setting (`sandbox.theory.parity_bounds`): n pairs of neurons with the same
w in {-1,+1}^d and b uniform in (-1, 1) and opposite second-layer weights, so that f = 0
and the hinge loss has slope -target everywhere. Stage one is one step of the first
layer on a batch of B; it needs only the batch mean of target x_i 1[w_j . x + b_j > 0].
The target is the label, or f_1 of a teacher after its own first step. Stage two trains
the second layer alone, with the hinge loss, on labels (a converged teacher's).

Batches are nested: the batch of size B is the first B rows of the seed's stream, so
that one pass gives every size of the grid.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from sandbox.tasks.parity import Parity
from sandbox.theory.parity_checkpoint import Checkpoint, first_step
from sandbox.types import Array

BLOCK = 4096
"""Rows at a time; larger batches are multiples of it."""
FIRST = 16
"""The smallest batch."""
CALL = 2048
"""Blocks in one call: sums of labels stay exact in float32."""
STEPS, RATE = 200, 0.2
"""Of stage two: Adam with cosine decay, full batches of `BLOCK` rows."""


class Target(NamedTuple):
    """f_1 of one teacher a seed.

    Attributes:
      rows: `(S, n, d)`.
      bias: `(S, n)`.
    """

    rows: Any
    bias: Any


@dataclass(frozen=True)
class Students:
    """Students of one problem, and their teachers if they have any.

    Attributes:
      task: the problem; its support is the first k coordinates.
      keys: of the seeds' streams.
      w: initial weights of every mirrored pair.
      bias: of every pair.
      teachers: one a seed, or none where labels teach.
    """

    task: Parity
    keys: Any
    w: Float[np.ndarray, "S m d"]
    bias: Float[np.ndarray, "S m"]
    teachers: tuple[Checkpoint, ...] = ()

    @property
    def target(self) -> Target | None:
        """Teachers as arrays; None for labels."""
        if not self.teachers:
            return None
        rows = np.stack([t.rows for t in self.teachers])
        bias = np.stack([t.bias for t in self.teachers])
        return Target(jnp.asarray(rows, jnp.float32), jnp.asarray(bias, jnp.float32))

    @property
    def arrays(self) -> tuple[Any, Array, Array, Target | None]:
        """What the compiled sums take."""
        w, bias = (jnp.asarray(v, jnp.float32) for v in (self.w, self.bias))
        return self.keys, w, bias, self.target

    def afresh(self) -> "Students":
        """The same students on streams of their own, for checks."""
        return replace(
            self, keys=jax.vmap(lambda k: jax.random.fold_in(k, 1))(self.keys)
        )


def draw_pairs(
    rng: np.random.Generator, d: int, pairs: int
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """Initial weights and biases of mirrored pairs."""
    w = rng.choice([-1.0, 1.0], (pairs, d))
    return w, rng.uniform(-1, 1, pairs).astype(np.float32).astype(float)


def make_students(
    task: Parity, seeds: range, *, pairs: int, teacher_pairs: int
) -> Students:
    """Students of every seed; with teacher pairs, each has a teacher of its own.

    The same seeds give the same students and streams whoever teaches them.
    """
    w, bias, teachers, keys = [], [], [], []
    for seed in seeds:
        rng = np.random.default_rng((seed, task.d, task.k))
        own = draw_pairs(rng, task.d, pairs)
        w.append(own[0])
        bias.append(own[1])
        if teacher_pairs:
            theirs = draw_pairs(rng, task.d, teacher_pairs)
            teachers.append(first_step(*theirs, range(task.k)))
        key = jax.random.fold_in(jax.random.key(seed), task.d)
        keys.append(jax.random.fold_in(key, task.k))
    return Students(task, jnp.stack(keys), np.stack(w), np.stack(bias), tuple(teachers))


def batch_sizes(cap: float) -> list[int]:
    """About powers of sqrt(2) up to `cap`: multiples of `FIRST`, then of `BLOCK`."""
    steps = [round(2 ** (g / 2)) for g in range(64)]
    every = {
        u * s for u in (FIRST, BLOCK) for s in steps if u == BLOCK or u * s < BLOCK
    }
    return sorted(s for s in every if s <= cap)


def _targets(task: Parity, batch: Any, target: Target | None) -> Array:
    """What the student's output is pushed towards, row by row."""
    if target is None:
        return 1 - 2 * batch.y.astype(jnp.float32)
    u = batch.x @ target.rows.T
    b = target.bias[None, :]
    return (jax.nn.relu(u + b) - jax.nn.relu(b - u)).mean(1)


def _sums(x: Array, target: Array, w: Array, bias: Array) -> Array:
    """Sum over rows of target x_i 1[w_j . x + b_j > 0], `(m, d)`."""
    active = (x @ w.T + bias[None, :] > 0).astype(x.dtype)
    return (active * target[:, None]).T @ x


@partial(jax.jit, static_argnames="task")
def _prefix_sums(
    task: Parity, keys: Any, w: Array, bias: Array, target: Target | None
) -> Array:
    """Sums over the first `FIRST`, 2 `FIRST`, ... rows of a block, `(S, G, m, d)`."""

    def one(args: Any) -> Array:
        key, w, bias, target = args
        batch = task.sample(key, 0, BLOCK, split="distill")
        rows = (batch.x, _targets(task, batch, target))
        parts = jax.tree.map(lambda v: v.reshape(-1, FIRST, *v.shape[1:]), rows)
        each = jax.vmap(lambda x, t: _sums(x, t, w, bias))(*parts)
        return jnp.cumsum(each, 0)

    return jax.lax.map(one, (keys, w, bias, target))


@partial(jax.jit, static_argnames="task")
def _block_sums(
    task: Parity, start: Any, blocks: Array,
    keys: Any, w: Array, bias: Array, target: Target | None,
) -> Array:  # fmt: skip
    """Sums over `blocks[s]` blocks of seed s from block `start` on, `(S, m, d)`."""

    def one(args: Any) -> Array:
        key, count, w, bias, target = args

        def add(i: Any, total: Array) -> Array:
            batch = task.sample(key, (start + i) * BLOCK, BLOCK, split="distill")
            return total + _sums(batch.x, _targets(task, batch, target), w, bias)

        return jax.lax.fori_loop(0, count, add, jnp.zeros(w.shape, jnp.float32))

    return jax.lax.map(one, (keys, blocks, w, bias, target))


def sweep(
    students: Students,
    sizes: list[int],
    visit: Callable[[int, Float[np.ndarray, "S m d"]], np.ndarray],
) -> None:
    """Visits the batch gradients of all students at every size, in increasing order.

    Args:
      students: whose gradients.
      sizes: multiples of `FIRST` up to a block, of `BLOCK` beyond.
      visit: gets the size and the gradients; says which seeds go on. Sums of the
        others stand still from then on, and it ends when none goes on.
    """
    arrays = students.arrays
    alive = np.ones(len(students.w), bool)
    total, done = np.zeros(students.w.shape), 0
    small = [s for s in sizes if s < BLOCK]
    if small:
        prefix = np.asarray(_prefix_sums(students.task, *arrays), np.float64)
        total, done = prefix[:, -1], 1
        for size in small:
            alive = visit(size, prefix[:, size // FIRST - 1] / size)
    for size in sizes[len(small) :]:
        while done < size // BLOCK and alive.any():
            n = min(CALL, size // BLOCK - done)
            counts = jnp.asarray(np.where(alive, n, 0), jnp.int32)
            sums = _block_sums(students.task, jnp.uint32(done), counts, *arrays)
            total = total + np.asarray(sums, np.float64)
            done += n
        if not alive.any():
            return
        alive = visit(size, total / size)


def shares(gradient: Float[np.ndarray, "S m d"], k: int) -> Float[np.ndarray, " S"]:
    """Share of squared gradient that lies in the support, mean over neurons."""
    square = gradient**2
    return (square[..., :k].sum(-1) / square.sum(-1)).mean(-1)


def separated(gradient: Float[np.ndarray, "S m d"], k: int) -> np.ndarray:
    """Whether the k largest coordinates of the mean |gradient| are the support."""
    size = np.abs(gradient).mean(1)
    return size[:, :k].min(1) > size[:, k:].max(1)


@partial(jax.jit, static_argnames=("task",))
def _second_stage(task: Parity, key: Any, gradient: Array, bias: Array) -> Array:
    rows = gradient / jnp.linalg.norm(gradient, axis=1).mean() / task.k**0.5

    def features(split: str) -> tuple[Array, Array]:
        batch = task.sample(key, 0, BLOCK, split=split)
        u, b = batch.x @ rows.T, bias[None, :]
        both = jnp.concatenate([jax.nn.relu(u + b), jax.nn.relu(b - u)], 1)
        return both, 1 - 2 * batch.y.astype(jnp.float32)

    f, y = features("train")
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def loss(a: Array) -> Array:
        return jnp.maximum(0, 1 - y * (f @ a)).mean()

    def step(carry: Any, _: None) -> tuple[Any, None]:
        a, state = carry
        change, state = optimizer.update(jax.grad(loss)(a), state)
        return (a + change, state), None

    a = jnp.zeros(f.shape[1])
    (a, _), _ = jax.lax.scan(step, (a, optimizer.init(a)), length=STEPS)
    f, y = features("eval")
    return (y * (f @ a) > 0).mean()


def second_stage(
    students: Students, seed: int, gradient: Float[np.ndarray, "m d"]
) -> float:
    """Accuracy of a student after both stages, on `BLOCK` fresh rows.

    Its first-layer rows become +-gradient (decay removes the old ones), scaled so that
    their mean length is 1 / sqrt(k): with the gradient in the support, preactivations
    then fill the range of the biases.

    Args:
      students: all of them.
      seed: which one.
      gradient: its batch gradient.
    """
    args = (jnp.asarray(v, jnp.float32) for v in (gradient, students.bias[seed]))
    return float(_second_stage(students.task, students.keys[seed], *args))


@partial(jax.jit, static_argnames="task")
def _squares(task: Parity, blocks: Any, keys: Any, target: Target) -> Array:
    def one(args: Any) -> Array:
        key, target = args

        def add(i: Any, total: Array) -> Array:
            batch = task.sample(key, i * BLOCK, BLOCK, split="probe")
            return total + (_targets(task, batch, target) ** 2).mean()

        return jax.lax.fori_loop(0, blocks, add, jnp.zeros(())) / blocks

    return jax.lax.map(one, (keys, target))


def second_moments(students: Students, blocks: int) -> Float[np.ndarray, " S"]:
    """E[f_1^2] of every teacher, from so many blocks of the probe stream."""
    target = students.target
    assert target is not None
    return np.asarray(_squares(students.task, blocks, students.keys, target), float)
