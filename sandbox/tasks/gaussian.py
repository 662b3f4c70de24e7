r"""Single- and multi-index targets on Gaussian inputs.

    x ~ N(0, I_d),   z_i = <w_i, x> for k orthonormal directions w_i
    f(z) = sum_t c_t prod_i h_{a_ti}(z_i),   h_j = He_j / sqrt(j!)
    class 0 means f >= 0 and class 1 means f < 0

The h_j are orthonormal under N(0, 1), so the c_t are the Hermite coefficients of the
link f. Directions are axes (of a support as in `sandbox.tasks.parity`), or uniformly
random orthonormal ones of the lane's task key.

The information exponent (Ben Arous, Gheissari and Jagannath, arXiv 2003.10409) is the
smallest degree, from 1 on, with a non-zero Hermite coefficient. A learner sees sign f,
whose exponent can be lower (He_3 has 3, its sign 1) or higher than that of f: both are
computed. f = 0 has probability 0; in float32 about one row in 10^7 is so close to it
that its label may depend on how many rows are made at once.

Example:
    >>> task = MultiIndex(d=24, degrees=((1, 0), (1, 1)), coefficients=(1.0, 1.0))
    >>> task.k, task.information_exponent
    (2, 1)
"""

from dataclasses import dataclass, field
from functools import lru_cache
from math import erf, exp, factorial, inf, pi, sqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sandbox.errors import require
from sandbox.store.bounds import is_number
from sandbox.tasks.base import VectorTask
from sandbox.tasks.parity import (
    ExplicitSupport,
    FirstSupport,
    RandomSupport,
    check_support,
    place_support,
)
from sandbox.types import Array

MAX_DEGREE = 12
"""Of one Hermite polynomial: beyond, its values in float32 lose their digits."""
_ZERO = 1e-9
"""Size below which a Hermite coefficient of a label counts as 0."""
_RARE = 1e-3
"""Least probability of a class, estimated on `_CHECKED` fixed rows."""
_CHECKED = 20_000


@dataclass(frozen=True)
class RandomDirections:
    """Uniformly random orthonormal directions, drawn from the lane's task key."""


Directions = FirstSupport | RandomSupport | ExplicitSupport | RandomDirections


@dataclass(frozen=True, kw_only=True)
class GaussianTask(VectorTask):
    """A target on standard Gaussian inputs; subclasses write `supports` and `labels`.

    The probes' monomials, products of distinct coordinates, are then the multilinear
    Hermite polynomials; terms such as z_i^2 - 1 are not probed.
    """

    def inputs(self, row_keys: Any) -> Float[Array, "n d"]:
        """Standard normal rows, the same in either precision: drawn in float32."""
        draw = jax.vmap(lambda k: jax.random.normal(k, (self.d,), jnp.float32))
        return draw(row_keys).astype(jnp.result_type(float))


@dataclass(frozen=True, kw_only=True)
class MultiIndex(GaussianTask):
    """The sign of a polynomial of k directions.

    Attributes:
      d: input coordinates.
      degrees: of every product of Hermite polynomials, the degree along each direction.
      coefficients: one for each product.
      support: which axes, or random orthonormal directions.
    """

    degrees: tuple[tuple[int, ...], ...]
    coefficients: tuple[float, ...]
    support: Directions = field(default_factory=FirstSupport)

    def __post_init__(self) -> None:
        """Refuses what is no expansion, idle directions and classes without rows."""
        super().__post_init__()
        self._check_degrees()
        if not isinstance(self.support, RandomDirections):
            check_support(self.support, self.k, self.d)
        share = _share_of_class_1(self.degrees, self.coefficients)
        require(
            _RARE <= share <= 1 - _RARE,
            "task.coefficients leave one class with less than a thousandth of the"
            " inputs; change the constant, e.g. with single_index(..., balanced=True).",
        )

    def _check_degrees(self) -> None:
        sound = all(
            len(a) == self.k and all(0 <= j <= MAX_DEGREE for j in a)
            for a in self.degrees
        )
        require(
            sound and self.k >= 1 and len(set(self.degrees)) == len(self.degrees),
            f"task.degrees must be different tuples of k degrees in 0..{MAX_DEGREE},"
            f" e.g. ((1, 0), (1, 1)) for k = 2, got {self.degrees!r:.60}.",
        )
        require(
            self.k <= self.d, f"task.degrees: k = {self.k} must be <= d = {self.d}."
        )
        idle = [i for i, a in enumerate(zip(*self.degrees, strict=True)) if not any(a)]
        require(
            not idle,
            f"task.degrees: directions {idle} have degree 0 throughout; leave them"
            " out.",
        )
        require(
            len(self.coefficients) == len(self.degrees) and 0 not in self.coefficients,
            "task.coefficients must hold one finite number that is not 0 for each of"
            f" {len(self.degrees)} products, got {self.coefficients!r:.60}.",
        )

    @property
    def k(self) -> int:
        """Directions behind the label."""
        return len(self.degrees[0]) if self.degrees else 0

    @property
    def information_exponent(self) -> int:
        """Of the link f: the least total degree from 1 on."""
        return min(sum(a) for a in self.degrees if any(a))

    @property
    def label_exponent(self) -> int | None:
        """Information exponent of sign f, exactly; None for sums with k > 1.

        With one direction the coefficients are integrals between the roots of f; the
        sign of one product is the product of the signs.
        """
        if self.k > 1 and len(self.degrees) > 1:
            return None
        degrees = next(iter(self.degrees))
        links = [self._link()] if self.k == 1 else [_power(j) for j in degrees]
        least = [_first(sign_coefficients(link, 4 * MAX_DEGREE), 0) for link in links]
        if any(least):
            return sum(least)
        return min(_first(sign_coefficients(link, 4 * MAX_DEGREE), 1) for link in links)

    def _link(self) -> tuple[float, ...]:
        """Hermite coefficients c_0, c_1, ... of a link of one direction."""
        by = dict(zip((a[0] for a in self.degrees), self.coefficients, strict=True))
        return tuple(by.get(j, 0.0) for j in range(max(by) + 1))

    def supports(self, key: Any) -> Int[Array, "1 k"]:
        """Axes of the frame of `rotate` behind the label, as the only row."""
        if isinstance(self.support, RandomDirections):
            return jnp.arange(self.k)[None, :]
        return place_support(self, self.support, self.k, key)

    def frame(self, key: Any) -> Float[Array, "d d"]:
        """Orthonormal rows; row i is the direction w_i for the first k of random ones.

        Uniform (Haar) on the orthogonal group: the Q factor of a Gaussian matrix with
        the signs of R's diagonal moved into it.
        """
        if not isinstance(self.support, RandomDirections):
            return jnp.eye(self.d)
        g = jax.random.normal(self.support_key(key), (self.d, self.d), jnp.float32)
        q, r = jnp.linalg.qr(g.astype(jnp.result_type(float)))
        return (q * jnp.where(jnp.diagonal(r) < 0, -1, 1)[None, :]).T

    def rotate(self, x: Float[Array, "B d"], key: Any) -> Float[Array, "B d"]:
        """Rows in the frame whose first k axes are the random directions."""
        if not isinstance(self.support, RandomDirections):
            return x
        return jnp.dot(x, self.frame(key).T, precision="highest")

    def link(self, z: Float[Array, "B k"]) -> Float[Array, " B"]:
        """The polynomial f before its sign is taken."""
        return _link_values(z, self.degrees, self.coefficients)

    def labels(
        self, x: Float[Array, "B d"], supports: Int[Array, "1 k"]
    ) -> Int[Array, " B"]:
        """Class 0 where f >= 0, class 1 where f < 0."""
        return (self.link(x[:, supports[0]]) < 0).astype(int)


def single_index(
    d: int, link: tuple[float, ...], *, balanced: bool = False, **fields: Any
) -> MultiIndex:
    """The sign of a polynomial of one direction.

    Args:
      d: input coordinates.
      link: Hermite coefficients c_0, c_1, ..., in the orthonormal h_j.
      balanced: replaces c_0 so that both classes have probability 1/2.
      **fields: further fields of `MultiIndex` (support).
    """
    require(
        len(link) >= 2 and all(is_number(c) for c in link) and any(link[1:]),
        f"link must hold Hermite coefficients c_0, c_1, ..., got {link!r:.60}.",
    )
    if balanced:
        link = (_balancing(link[1:]), *link[1:])
    kept = [(j, float(c)) for j, c in enumerate(link) if c != 0]
    return MultiIndex(
        d=d,
        degrees=tuple((j,) for j, _ in kept),
        coefficients=tuple(c for _, c in kept),
        **fields,
    )


def hermite(z: Any, degree: int) -> list[Any]:
    """h_0 .. h_degree at z: h_{j+1} = (z h_j - sqrt(j) h_{j-1}) / sqrt(j + 1)."""
    out = [z * 0 + 1, z]
    for j in range(1, degree):
        out.append((z * out[j] - sqrt(j) * out[j - 1]) / sqrt(j + 1))
    return out[: degree + 1]


def _link_values(
    z: Any, degrees: tuple[tuple[int, ...], ...], coefficients: tuple[float, ...]
) -> Any:
    top = [max(column) for column in zip(*degrees, strict=True)]
    h = [hermite(z[:, i], j) for i, j in enumerate(top)]
    total = z[:, 0] * 0
    for a, c in zip(degrees, coefficients, strict=True):
        term = c
        for i, j in enumerate(a):
            term = term * h[i][j] if j else term
        total = total + term
    return total


@lru_cache(maxsize=64)
def _share_of_class_1(
    degrees: tuple[tuple[int, ...], ...], coefficients: tuple[float, ...]
) -> float:
    z = np.random.default_rng(0).standard_normal((_CHECKED, len(degrees[0])))
    return float((_link_values(z, degrees, coefficients) < 0).mean())


# ------------------------------------------------------- Hermite coefficients of signs


def _power(j: int) -> tuple[float, ...]:
    """Coefficients of the link h_j."""
    return (0.0,) * j + (1.0,)


def sign_changes(link: tuple[float, ...]) -> tuple[list[float], list[int]]:
    """Real roots at which a link changes sign, and its sign on the pieces between."""
    series = np.asarray([c / sqrt(factorial(j)) for j, c in enumerate(link)])
    found = np.polynomial.hermite_e.hermeroots(series)
    real = np.sort(found.real[np.abs(found.imag) < 1e-7 * (1 + np.abs(found))])
    middle = (real[1:] + real[:-1]) / 2
    if len(real):
        points = np.concatenate([[real[0] - 1], middle, [real[-1] + 1]])
    else:
        points = np.zeros(1)
    value = np.polynomial.hermite_e.hermeval(points, series)
    touch = 1e-12 * np.abs(series).sum()  # between the halves of a double root
    signs = np.where(np.abs(value) <= touch, 0, np.sign(value)).astype(int).tolist()
    roots, pieces = [], signs[:1]
    for root, sign in zip(real.tolist(), signs[1:], strict=True):
        if sign not in (0, pieces[-1]):
            roots.append(root)
            pieces.append(sign)
    return roots, pieces


def sign_coefficients(link: tuple[float, ...], degree: int) -> Float[np.ndarray, " J"]:
    r"""Hermite coefficients E[sign f(z) h_j(z)], j = 0 .. degree, of one direction.

    With the pieces [a, b] between the roots and the density g of N(0, 1),

        int_a^b h_j g = -[h_{j-1} g]_a^b / sqrt(j)  (j >= 1),   [Phi]_a^b  (j = 0).
    """
    roots, pieces = sign_changes(link)
    total = np.zeros(degree + 1)
    for a, b, sign in zip([-inf, *roots], [*roots, inf], pieces, strict=True):
        total += sign * (_primitive(b, degree) - _primitive(a, degree))
    return total


def _primitive(z: float, degree: int) -> np.ndarray:
    """Integrals of h_j g from 0 (j = 0) or from -infinity (j >= 1) to z."""
    if abs(z) == inf:
        return np.asarray([np.sign(z) / 2] + [0.0] * degree)
    density = exp(-z * z / 2) / sqrt(2 * pi)
    h = hermite(z, degree)
    rest = [-h[j - 1] * density / sqrt(j) for j in range(1, degree + 1)]
    return np.asarray([erf(z / sqrt(2)) / 2, *rest])


def _first(coefficients: np.ndarray, least: int) -> int:
    """Smallest degree from `least` on whose coefficient is not 0."""
    found = np.flatnonzero(np.abs(coefficients[least:]) > _ZERO)
    return least + int(found[0])


def _balancing(rest: tuple[float, ...]) -> float:
    """The c_0 with which the sign of a link has mean 0, by bisection."""
    high = 1.0
    while sign_coefficients((high, *rest), 0)[0] <= 0:
        high *= 2
    low = -1.0
    while sign_coefficients((low, *rest), 0)[0] >= 0:
        low *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if sign_coefficients((middle, *rest), 0)[0] < 0:
            low = middle
        else:
            high = middle
    return 0.0 if abs(high) < 1e-15 else (low + high) / 2
