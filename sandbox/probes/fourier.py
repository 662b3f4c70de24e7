r"""Fourier (Walsh) coefficients of a classifier's output probabilities on {-1,+1}^d.

    c_A = E[ (p(c | x) - E p(c | x)) * chi_A(x) ],   chi_A(x) = prod_{i in A} x_i

with p = softmax(logits) at temperature 1 and x uniform. By Monte Carlo with standard
errors where the cube is large (`FourierProbe`), exactly where it is small
(`exact_spectrum`). Everything is signed; claims use |c_A| of class 1.

On other inputs with independent coordinates the x_i of chi_A are the task's own
coordinates, standardised, so that the chi_A stay orthonormal: (x_i - mu) / sigma on a
biased cube; on Gaussian inputs <w_i, x> in the frame of the task's directions, whose
products are multilinear Hermite polynomials.

Source: the curriculum probe of Panigrahi et al. (arXiv 2410.05464). The authors' code
reports absolute values and does not centre p; centring removes most of the noise.

Example:
    >>> probe = FourierProbe(task, model, degrees=(1, 2))
    >>> jax.jit(probe.measure)(params, key)["in_support/1"].shape
    (1, 6, 2)
"""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from sandbox.errors import ConfigError, require
from sandbox.models.base import Model
from sandbox.probes.subsets import in_support_subsets, off_support_subsets
from sandbox.store.bounds import AtLeast, check_fields
from sandbox.tasks.base import MAX_ENUMERATED_BITS, VectorTask
from sandbox.tasks.boolean import walsh_hadamard
from sandbox.types import Array, Params

CHUNK = 4096
"""Rows of one forward pass over an enumerated cube."""


def monomials(
    x: Float[Array, "B d"], subsets: Int[Array, "M k"]
) -> Float[Array, "B M"]:
    """Values of chi_A(x) = prod_{i in A} x_i, one monomial a row of `subsets`."""
    x_dB = x.T  # rows gather faster than columns
    chi_MB = jnp.ones((subsets.shape[0], x.shape[0]), x.dtype)
    for j in range(subsets.shape[1]):
        chi_MB = chi_MB * x_dB[subsets[:, j]]
    return chi_MB.T


class _Moments(NamedTuple):
    """Sums over rows of q = p - 1/C; `q_chi` and `chi` per group of monomials.

    `squares` holds those of q^2 chi^2, q chi^2 and chi^2 where chi^2 is not 1.
    """

    q: Array
    qq: Array
    q_chi: dict[str, Array]
    chi: dict[str, Array]
    squares: dict[str, tuple[Array, Array, Array]]


def _moments(
    p: Array, x: Array, groups: dict[str, Array], *, signs: bool = True
) -> _Moments:
    """Sums of one batch. The constant 1/C drops out of c_A and keeps the sums small."""
    q_BC = p - 1 / p.shape[1]
    chi_BM = {name: monomials(x, subsets) for name, subsets in groups.items()}

    def dot(a_BM: Array, b_BC: Array) -> Array:
        return jnp.dot(a_BM.T, b_BC, precision="highest")

    squares = {} if signs else {n: c**2 for n, c in chi_BM.items()}
    return _Moments(
        q_BC.sum(0),
        (q_BC**2).sum(0),
        {n: dot(c, q_BC) for n, c in chi_BM.items()},
        {n: c.sum(0) for n, c in chi_BM.items()},
        {n: (dot(s, q_BC**2), dot(s, q_BC), s.sum(0)) for n, s in squares.items()},
    )


def _correlate(sums: _Moments, name: str, n_rows: int) -> tuple[Array, Array]:
    """Correlations and standard errors `(M, C)` of a group.

    With z = (p - pbar) chi, sum z = sum p chi - pbar sum chi, and since chi^2 = 1,
    sum z^2 = sum (p - pbar)^2 = sum p^2 - B pbar^2: no cross term is needed. Elsewhere
    sum z^2 = sum p^2 chi^2 - 2 pbar sum p chi^2 + pbar^2 sum chi^2. Then
    var = (sum z^2 - B c^2) / (B - 1) and the standard error is sqrt(var / B).
    """
    mean_C = sums.q / n_rows
    c_MC = (sums.q_chi[name] - sums.chi[name][:, None] * mean_C[None, :]) / n_rows
    if name in sums.squares:
        qq_MC, q_MC, one_M = sums.squares[name]
        spread_MC = qq_MC - 2 * mean_C[None, :] * q_MC
        spread_MC = (spread_MC + one_M[:, None] * mean_C[None, :] ** 2) / n_rows
    else:
        spread_MC = (sums.qq / n_rows - mean_C**2)[None, :]
    var_MC = jnp.maximum(spread_MC - c_MC**2, 0)
    return c_MC, jnp.sqrt(var_MC / (n_rows - 1))


def monomial_correlation(
    p: Float[Array, "B C"], x: Float[Array, "B d"], subsets: Int[Array, "M k"]
) -> tuple[Float[Array, "M C"], Float[Array, "M C"]]:
    """Estimates how much of each class probability lies on each monomial.

    c_A = mean[ (p - mean p) * chi_A(x) ].

    Args:
      p: class probabilities.
      x: entries in {-1, +1}, drawn uniformly; at least two rows.
      subsets: one monomial a row, all of the same degree.

    Returns:
      Signed correlations, in [-1/2, 1/2], and their Monte-Carlo standard errors: the
      standard deviation (ddof = 1) of the summand over sqrt(B).
    """
    return _correlate(_moments(p, x, {"": subsets}), "", x.shape[0])


def fwht(values: Float[Array, "N C"]) -> Float[Array, "N C"]:
    """Fourier coefficients E[values * chi_A] from all values on the cube.

    Fast Walsh-Hadamard transform, N log2(N) additions a column. Row r of the input is
    the point with x_i = -1 exactly where bit i of r is set (`BooleanTask.enumerate`);
    row r of the output is the set A with i in A exactly where bit i of r is set.
    """
    n = len(values)
    require(
        n >= 1 and n & (n - 1) == 0,
        f"fwht needs 2^d rows, one for each point of the cube, got {n}.",
    )
    return walsh_hadamard(values) / n


def exact_spectrum(
    task: VectorTask, model: Model, params: Params, key: Any | None = None
) -> Float[Array, "N C"]:
    """All 2^d Fourier coefficients of the class probabilities, without sampling error.

    Row 0 is the mean; row r belongs to the set whose bitmask is r. The cost is 2^d
    forward passes.

    Args:
      task: one on the unbiased cube that can be enumerated (d <= 20).
      model: the network.
      params: its parameters.
      key: the lane's task key; needed only where the support is random.
    """
    check_uniform(task)
    cube = task.enumerate(key) if task.d <= MAX_ENUMERATED_BITS else None
    if cube is None:
        raise ConfigError(
            f"task.d must be at most {MAX_ENUMERATED_BITS} for an exact spectrum, got"
            f" {task.d}; use FourierProbe."
        )
    n = cube.x.shape[0]
    x = cube.x.reshape(-1, min(n, CHUNK), task.d)
    p = lax.map(lambda rows: jax.nn.softmax(model.apply(params, rows).logits, -1), x)
    return fwht(p.reshape(n, -1))


def check_uniform(task: VectorTask) -> None:
    """Refuses tasks without an exact spectrum for their inputs."""
    require(
        task.uniform_signs,
        f"probe.task: an exact spectrum needs inputs uniform on the cube, and those of"
        f" {type(task).__name__} are biased or no signs; FourierProbe measures them.",
    )


@dataclass(frozen=True)
class FourierProbe:
    """Monte-Carlo correlations with in-support and off-support monomials.

    Attributes:
      task: any task on vectors; one row of its `supports` is called a node.
      model: the network whose softmax is probed.
      degrees: degrees of the monomials. A degree above k has no in-support entry.
      off_count: random off-support monomials per degree (all, if there are fewer).
      points: number of Monte-Carlo inputs.
      first_row: first row of the `probe` split. Start a second probe at `points` of
        the first to measure on inputs that did not choose the checkpoint.
      batch: rows of one forward pass; changes memory and speed only.
      seed: draws the off-support monomials.
    """

    task: VectorTask
    model: Model
    _: KW_ONLY
    degrees: tuple[int, ...] = (1, 2, 3, 4, 5)
    off_count: Annotated[int, AtLeast(0)] = 100
    points: Annotated[int, AtLeast(2)] = 100_000
    first_row: int = 0
    batch: Annotated[int, AtLeast(1)] = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses degrees and counts that cannot be measured."""
        check_fields(self, "probe")
        d = self.task.d
        require(
            all(1 <= a <= d for a in self.degrees),
            f"probe.degrees must lie in 1..d = 1..{d}, got {self.degrees}.",
        )

    def subsets(self, key: Any) -> dict[str, Int[Array, "n M a"]]:
        """Monomials of every group, per node.

        Both kinds are fixed subsets of the positions 0 .. d-1 in the order (support
        ascending, other coordinates ascending), so a support that depends on the key
        stays jittable. Off-support means: not inside that node's own support.
        """
        supports = self.task.supports(key)
        k = supports.shape[1]
        order_nd = jax.vmap(lambda s: _support_first(s, self.task.d))(supports)
        groups = {}
        for a in self.degrees:
            off = off_support_subsets(
                self.task.d, range(k), a, count=self.off_count, seed=self.seed
            )
            if a <= k:
                groups[f"in_support/{a}"] = order_nd[:, in_support_subsets(range(k), a)]
            if len(off):  # none where every coordinate matters
                groups[f"off_support/{a}"] = order_nd[:, off]
        return groups

    def measure(self, params: Params, key: Any) -> dict[str, Array]:
        """Correlations of every class probability; pure and jittable.

        Args:
          params: parameters of `model`.
          key: the lane's task key; it fixes the support and the probe inputs.

        Returns:
          `in_support/{degree}`, `off_support/{degree}`: signed correlations
          `(n, M, C)`; `degree1`: `(d, C)` in the order of the coordinates (or of the
          axes of the task's frame, where it has one); and each one's
          Monte-Carlo standard error under the same name with `in_support_se`,
          `off_support_se`, `degree1_se`.
        """
        per_node = self.subsets(key)
        flat = {n: s.reshape(-1, s.shape[-1]) for n, s in per_node.items()}
        flat["degree1"] = jnp.arange(self.task.d)[:, None]

        def part(start: Any, n_rows: int) -> _Moments:
            t0 = jnp.uint32(self.first_row) + jnp.asarray(start, jnp.uint32)
            x = self.task.sample(key, t0, n_rows, split="probe").x
            p = jax.nn.softmax(self.model.apply(params, x).logits, -1)
            z = self.task.standardise(self.task.rotate(x, key))
            return _moments(p, z, flat, signs=self.task.uniform_signs)

        def add(i: Array, sums: _Moments) -> _Moments:
            return jax.tree.map(jnp.add, sums, part(i * self.batch, self.batch))

        full, tail = divmod(self.points, self.batch)
        like = jax.eval_shape(lambda: part(0, 2))
        sums = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)
        sums = lax.fori_loop(0, full, add, sums)
        if tail:
            sums = jax.tree.map(jnp.add, sums, part(full * self.batch, tail))
        out = {}
        for name in flat:
            group, _, degree = name.partition("/")
            shape = per_node[name].shape[:2] if degree else (self.task.d,)
            c, se = _correlate(sums, name, self.points)
            out[name] = c.reshape(*shape, -1)
            out["/".join([group + "_se", degree]).rstrip("/")] = se.reshape(*shape, -1)
        return out


class Degree1Gap(NamedTuple):
    """Mean |degree-1 correlation| on and off the support.

    Attributes:
      inside: per node, over the node's own support.
      outside: over the coordinates in no node's support (0 where there are none).
      gap: mean of `inside` minus `outside`.
    """

    inside: Array
    outside: Array
    gap: Array


def degree1_gap(
    degree1: Float[Array, "d C"], supports: Int[Array, "n k"]
) -> Degree1Gap:
    """Summarises degree-1 correlations as support against the rest.

    |c| is that of class 1 where C = 2 and the largest over the classes where C > 2.
    """
    size_dC = jnp.abs(degree1)
    c_d = size_dC[:, 1] if degree1.shape[1] == 2 else size_dC.max(1)
    d = degree1.shape[0]
    inside_n = c_d[supports].mean(1)
    rest_d = jnp.ones(d, c_d.dtype).at[supports.reshape(-1)].set(0)
    outside = jnp.sum(c_d * rest_d) / jnp.maximum(rest_d.sum(), 1)
    return Degree1Gap(inside_n, outside, inside_n.mean() - outside)


def _support_first(support: Int[Array, " k"], d: int) -> Int[Array, " d"]:
    """The support ascending, then the other coordinates ascending."""
    off_d = jnp.ones(d, int).at[support].set(0)
    return jnp.argsort(off_d, stable=True)
