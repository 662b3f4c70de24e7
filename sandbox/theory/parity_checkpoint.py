r"""Closed forms of the analysed setting: the teacher after its first step.

The teacher (`sandbox.theory.parity_bounds`) takes one step along the population
gradient from labels, with weight decay that removes the old weights (step size times
decay is 1, as in Barak et al., arXiv 2207.08799) and biases left alone. The two
neurons of a mirrored pair then have opposite rows +-v_j, and

    f_1(x) = (1/n) sum_j relu(v_j . x + b_j) - relu(-v_j . x + b_j),
    v_ji = chi_S(w_j) w_ji t_{k-1} / (k T) in S,   t_{k+1} in place of t_{k-1} outside,

over n pairs with |a_j| = 1/n; T is the largest |t_{k-1}| among the neurons, so that in
S the rows are +-1/k. f_1 is an odd function of x: for an even k it knows nothing of the
label (its accuracy is exactly 1/2), but its degree-1 coefficients leak the support.

A student of the same kind with d odd and biases |b| < 1 sees, at any of its neurons,

    E[ f_1(x) x_i 1[v . x + b > 0] ] = E[f_1 x_i] / 2,

because the indicator is (1 + Maj)/2, f_1 x_i is even, and Maj is odd. Its first step
from the checkpoint is therefore free of k and of its own initial weights. This is the
mechanism behind the theorem of Panigrahi et al. (arXiv 2410.05464, section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sandbox.errors import ConfigError
from sandbox.theory.parity_bounds import aligned_batch, coefficient_pair

TEACHERS, PAIRS, ROWS = 8, 64, 2048
"""Of `checkpoint_batch`: teachers, mirrored pairs of each, inputs behind E[f_1^2]."""


@dataclass(frozen=True)
class Checkpoint:
    """A teacher after its first step.

    Attributes:
      rows: v, one row a mirrored pair.
      bias: b, one a pair.
      degree1: coefficients E[f_1 x_i], exact: a finite sum in float64.
      support: S.
    """

    rows: Float[np.ndarray, "n d"]
    bias: Float[np.ndarray, " n"]
    degree1: Float[np.ndarray, " d"]
    support: tuple[int, ...]

    def __call__(self, x: Float[np.ndarray, "B d"]) -> Float[np.ndarray, " B"]:
        """f_1 at rows of inputs."""
        return _odd_part(x @ self.rows.T, self.bias[None, :]).mean(1)

    @property
    def separates(self) -> bool:
        """Whether every coefficient in S is larger than every one outside."""
        size, s = np.abs(self.degree1), list(self.support)
        return bool(size[s].min() > np.delete(size, s).max(initial=0.0))


def _odd_part(u: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return np.maximum(u + bias, 0) - np.maximum(-u + bias, 0)


def first_step(
    w: Float[np.ndarray, "n d"],
    bias: Float[np.ndarray, " n"],
    support: Sequence[int],
) -> Checkpoint:
    """The teacher after one step along the population gradient from labels.

    Args:
      w: initial weights of every mirrored pair, -1 and +1.
      bias: of every pair.
      support: S.

    Raises:
      ConfigError: where the gradient vanishes in the support (an odd k with d odd and
        biases below 1), so that there is no step to take.
    """
    d, s = w.shape[1], list(support)
    k = len(s)
    pairs = np.asarray([coefficient_pair(d, k, float(b)) for b in bias])
    largest = np.abs(pairs[:, 0]).max()
    if largest == 0:
        raise ConfigError(
            f"k = {k} has no gradient at d = {d} with these biases; take an even k, an"
            " even d or a larger bias."
        )
    sign = w[:, s].prod(1)
    inside, outside = (sign[:, None] * pairs / (k * largest)).T
    rows = w * outside[:, None]
    rows[:, s] = w[:, s] * inside[:, None]
    # With z = w_j * x the preactivation of pair j is inside_j P + outside_j Q, where P
    # and Q are independent sums of k and of d - k signs z. So
    #     E[f_1 x_i] = (1/n) sum_j w_ji E[ h_j(P, Q) P / k ]         for i in S,
    #                  (1/n) sum_j w_ji E[ h_j(P, Q) Q / (d - k) ]   otherwise.
    (p, mass_p), (q, mass_q) = sign_sum(k), sign_sum(d - k)
    u = inside[:, None, None] * p[None, :, None] + outside[:, None, None] * q
    h = _odd_part(u, bias[:, None, None]) * mass_p[None, :, None] * mass_q[None, None]
    in_n = (h * p[None, :, None]).sum((1, 2)) / k
    out_n = (h * q[None, None, :]).sum((1, 2)) / max(1, d - k)
    degree1 = (w * out_n[:, None]).mean(0)
    degree1[s] = (w[:, s] * in_n[:, None]).mean(0)
    return Checkpoint(rows, bias, degree1, tuple(s))


def sign_sum(n: int) -> tuple[Float[np.ndarray, " v"], Float[np.ndarray, " v"]]:
    """Values n - 2 s of a sum of n independent signs and their probabilities."""
    mass = np.ones(1)
    for _ in range(n):
        mass = (np.append(mass, 0.0) + np.insert(mass, 0, 0.0)) / 2
    return n - 2.0 * np.arange(n + 1), mass


def taught_gradient(degree1: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    """Population gradient of a student's neuron that f_1 teaches (module docstring).

    Args:
      degree1: exact coefficients of f_1, d of them, d odd.
    """
    if len(degree1) % 2 == 0:
        raise ConfigError(f"the closed form needs an odd d, got {len(degree1)}.")
    return np.asarray(degree1) / 2


def taught_noise(
    degree1: Float[np.ndarray, " d"], second_moment: float
) -> Float[np.ndarray, " d"]:
    """Variance of one sample's f_1(x) x_i 1[v . x + b > 0].

    The square of the sample is f_1^2 on the neuron's half of the cube; f_1^2 is even,
    so that its mean there is E[f_1^2] / 2 (d odd, |b| < 1).

    Args:
      degree1: exact coefficients of f_1.
      second_moment: E[f_1^2].
    """
    return second_moment / 2 - taught_gradient(degree1) ** 2


def checkpoint_batch(d: int, k: int) -> float:
    """`aligned_batch` of a neuron that a checkpoint teaches, median over teachers.

    Their first weights and biases are random; E[f_1^2] is a mean over random inputs.
    """
    rng, found = np.random.default_rng(0), []
    x = rng.choice((-1.0, 1.0), (ROWS, d))
    for _ in range(TEACHERS):
        w = rng.choice((-1.0, 1.0), (PAIRS, d))
        f = first_step(w, rng.uniform(-1, 1, PAIRS), range(k))
        noise = taught_noise(f.degree1, float(np.mean(f(x) ** 2)))
        found.append(aligned_batch(taught_gradient(f.degree1), noise, f.support))
    return float(np.median(found))
