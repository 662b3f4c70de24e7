r"""Scores of a checkpoint as a teacher, before any student is trained.

mutual_information     I(A; B) of two labellings of the same rows, in nats
Supervision            adjusted complexity of its answers for a student's NTK
risk_terms             variance and bias of the distilled risk
diswot                 how alike two networks are at initialisation
Influence              how far its answers depend on each coordinate

All are functions of outputs; `states` turns those on a whole cube into labels.

Sources: Wang et al. (arXiv 2210.06458) for information, Harutyunyan et al. (2301.12245)
for complexity, Menon et al. (2005.10419) for the risk, Dong et al. (2303.15678) for
DisWOT; dependence outside of the causes after Kyono and van der Schaar (1911.12441).
"""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Int

from sandbox.models.base import Model
from sandbox.store.bounds import AtLeast, MoreThan, check_fields
from sandbox.tasks.base import VectorTask
from sandbox.types import Array, Params

_STUDENT = 10  # fold of the task key; other probes use 3 to 9


def states(p: Float[np.ndarray, "n C"], bins: int = 16) -> Int[np.ndarray, " n"]:
    """The top class and the bin of its probability as one number.

    Args:
      p: probabilities; of the top class, between 1/C and 1, `bins` of equal width.
      bins: how many.
    """
    c, top = p.shape[1], p.max(1)
    place = np.clip((top - 1 / c) / (1 - 1 / c) * bins, 0, bins - 1).astype(int)
    return p.argmax(1) * bins + place


def mutual_information(
    a: Int[np.ndarray, " n"],
    b: Int[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"] | None = None,
) -> float:
    """I(A; B) = sum p(a, b) log [p(a, b) / p(a) p(b)] in nats.

    Args:
      a: a number for every row.
      b: another.
      weight: probability of every row up to a factor; all alike by default.
    """
    w = np.ones(len(a)) if weight is None else np.asarray(weight, float)
    (_, i), (_, j) = (np.unique(v, return_inverse=True) for v in (a, b))
    joint = np.zeros((i.max() + 1, j.max() + 1))
    np.add.at(joint, (i, j), w / w.sum())
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / outer[there])).sum())


def information_of_label(
    state: Int[np.ndarray, " n"], posterior: Float[np.ndarray, "n C"]
) -> float:
    """I(Y; F) where the label is drawn from a posterior at every row, all alike."""
    n, c = posterior.shape
    y = np.tile(np.arange(c), n)
    return mutual_information(np.repeat(state, c), y, posterior.ravel())


def ntk(
    model: Model, params: Params, x: Float[Array, "n d"], chunk: int = 64
) -> Float[Array, "nC nC"]:
    """J J^T with J the Jacobian of all logits, rows by input and then by class."""
    flat, unravel = ravel_pytree(params)

    def logits(theta: Array, row: Array) -> Array:
        return model.apply(unravel(theta), row[None]).logits[0]

    rows = jax.lax.map(lambda r: jax.jacrev(logits)(flat, r), x, batch_size=chunk)
    j = rows.reshape(-1, flat.size)
    return jnp.dot(j, j.T, precision="highest")


def complexity(
    y: Float[Array, " n"], kernel: Float[Array, "n n"], jitter: float = 1e-9
) -> Float[Array, ""]:
    """Adjusted supervision complexity (1/n) sqrt(y^T K^-1 y tr K).

    Args:
      y: targets.
      kernel: K; `jitter` times its mean diagonal is added.
      jitter: share of that.
    """
    n = len(y)
    ridge = jitter * jnp.trace(kernel) / n * jnp.eye(n, dtype=kernel.dtype)
    factor = jax.scipy.linalg.cho_factor(kernel + ridge)
    return jnp.sqrt(y @ jax.scipy.linalg.cho_solve(factor, y) * jnp.trace(kernel)) / n


@dataclass(frozen=True)
class Supervision:
    """Complexity of a teacher's answers for a fresh student.

    Attributes:
      task: whose inputs.
      model: the teacher.
      student: whose kernel at initialisation.
      taus: temperatures of the answers.
      points: inputs.
      jitter: see `complexity`; in float32 1e-6 is the least that holds.
    """

    task: VectorTask
    model: Model
    _: KW_ONLY
    student: Model
    taus: tuple[Annotated[float, MoreThan(0)], ...] = (1.0, 4.0)
    points: Annotated[int, AtLeast(2)] = 256
    jitter: Annotated[float, AtLeast(0)] = 1e-6

    def __post_init__(self) -> None:
        """Refuses temperatures and counts that mean nothing."""
        check_fields(self, "probe")

    def prepare(self, key: Any) -> tuple[Array, Array]:
        """Inputs, and the student's kernel there."""
        x = self.task.sample(key, jnp.uint32(0), self.points, split="probe").x
        params = self.student.init(jax.random.fold_in(key, _STUDENT))
        return x, ntk(self.student, params, x)

    def measure(self, params: Params, key: Any, prepared: Any) -> dict[str, Array]:
        """`complexity/{tau}` of p - 1/C."""
        x, kernel = prepared
        z = self.model.apply(params, x).logits
        out = {}
        for tau in self.taus:
            y = (jax.nn.softmax(z / tau, -1) - 1 / z.shape[-1]).reshape(-1)
            out[f"complexity/{tau:g}"] = complexity(y, kernel, self.jitter)
        return out


def risk_terms(
    p: Float[np.ndarray, "n C"],
    exact: Float[np.ndarray, "n C"],
    loss: Float[np.ndarray, "n C"],
) -> tuple[float, float]:
    r"""Variance of one row's distilled risk, and the distance from the posterior.

    With l_c(x) the loss of a fixed student if the label were c, the risk of N rows
    that a teacher p labels, (1/N) sum p(x_n).l(x_n), has

        E (risk - true risk)^2 <= Var[p.l] / N + (C E |p - p*|)^2

    Args:
      p: the teacher on equally likely rows.
      exact: the posterior p*.
      loss: l.

    Returns:
      Var[p.l] and E |p - p*|_2.
    """
    each = (p * loss).sum(1)
    return float(each.var()), float(np.sqrt(((p - exact) ** 2).sum(1)).mean())


def diswot(a: Float[np.ndarray, "n m"], b: Float[np.ndarray, "n k"]) -> float:
    """-|G_a - G_b|^2 / n^2 of the Gram matrices G of features, rows of length 1."""

    def gram(h: np.ndarray) -> np.ndarray:
        g = h @ h.T
        return g / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-12)

    return -float(((gram(a) - gram(b)) ** 2).sum() / len(a) ** 2)


@dataclass(frozen=True)
class Influence:
    """E |p(x) - p(x with bit i turned)|_1 / 2 of every coordinate.

    Attributes:
      task: on bits; of a biased cube the inputs are.
      model: the network.
      points: inputs.
    """

    task: VectorTask
    model: Model
    _: KW_ONLY
    points: Annotated[int, AtLeast(1)] = 4096

    def __post_init__(self) -> None:
        """Refuses no inputs."""
        check_fields(self, "probe")

    def measure(self, params: Params, key: Any) -> dict[str, Array]:
        """`influence`, `(d,)`."""
        x = self.task.sample(key, jnp.uint32(0), self.points, split="probe").x

        def answers(rows: Array) -> Array:
            return jax.nn.softmax(self.model.apply(params, rows).logits, -1)

        p = answers(x)

        def one(i: Array) -> Array:
            turned = answers(x.at[:, i].multiply(-1))
            return jnp.abs(p - turned).sum(-1).mean() / 2

        return {"influence": jax.lax.map(one, jnp.arange(self.task.d))}
