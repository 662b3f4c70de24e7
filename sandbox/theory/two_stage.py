r"""Two-stage training of mirrored networks on sparse parity, batch by batch.

The analysed setting (`sandbox.theory.parity_bounds`): n pairs of neurons with the same
w in {-1,+1}^d and b uniform in (-1, 1) and opposite second-layer weights, so that f = 0
and the hinge loss has slope -target everywhere. Stage one is one step of the first
layer on a batch of B; it needs only the batch mean of target x_i 1[w_j . x + b_j > 0].
The target is the label, or f_1 of a teacher after its own first step. Stage two trains
the second layer alone, with the hinge loss, on labels (a converged teacher's).

Batches are nested: the batch of size B is the first B rows of the seed's stream, so
that one pass gives every size of the grid. `TwoStage` says which batches its students
need:

    compute(what, what.pieces(), root=root)    # sandbox.train.resumable
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float

from sandbox.errors import require
from sandbox.store.bounds import AtLeast, Increasing, check_fields
from sandbox.tasks.parity import Parity
from sandbox.theory import parity_bounds as bounds
from sandbox.theory.parity_checkpoint import (
    Checkpoint,
    first_step,
    taught_gradient,
    taught_noise,
)
from sandbox.types import Array

SUPERVISIONS = ("labels", "checkpoint")
CRITERIA = ("support", "aligned", "accuracy")
Dimensions = Annotated[tuple[int, ...], Increasing(0)]
_dot = partial(jnp.dot, precision="highest")
BLOCK = 4096
"""Rows at a time; larger batches are multiples of it."""
FIRST = 16
"""The smallest batch."""
CALL = 2048
"""Blocks in one call: sums of labels stay exact in float32."""
STEPS, RATE = 200, 0.2
"""Of stage two: Adam with cosine decay, full batches of `BLOCK` rows."""
LEVEL, SHARE = 0.9, 0.5
"""Accuracy and share to reach."""
TRY = 0.25
"""Share from which accuracy is looked at."""
SQUARES = 8
"""Blocks behind the second moment of f_1."""
CONTROL = 6
"""Batch of the control, in units of what the next even k needs."""

Target = tuple[Any, Any]
"""f_1 of one teacher a seed: rows `(S, n, d)` and biases `(S, n)`."""


class Problem(NamedTuple):
    """A size of the support, a dimension, and what teaches: labels or a checkpoint."""

    k: int
    d: int
    supervision: str

    def __str__(self) -> str:
        """As its piece is called."""
        return f"k={self.k}, d={self.d}, {self.supervision}"


@dataclass(frozen=True, kw_only=True)
class TwoStage:
    """Students of labels and of checkpoints, and the batches that they need.

    Attributes:
      d_k2: dimensions of k = 2, odd and increasing; likewise `d_k4` and `d_k6`.
      d_k4: of k = 4.
      d_k6: of k = 6; may be empty.
      checkpoint_d: further dimensions of every k, for students of checkpoints alone.
      accuracy_k: k whose students go through the second stage at every batch.
      label_seeds: students of labels at every (d, k).
      checkpoint_seeds: students of checkpoints, each with a teacher of its own.
      teacher_pairs: mirrored pairs of a teacher.
      student_pairs: mirrored pairs of a student.
      label_cap: largest batch of labels, in units of the closed form's `aligned_batch`.
      checkpoint_cap: largest batch from a checkpoint.
      check_blocks: blocks of 4096 rows behind each measured population gradient.
      control_k: an odd k, the negative control.
      control_d: its dimension, odd; the control beside it has one more.
    """

    d_k2: Dimensions = (17, 33, 65)
    d_k4: Dimensions = (17, 25)
    d_k6: Dimensions = ()
    checkpoint_d: Dimensions = ()
    accuracy_k: tuple[int, ...] = (2,)
    label_seeds: Annotated[int, AtLeast(2)] = 10
    checkpoint_seeds: Annotated[int, AtLeast(2)] = 20
    teacher_pairs: Annotated[int, AtLeast(1)] = 64
    student_pairs: Annotated[int, AtLeast(1)] = 32
    label_cap: Annotated[float, AtLeast(1)] = 16.0
    checkpoint_cap: Annotated[int, AtLeast(64)] = 8192
    check_blocks: Annotated[int, AtLeast(1)] = 8
    control_k: int = 3
    control_d: int = 17

    def __post_init__(self) -> None:
        """Refuses what the closed forms do not cover."""
        check_fields(self, "")
        every = [(f"d_k{k}", k, dims) for k, dims in self.cases.items()]
        every += [("checkpoint_d", max(self.cases, default=1), self.checkpoint_d)]
        for name, k, dims in every:
            require(
                all(d % 2 == 1 and d > 2 * k for d in dims),
                f"{name} must hold odd dimensions above 2 k = {2 * k}, got {dims}: at"
                " an even d ties show a student more than degree 1.",
            )
        require(
            all(k in self.cases for k in self.accuracy_k),
            f"accuracy_k must name k that have dimensions, got {self.accuracy_k}.",
        )
        k, d = self.control_k, self.control_d
        require(
            k >= 3 and k % 2 == 1 and d % 2 == 1 and d > 2 * k + 2,
            "control_k and control_d must be odd, 3 <= control_k < control_d / 2 - 1,"
            f" got {k} and {d}.",
        )

    @property
    def cases(self) -> dict[int, tuple[int, ...]]:
        """Dimensions of every k that has some."""
        every = {2: self.d_k2, 4: self.d_k4, 6: self.d_k6}
        return {k: dims for k, dims in every.items() if dims}

    def dimensions(self, k: int, supervision: str) -> tuple[int, ...]:
        """The dimensions of one k and supervision, increasing."""
        more = self.checkpoint_d if supervision == "checkpoint" else ()
        return tuple(sorted({*self.cases[k], *more}))

    def criteria(self, k: int) -> tuple[str, ...]:
        """What the students of one k have to reach."""
        return CRITERIA if k in self.accuracy_k else CRITERIA[:2]

    @property
    def problems(self) -> list[Problem]:
        """Every problem with both supervisions."""
        return [
            Problem(k, d, supervision)
            for k in self.cases
            for supervision in SUPERVISIONS
            for d in self.dimensions(k, supervision)
        ]

    def pieces(self) -> dict[str, Callable[[], dict[str, np.ndarray]]]:
        """What is computed: every problem by name, then the controls `odd` and `even`.

        The odd control is an odd k at an odd d, where labels have no gradient; the even
        one is at the even d beside it.
        """
        return {
            **{str(p): partial(self.measure, p) for p in self.problems},
            "odd": partial(self.control, self.control_d),
            "even": partial(self.control, self.control_d + 1),
        }

    def students(self, k: int, d: int, supervision: str) -> "Students":
        """The students of one problem."""
        seeds, pairs = self.label_seeds, 0
        if supervision == "checkpoint":
            seeds, pairs = self.checkpoint_seeds, self.teacher_pairs
        task, own = Parity(d=d, k=k), self.student_pairs
        return make_students(task, range(seeds), pairs=own, teacher_pairs=pairs)

    def measure(self, p: Problem) -> dict[str, np.ndarray]:
        """What the S students of one problem needed.

        Returns:
          support, aligned, accuracy: smallest batch of every seed by this criterion,
            inf beyond the cap, NaN where it cannot be (a teacher whose exact
            coefficients do not separate the support).
          sizes: the grid of batches; its last one is the cap.
          share: `(S, sizes)`, of the squared update in the support, NaN once done.
          predicted_share: the closed form's, median over seeds.
          predicted_aligned, predicted_support: the closed form's batches, median over
            seeds; the latter is a scale of one neuron.
          can: seeds whose teacher's exact coefficients separate the support.
          ceiling: accuracy after both stages from the population gradient.
          deviation, measured, exact: of `check_gradients`.
        """
        students, support = self.students(*p), range(p.k)
        exact, noise = population(students)
        one = list(zip(exact[:, 0], noise[:, 0], strict=True))
        aligned = np.median([bounds.aligned_batch(*gv, support) for gv in one])
        scale = np.median([bounds.separated_batch(*gv, support) for gv in one])
        taught = p.supervision == "checkpoint"
        sizes = batch_sizes(self.checkpoint_cap if taught else self.label_cap * aligned)
        can = np.asarray([t.separates for t in students.teachers] or [True] * len(one))
        batch, share = needed_batches(students, sizes, self.criteria(p.k), can)
        curves = [[bounds.expected_share(*gv, support, b) for b in sizes] for gv in one]
        ceiling = [second_stage(students, s, g) for s, g in enumerate(exact)]
        return {
            **batch,
            "sizes": np.asarray(sizes),
            "share": share,
            "predicted_share": np.median(curves, axis=0),
            "predicted_aligned": np.asarray(aligned),
            "predicted_support": np.asarray(scale),
            "can": can,
            "ceiling": np.asarray(ceiling),
            **check_gradients(students, exact, noise, self.check_blocks),
        }

    def control(self, d: int) -> dict[str, np.ndarray]:
        """Students of labels with `control_k`, at one batch.

        That is `CONTROL` times the batch that aligns the next even k at the odd d.

        Returns:
          batch: its size.
          share: of every seed's squared update in the support.
          found: whether each one's largest coordinates were the support.
          predicted: aligned batch of the closed form, inf where there is no gradient.
        """
        k = self.control_k
        size = batch_sizes(CONTROL * bounds.label_batch(self.control_d, k + 1))[-1]
        gradient = batch_gradient(self.students(k, d, "labels"), size)
        return {
            "batch": np.asarray(size),
            "share": shares(gradient, k),
            "found": separated(gradient, k),
            "predicted": np.asarray(bounds.label_batch(d, k)),
        }


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
    def arrays(self) -> tuple[Any, Array, Array, Target | None]:
        """What the compiled sums take; no target where labels teach."""
        rows, biases = [t.rows for t in self.teachers], [t.bias for t in self.teachers]
        target = (_float32(rows), _float32(biases)) if rows else None
        return self.keys, _float32(self.w), _float32(self.bias), target

    def afresh(self) -> "Students":
        """The same students on streams of their own, for checks."""
        keys = jax.vmap(lambda k: jax.random.fold_in(k, 1))(self.keys)
        return replace(self, keys=keys)


def _float32(values: Any) -> Array:
    return jnp.asarray(np.asarray(values), jnp.float32)


def make_students(
    task: Parity, seeds: range, *, pairs: int, teacher_pairs: int
) -> Students:
    """Students of every seed; with teacher pairs, each has a teacher of its own.

    The same seeds give the same students and streams whoever teaches them.
    """

    def draw(pairs: int) -> tuple[np.ndarray, np.ndarray]:
        w = rng.choice([-1.0, 1.0], (pairs, task.d))
        return w, rng.uniform(-1, 1, pairs).astype(np.float32).astype(float)

    own, teachers, keys = [], [], []
    for seed in seeds:
        rng = np.random.default_rng((seed, task.d, task.k))
        own.append(draw(pairs))
        if teacher_pairs:
            teachers.append(first_step(*draw(teacher_pairs), range(task.k)))
        key = jax.random.fold_in(jax.random.key(seed), task.d)
        keys.append(jax.random.fold_in(key, task.k))
    w, bias = (np.stack(v) for v in zip(*own, strict=True))
    return Students(task, jnp.stack(keys), w, bias, tuple(teachers))


def batch_sizes(cap: int | float) -> list[int]:
    """About powers of sqrt(2) up to `cap`: multiples of `FIRST`, then of `BLOCK`."""
    steps = [round(2 ** (g / 2)) for g in range(64)]
    small = {FIRST * s for s in steps if FIRST * s < BLOCK}
    return sorted(s for s in small | {BLOCK * s for s in steps} if s <= cap)


def _targets(batch: Any, target: Target | None) -> Array:
    """What the student's output is pushed towards, row by row."""
    if target is None:
        return 1 - 2 * batch.y.astype(jnp.float32)
    rows, bias = target
    u, b = _dot(batch.x, rows.T), bias[None, :]
    return (jax.nn.relu(u + b) - jax.nn.relu(b - u)).mean(1)


def _sums(x: Array, target: Array, w: Array, bias: Array) -> Array:
    """Sum over rows of target x_i 1[w_j . x + b_j > 0], `(m, d)`."""
    active = (_dot(x, w.T) + bias[None, :] > 0).astype(x.dtype)
    return _dot((active * target[:, None]).T, x)


@partial(jax.jit, static_argnames="task")
def _prefix_sums(
    task: Parity, keys: Any, w: Array, bias: Array, target: Target | None
) -> Array:
    """Sums over the first `FIRST`, 2 `FIRST`, ... rows of a block, `(S, G, m, d)`."""

    def one(args: Any) -> Array:
        key, w, bias, target = args
        batch = task.sample(key, 0, BLOCK, split="distill")
        rows = (batch.x, _targets(batch, target))
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
            return total + _sums(batch.x, _targets(batch, target), w, bias)

        return jax.lax.fori_loop(0, count, add, jnp.zeros(w.shape, jnp.float32))

    return jax.lax.map(one, (keys, blocks, w, bias, target))


def sweep(
    students: Students, sizes: Sequence[int], alive: Bool[np.ndarray, " S"]
) -> Iterator[tuple[int, Float[np.ndarray, "S m d"]]]:
    """Every size, in increasing order, with the batch gradients of all students.

    Args:
      students: whose gradients.
      sizes: multiples of `FIRST` up to a block, of `BLOCK` beyond.
      alive: seeds that go on, which the caller may change between sizes. Sums of the
        others stand still from then on, and it ends when none goes on.
    """
    arrays = students.arrays
    total, done = np.zeros(students.w.shape), 0
    small = [s for s in sizes if s < BLOCK]
    if small:
        prefix = np.asarray(_prefix_sums(students.task, *arrays), np.float64)
        total, done = prefix[:, -1], 1
        for size in small:
            yield size, prefix[:, size // FIRST - 1] / size
    for size in sizes[len(small) :]:
        while done < size // BLOCK and alive.any():
            n = min(CALL, size // BLOCK - done)
            counts = jnp.asarray(np.where(alive, n, 0), jnp.int32)
            sums = _block_sums(students.task, jnp.uint32(done), counts, *arrays)
            total = total + np.asarray(sums, np.float64)
            done += n
        if not alive.any():
            return
        yield size, total / size


def batch_gradient(students: Students, size: int) -> Float[np.ndarray, "S m d"]:
    """The batch gradients of all students at one size."""
    ((_, gradient),) = sweep(students, [size], np.ones(len(students.w), bool))
    return gradient


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
        u, b = _dot(batch.x, rows.T), bias[None, :]
        both = jnp.concatenate([jax.nn.relu(u + b), jax.nn.relu(b - u)], 1)
        return both, 1 - 2 * batch.y.astype(jnp.float32)

    f, y = features("train")
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def loss(a: Array) -> Array:
        return jnp.maximum(0, 1 - y * (_dot(f, a))).mean()

    def step(carry: Any, _: None) -> tuple[Any, None]:
        a, state = carry
        change, state = optimizer.update(jax.grad(loss)(a), state)
        return (a + change, state), None

    a = jnp.zeros(f.shape[1])
    (a, _), _ = jax.lax.scan(step, (a, optimizer.init(a)), length=STEPS)
    f, y = features("eval")
    return (y * (_dot(f, a)) > 0).mean()


def second_stage(
    students: Students, seed: int | np.integer, gradient: Float[np.ndarray, "m d"]
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
    args = _float32(gradient), _float32(students.bias[seed])
    return float(_second_stage(students.task, students.keys[seed], *args))


@partial(jax.jit, static_argnames="task")
def _squares(task: Parity, blocks: Any, keys: Any, target: Target) -> Array:
    """E[f_1^2] of every teacher, from so many blocks of the probe stream."""

    def one(args: Any) -> Array:
        key, target = args

        def add(i: Any, total: Array) -> Array:
            batch = task.sample(key, i * BLOCK, BLOCK, split="probe")
            return total + (_targets(batch, target) ** 2).mean()

        return jax.lax.fori_loop(0, blocks, add, jnp.zeros(())) / blocks

    return jax.lax.map(one, (keys, target))


def population(
    students: Students,
) -> tuple[Float[np.ndarray, "S m d"], Float[np.ndarray, "S m d"]]:
    """Exact gradients and the variance of one sample's, of every neuron.

    The second moment of f_1, which enters the variance alone, is the one number here
    that is estimated, from `SQUARES` blocks.
    """
    shape = students.w.shape
    if not students.teachers:
        w, bias = students.w.reshape(-1, shape[2]), students.bias.ravel()
        exact = bounds.label_gradient(w, range(students.task.k), bias)
        noise = bounds.label_noise(exact, bias)
        return exact.reshape(shape), noise.reshape(shape)
    keys, *_, target = students.arrays
    squares = np.asarray(_squares(students.task, SQUARES, keys, target), float)
    degree1 = [t.degree1 for t in students.teachers]
    exact = [taught_gradient(c) for c in degree1]
    noise = [taught_noise(c, float(s)) for c, s in zip(degree1, squares, strict=True)]
    exact, noise = (
        np.broadcast_to(np.stack(v)[:, None], shape) for v in (exact, noise)
    )
    return exact, noise


def needed_batches(
    students: Students,
    sizes: Sequence[int],
    criteria: Sequence[str],
    can: Bool[np.ndarray, " S"],
) -> tuple[dict[str, np.ndarray], Float[np.ndarray, "S G"]]:
    """Smallest batch of every seed by every criterion, and its share at every size.

    That is the first size from which the criterion held at every later one, of which
    there is at least one. A seed is done once all of its criteria held at two sizes in
    a row; so a small batch that is aligned by luck does not count. Accuracy is looked
    at where the share is at least `TRY`.

    Args:
      students: who learn.
      sizes: of the batches.
      criteria: of `CRITERIA`.
      can: seeds whose support can come out; the others get NaN there.
    """
    k, n = students.task.k, len(students.w)
    since, last = np.full((len(criteria), n), -1), np.full(n, -1)
    share, alive = np.full((n, len(sizes)), np.nan), np.ones(n, bool)
    for at, (_, gradient) in enumerate(sweep(students, sizes, alive)):
        share[alive, at] = shares(gradient[alive], k)
        now = {
            "support": separated(gradient, k) | ~can,
            "aligned": share[:, at] >= SHARE,
        }
        if "accuracy" in criteria:
            now["accuracy"] = np.zeros(n, bool)
            for s in np.flatnonzero(share[:, at] >= TRY):
                now["accuracy"][s] = second_stage(students, s, gradient[s]) >= LEVEL
        held = np.stack([now[c] for c in criteria])
        first = np.where(since < 0, at, since)
        since = np.where(alive, np.where(held, first, -1), since)
        last[alive] = at
        alive &= ~((since >= 0) & (last > since)).all(0)
    settled = (since >= 0) & (last > since)
    found = np.where(settled, np.asarray(sizes, float)[since], np.inf)
    batch = dict(zip(criteria, found, strict=True))
    batch["support"][~can] = np.nan
    return batch, share


def check_gradients(
    students: Students, exact: np.ndarray, noise: np.ndarray, blocks: int
) -> dict[str, np.ndarray]:
    """Measures the population gradients from `blocks` blocks of other streams.

    Returns:
      deviation: mean squared error in units of its variance, one a seed; 1 on average
        where the closed form is right.
      measured: `(S, d)`, mean over neurons of every coordinate's gradient; that of
        labels times chi_S(w) w_i, which leaves t_{k-1} and t_{k+1}.
      exact: the same from the closed form.
    """
    size, sign = blocks * BLOCK, np.ones_like(exact)
    measured = batch_gradient(students.afresh(), size)
    if not students.teachers:
        in_support = students.w[:, :, : students.task.k]
        sign = in_support.prod(2, keepdims=True) * students.w
    return {
        "deviation": ((measured - exact) ** 2 / (noise / size)).mean((1, 2)),
        "measured": (measured * sign).mean(1),
        "exact": (exact * sign).mean(1),
    }
