"""What the study of the analysed setting measures on one problem."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from experiments import parity_two_stage as two_stage
from experiments.parity_two_stage import BLOCK, Students, make_students, sweep
from sandbox.tasks.parity import Parity
from sandbox.theory import parity_bounds as bounds
from sandbox.theory.parity_checkpoint import taught_gradient, taught_noise

if TYPE_CHECKING:
    from experiments.parity_theory import Config

CRITERIA = ("support", "aligned", "accuracy")
LEVEL, SHARE = 0.9, 0.5
"""Accuracy and share to reach."""
TRY = 0.25
"""Share from which accuracy is looked at."""
SQUARES = 8
"""Blocks of 4096 rows behind the second moment of f_1."""
CONTROL = 6
"""Batch of the control, in units of what the next even k needs."""


@dataclass(frozen=True)
class Check:
    """Measured population gradients beside the closed form.

    Attributes:
      deviation: mean squared error in units of its variance, one a seed; 1 on average
        where the closed form is right.
      measured: mean over neurons of every coordinate's gradient; that of labels times
        chi_S(w) w_i, which leaves t_{k-1} and t_{k+1}.
      exact: the same from the closed form.
    """

    deviation: Float[np.ndarray, " S"]
    measured: Float[np.ndarray, "S d"]
    exact: Float[np.ndarray, "S d"]


@dataclass(frozen=True)
class Needed:
    """What the students of one problem needed.

    Attributes:
      k: size of the support.
      d: dimension.
      supervision: labels or checkpoint.
      cap: the largest batch.
      batch: criterion -> smallest batch of every seed, inf beyond the cap, NaN where it
        cannot be (a teacher whose exact coefficients do not separate the support).
      sizes: the grid.
      share: share of every seed's squared update in the support, NaN once it was done.
      predicted_share: the closed form's, median over seeds.
      predicted: criterion -> the closed form's batch, median over seeds; that of
        `support` is a scale of one neuron.
      separable: share of the teachers whose exact coefficients separate the support.
      ceiling: accuracy after both stages from the population gradient, one a seed.
      check: measured gradients.
    """

    k: int
    d: int
    supervision: str
    cap: int
    batch: dict[str, Float[np.ndarray, " S"]]
    sizes: list[int]
    share: Float[np.ndarray, "S G"]
    predicted_share: Float[np.ndarray, " G"]
    predicted: dict[str, float]
    separable: float
    ceiling: Float[np.ndarray, " S"]
    check: Check


@dataclass(frozen=True)
class Control:
    """Students of labels with an odd k.

    Attributes:
      d: dimension.
      batch: size of their batch.
      share: share of every seed's squared update in the support.
      found: whether each one's largest coordinates were the support.
      predicted: aligned batch of the closed form, inf where there is no gradient.
    """

    d: int
    batch: int
    share: Float[np.ndarray, " S"]
    found: np.ndarray
    predicted: float


def measure(config: "Config", k: int, d: int, supervision: str) -> Needed:
    """Everything about one problem and supervision."""
    labels = supervision == "labels"
    students = make_students(
        Parity(d=d, k=k),
        range(config.label_seeds if labels else config.checkpoint_seeds),
        pairs=config.student_pairs,
        teacher_pairs=0 if labels else config.teacher_pairs,
    )
    exact, noise = population(students)
    one = list(zip(exact[:, 0], noise[:, 0], strict=True))
    aligned = [bounds.aligned_batch(g, v, range(k)) for g, v in one]
    scale = [bounds.separated_batch(g, v, range(k)) for g, v in one]
    predicted = {"aligned": _median(aligned), "support": _median(scale)}
    most = config.label_cap * predicted["aligned"] if labels else config.checkpoint_cap
    sizes = two_stage.batch_sizes(most)
    criteria = CRITERIA if k in config.accuracy_k else CRITERIA[:2]
    can = np.asarray([t.separates for t in students.teachers] or [True] * len(one))
    batch, share = needed_batches(students, sizes, criteria, can)
    curves = [[bounds.expected_share(*gv, range(k), b) for b in sizes] for gv in one]
    ceiling = [two_stage.second_stage(students, s, g) for s, g in enumerate(exact)]
    return Needed(
        k=k,
        d=d,
        supervision=supervision,
        cap=sizes[-1],
        batch=batch,
        sizes=sizes,
        share=share,
        predicted_share=np.median(curves, axis=0),
        predicted=predicted,
        separable=float(can.mean()),
        ceiling=np.asarray(ceiling),
        check=check_gradients(students, exact, noise, config.check_blocks),
    )


def _median(values: list[float]) -> float:
    """The median, infinite where half of the values are."""
    s = sorted(values)
    return (s[(len(s) - 1) // 2] + s[len(s) // 2]) / 2


def population(
    students: Students,
) -> tuple[Float[np.ndarray, "S m d"], Float[np.ndarray, "S m d"]]:
    """Exact gradients and the variance of one sample's, of every neuron.

    The second moment of f_1, which enters the variance alone, is the one number here
    that is estimated, from `SQUARES` blocks.
    """
    shape, support = students.w.shape, range(students.task.k)
    if not students.teachers:
        exact = [
            bounds.label_gradient(w, support, b)
            for w, b in zip(students.w, students.bias, strict=True)
        ]
        noise = [
            bounds.label_noise(g, b) for g, b in zip(exact, students.bias, strict=True)
        ]
        return np.stack(exact), np.stack(noise)
    squares = two_stage.second_moments(students, SQUARES)
    degree1 = [t.degree1 for t in students.teachers]
    exact = np.stack([taught_gradient(c) for c in degree1])
    noise = np.stack(
        [taught_noise(c, float(s)) for c, s in zip(degree1, squares, strict=True)]
    )
    return (
        np.broadcast_to(exact[:, None], shape),
        np.broadcast_to(noise[:, None], shape),
    )


def needed_batches(
    students: Students, sizes: list[int], criteria: tuple[str, ...], can: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
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
    since = {c: np.full(n, -1) for c in criteria}
    last = np.full(n, -1)
    share = np.full((n, len(sizes)), np.nan)
    alive = np.ones(n, bool)

    def visit(size: int, gradient: np.ndarray) -> np.ndarray:
        at = sizes.index(size)
        share[alive, at] = two_stage.shares(gradient[alive], k)
        now = {
            "support": two_stage.separated(gradient, k) | ~can,
            "aligned": share[:, at] >= SHARE,
        }
        if "accuracy" in criteria:
            now["accuracy"] = np.zeros(n, bool)
            for s in np.flatnonzero(share[:, at] >= TRY):
                reached = two_stage.second_stage(students, int(s), gradient[s])
                now["accuracy"][s] = reached >= LEVEL
        for c in criteria:
            run = np.where(since[c] < 0, at, since[c])
            since[c] = np.where(alive, np.where(now[c], run, -1), since[c])
        last[alive] = at
        alive[:] = alive & ~_settled(list(since.values()), last).all(0)
        return alive.copy()

    sweep(students, sizes, visit)
    grid = np.asarray(sizes, float)
    settled = _settled(list(since.values()), last)
    batch = {
        c: np.where(held, grid[since[c]], np.inf)
        for c, held in zip(criteria, settled, strict=True)
    }
    batch["support"][~can] = np.nan
    return batch, share


def _settled(since: list[np.ndarray], last: np.ndarray) -> np.ndarray:
    """Whether each criterion held at the last two sizes or more, `(criteria, S)`."""
    return np.asarray([(v >= 0) & (last > v) for v in since])


def check_gradients(
    students: Students, exact: np.ndarray, noise: np.ndarray, blocks: int
) -> Check:
    """Measures the population gradients from `blocks` blocks of other streams."""
    size = blocks * BLOCK
    seen: list[np.ndarray] = []

    def visit(_: int, gradient: np.ndarray) -> np.ndarray:
        seen.append(gradient)
        return np.zeros(len(gradient), bool)

    sweep(students.afresh(), [size], visit)
    (measured,) = seen
    deviation = ((measured - exact) ** 2 / (noise / size)).mean((1, 2))
    sign = np.ones_like(exact)
    if not students.teachers:
        in_support = students.w[:, :, : students.task.k]
        sign = in_support.prod(2, keepdims=True) * students.w
    return Check(deviation, (measured * sign).mean(1), (exact * sign).mean(1))


def measure_controls(config: "Config") -> tuple[Control, Control]:
    """An odd k at an odd d, where labels have no gradient, and at the even d beside.

    Both get `CONTROL` times the batch that aligns the next even k at the odd d.
    """
    k, d = config.control_k, config.control_d
    most = CONTROL * bounds.label_batch(d, k + 1)
    size = two_stage.batch_sizes(most)[-1]
    out: list[Control] = []
    for dim in (d, d + 1):
        students = make_students(
            Parity(d=dim, k=k),
            range(config.label_seeds),
            pairs=config.student_pairs,
            teacher_pairs=0,
        )

        def visit(_: int, g: np.ndarray, dim: int = dim) -> np.ndarray:
            share, found = two_stage.shares(g, k), two_stage.separated(g, k)
            out.append(Control(dim, size, share, found, bounds.label_batch(dim, k)))
            return np.zeros(len(g), bool)

        sweep(students, [size], visit)
    odd, even = out
    return odd, even
