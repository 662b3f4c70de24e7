r"""Closed forms of the analysed setting: one step on sparse parity, from labels.

    y = chi_S(x) = prod_{i in S} x_i,  |S| = k,  x uniform on {-1,+1}^d
    f(x) = sum_j a_j relu(w_j . x + b_j),  w_j in {-1,+1}^d

Neurons come in mirrored pairs (the same w and b, opposite a), so f = 0 before the
first step, where the hinge loss max(0, 1 - y f) has derivative -y at every input. The
first step then follows

    G_i(w, b) = E[ y x_i 1[w . x + b > 0] ],

the correlation of the label with one coordinate on the neuron's half of the cube
(relu'(0) = 0, as jax has it). Coordinates flip independently, so G depends on w through
signs only, and on S through the degree of the monomial chi_S x_i:

    G_i(w, b) = chi_S(w) w_i t_{k-1}   for i in S,
                chi_S(w) w_i t_{k+1}   otherwise,

where t_r = E[ 1[sum_l x_l + b > 0] x_1 ... x_r ] is a Fourier coefficient of a
threshold function. With d odd and |b| < 1 the sum, an odd number, decides alone: the
threshold function is (1 + Maj)/2, and t_r vanishes for even r > 0, so that the first
step sees nothing of an odd k. With d even and b = 0 the tie at 0 counts as below, and
even degrees keep half of the tie's coefficient.

The setting is that of Barak et al. (arXiv 2207.08799), who name the gap between
t_{k-1} and t_{k+1}, and of the theorem of Panigrahi et al. (arXiv 2410.05464, section
3). Their bounds hold up to constants; here are the numbers themselves. What follows
the first step is in `sandbox.theory.parity_checkpoint`.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, comb

import numpy as np
from jaxtyping import Float

from sandbox.errors import require


def threshold_coefficient(d: int, r: int, bias: float = 0.0) -> float:
    """t_r = E[ 1[sum_l x_l + bias > 0] x_1 ... x_r ], exact before its last rounding.

    The sum exceeds -bias where at most c coordinates are -1. The partial sums of
    Krawtchouk polynomials have the generating function (1 - z)^{r-1} (1 + z)^{d-r}
    (MacWilliams and Sloane, The Theory of Error-Correcting Codes, chapter 5), so

        t_r = 2^-d K_c(r - 1; d - 1)
            = 2^-d sum_j (-1)^j C(r - 1, j) C(d - r, c - j)    for r >= 1.

    Half of the coefficient of the majority (O'Donnell, Analysis of Boolean Functions,
    theorem 5.19) for d odd, |bias| < 1.

    Args:
      d: dimension.
      r: degree, 0 .. d.
      bias: of the neuron, in units of one coordinate.
    """
    require(d >= 1, f"d must be at least 1, got {d}.")
    require(0 <= r <= d, f"r must lie in 0..d = 0..{d}, got {r}.")
    return _partial_sum(ceil((d + bias) / 2) - 1, r, d)


@lru_cache(maxsize=4096)
def _partial_sum(c: int, r: int, d: int) -> float:
    if r == 0:
        return sum(comb(d, s) for s in range(min(c, d) + 1)) / 2**d
    terms = (
        (-1) ** j * comb(r - 1, j) * comb(d - r, c - j) for j in range(min(r, c + 1))
    )
    return sum(terms) / 2**d


def coefficient_pair(d: int, k: int, bias: float = 0.0) -> tuple[float, float]:
    """(t_{k-1}, t_{k+1}): what the label's gradient is made of in S and outside.

    The second is 0 where there is no outside.
    """
    require(1 <= k <= d, f"k must lie in 1..d = 1..{d}, got {k}.")
    inside = threshold_coefficient(d, k - 1, bias)
    return inside, threshold_coefficient(d, k + 1, bias) if k < d else 0.0


def label_gradient(
    w: Float[np.ndarray, "m d"],
    support: Sequence[int],
    bias: Float[np.ndarray, " m"],
) -> Float[np.ndarray, "m d"]:
    """Population gradient G of every neuron (module docstring).

    The gradient of E[y f] with respect to w_j is a_j times its row.

    Args:
      w: entries -1 and +1.
      support: S.
      bias: of every neuron.
    """
    d, s = w.shape[1], list(support)
    pairs = np.asarray([coefficient_pair(d, len(s), float(b)) for b in bias])
    size = np.repeat(pairs[:, 1:], d, axis=1)
    size[:, s] = pairs[:, :1]
    return w[:, s].prod(1, keepdims=True) * w * size


def label_noise(
    gradient: Float[np.ndarray, "m d"], bias: Float[np.ndarray, " m"]
) -> Float[np.ndarray, "m d"]:
    """Variance of one sample's y x_i 1[w . x + b > 0]: t_0 - G_i^2.

    The square of the sample is the indicator, whose mean is t_0. A batch of B divides
    the variance by B.
    """
    active = [threshold_coefficient(gradient.shape[1], 0, float(b)) for b in bias]
    return np.asarray(active)[:, None] - gradient**2


def expected_share(
    gradient: Float[np.ndarray, " d"],
    noise: Float[np.ndarray, " d"],
    support: Sequence[int],
    batch: int | float,
) -> float:
    """Expected squared batch gradient in the support over that of all coordinates.

    E[g_i^2] = G_i^2 + v_i / B for a batch of B independent samples. A ratio of
    expectations, which is what the mean ratio tends to as d grows.

    Args:
      gradient: G, one neuron's.
      noise: v, one sample's variance.
      support: S.
      batch: B.
    """
    square = gradient**2 + noise / batch
    return float(square[list(support)].sum() / square.sum())


def aligned_batch(
    gradient: Float[np.ndarray, " d"],
    noise: Float[np.ndarray, " d"],
    support: Sequence[int],
) -> float:
    """The batch at which `expected_share` is 1/2.

    B = (sum_{i not in S} v_i - sum_{i in S} v_i)
        / (sum_{i in S} G_i^2 - sum_{i not in S} G_i^2)

    For labels this grows like d / (2 k t_{k-1}^2), that is d^k: t_r falls like
    d^{-r/2}. Infinite where even the population gradient has less than half of its
    square in the support, 0 where any batch has more.
    """
    square, s = gradient**2, list(support)
    excess = np.delete(noise, s).sum() - noise[s].sum()
    signal = square[s].sum() - np.delete(square, s).sum()
    return max(0.0, float(excess / signal)) if signal > 0 else np.inf


def separated_batch(
    gradient: Float[np.ndarray, " d"],
    noise: Float[np.ndarray, " d"],
    support: Sequence[int],
) -> float:
    """Scale of the batch at which every |g_i| in S exceeds every one outside.

    B = 2 v log(d - k) / (min_{i in S} |G_i| - max_{i not in S} |G_i|)^2

    puts the largest of d - k Gaussian errors of variance v / B at the population's
    gap; a scale (of one neuron), not a bound. For labels it grows like d^{k-1} log d.
    Infinite where the population gradient does not separate the support.
    """
    size, s = np.abs(gradient), list(support)
    outside = np.delete(size, s)
    if not len(outside):
        return 0.0
    gap = size[s].min() - outside.max()
    if gap <= 0:
        return np.inf
    return float(2 * np.max(noise) * np.log(max(2, len(outside))) / gap**2)


def label_batch(d: int, k: int) -> float:
    """`aligned_batch` of a neuron without bias that learns from labels."""
    gradient = label_gradient(np.ones((1, d)), range(k), np.zeros(1))
    noise = label_noise(gradient, np.zeros(1))
    return aligned_batch(gradient[0], noise[0], range(k))
