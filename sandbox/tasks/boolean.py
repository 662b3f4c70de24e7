r"""Boolean targets given by a Fourier expansion: staircases, juntas, majorities.

    f(z) = sum_A c_A prod_{i in A} z_i,   z = the k coordinates of the support
    class 0 means f > 0 and class 1 means f < 0

Position i of the expansion is the i-th smallest coordinate of the support. Because
k <= 16, the 2^k values are known when the record is built: an f that is 0 somewhere is
refused, and a label is looked up, never rounded.

The label is sign f, so what a learner can correlate with is the expansion of sign f and
not that of f; `Expansion.label_terms` has it. Staircases and merged staircases are
those of Abbe et al. (arXiv 2108.10573 and 2202.08658) with the sign taken; the leap is
that of Abbe, Boix-Adsera and Misiakiewicz (arXiv 2302.11055).

Example:
    >>> task = staircase(24, (1, 1, 1), support=RandomSupport())
    >>> task.sets, task.leap
    (((0,), (0, 1), (0, 1, 2)), 1)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sandbox.errors import require
from sandbox.tasks.base import BooleanTask
from sandbox.tasks.parity import FirstSupport, Support, check_support, place_support
from sandbox.types import Array

MAX_POSITIONS = 16
"""Most coordinates of one expansion: its 2^k values are listed."""
_TIE = 1e-9
"""Share of sum |c_A| below which a value counts as a tie."""

Sets = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Expansion(BooleanTask):
    """The sign of a sum of monomials.

    Attributes:
      d: input bits.
      sets: positions of every monomial, increasing; `()` is the constant. Together
        they name the positions 0 .. k-1, and the label depends on each of them.
      coefficients: one for each set.
      support: which coordinates the positions are.
    """

    sets: Sets
    coefficients: tuple[float, ...]
    support: Support = field(default_factory=FirstSupport)

    def __post_init__(self) -> None:
        """Refuses what is no expansion, ties, and positions that do not matter."""
        super().__post_init__()
        self._check_sets()
        k = self.k
        check_support(self.support, k, self.d)
        values = expansion_values(self.sets, self.coefficients, k)
        tie = np.flatnonzero(np.abs(values) <= _TIE * np.abs(self.coefficients).sum())
        require(
            not len(tie),
            f"task.coefficients make f = 0 at {len(tie)} of {2**k} points, where the"
            " label would be arbitrary; change one, e.g. the first to 1.5 times it.",
        )
        _check_used(label_table(self.sets, self.coefficients, k), "task.sets")

    def _check_sets(self) -> None:
        require(
            all(list(s) == sorted(set(s)) and min((0, *s)) == 0 for s in self.sets),
            "task.sets must be a tuple of increasing tuples of positions, e.g."
            f" ((0,), (0, 1)), got {self.sets!r:.60}.",
        )
        require(
            len(set(self.sets)) == len(self.sets),
            "task.sets must differ; add the coefficients of equal ones.",
        )
        require(
            len(self.coefficients) == len(self.sets) and 0 not in self.coefficients,
            f"task.coefficients must hold one finite number that is not 0 for each of"
            f" {len(self.sets)} sets, got {self.coefficients!r:.60}.",
        )
        used, k = {i for s in self.sets for i in s}, self.k
        require(
            1 <= k <= min(self.d, MAX_POSITIONS),
            f"task.sets must name 1 to {min(self.d, MAX_POSITIONS)} positions (d ="
            f" {self.d}, at most {MAX_POSITIONS}), got {k}.",
        )
        require(
            len(used) == k,
            f"task.sets must name every position in 0..{k - 1}, got {sorted(used)}.",
        )

    @property
    def k(self) -> int:
        """Coordinates behind the label."""
        return 1 + max((i for s in self.sets for i in s), default=-1)

    @property
    def leap(self) -> int:
        """Leap of the label sign f (on the uniform cube)."""
        return leap(s for s, _ in self.label_terms())

    def label_terms(self) -> list[tuple[tuple[int, ...], float]]:
        """Fourier expansion of sign f: every (set, coefficient) that is not 0, exactly.

        Sets are in the order of their bitmask.
        """
        table = label_table(self.sets, self.coefficients, self.k)
        return _terms(walsh_hadamard(1.0 - 2.0 * table) / len(table))

    def supports(self, key: Any) -> Int[Array, "1 k"]:
        """All coordinates behind the label in increasing order, as the only row."""
        return place_support(self, self.support, self.k, key)

    def labels(
        self, x: Float[Array, "B d"], supports: Int[Array, "1 k"]
    ) -> Int[Array, " B"]:
        """Class 0 where f > 0, class 1 where f < 0."""
        table = label_table(self.sets, self.coefficients, self.k)
        bits_Bk = (x[:, supports[0]] < 0).astype(int)
        row_B = (bits_Bk << jnp.arange(self.k)[None, :]).sum(-1)
        return jnp.asarray(table, int)[row_B]


def walsh_hadamard(values: Any) -> Any:
    """sum_z values(z) chi_A(z) for all A, N log2(N) additions; its own inverse times N.

    Bit i of a row's number is set where z_i = -1, or where i is in A. The other axes of
    `values`, an array of NumPy's or jax's, are left as they are.
    """
    xp, shape = values.__array_namespace__(), values.shape
    for i in range(len(values).bit_length() - 1):
        pairs = values.reshape(-1, 2, 1 << i, *shape[1:])
        plus, minus = pairs[:, 0], pairs[:, 1]
        values = xp.stack([plus + minus, plus - minus], 1).reshape(shape)
    return values


@lru_cache(maxsize=64)
def expansion_values(
    sets: Sets, coefficients: tuple[float, ...], k: int
) -> Float[np.ndarray, " N"]:
    """Values of f at the 2^k points; z_i = -1 where bit i of the row is set."""
    spectrum = np.zeros(2**k)
    for s, c in zip(sets, coefficients, strict=True):
        spectrum[sum(1 << i for i in s)] = c
    return walsh_hadamard(spectrum)


def label_table(
    sets: Sets, coefficients: tuple[float, ...], k: int
) -> Int[np.ndarray, " N"]:
    """Class at the 2^k points, 0 where f > 0."""
    return (expansion_values(sets, coefficients, k) < 0).astype(int)


def _check_used(table: Int[np.ndarray, " N"], field: str) -> None:
    """Refuses a label that ignores a position."""
    rows = np.arange(len(table))
    k = len(rows).bit_length() - 1
    idle = [i for i in range(k) if (table == table[rows ^ (1 << i)]).all()]
    require(
        not idle,
        f"{field}: the label does not depend on positions {idle}; leave them out.",
    )


def _terms(spectrum: np.ndarray) -> list[tuple[tuple[int, ...], float]]:
    k = len(spectrum).bit_length() - 1
    return [
        (tuple(i for i in range(k) if mask >> i & 1), float(spectrum[mask]))
        for mask in np.flatnonzero(spectrum).tolist()
    ]


# ------------------------------------------------------------------------- structure


def leap(sets: Iterable[Sequence[int]]) -> int:
    """Leap complexity of a function whose non-zero Fourier sets are given.

        min over orders of the sets of max_i |A_i minus (A_1 u ... u A_{i-1})|

    Taking the set with the fewest new positions next is optimal, because what has been
    covered only makes later sets cheaper. 0 for a constant.
    """
    todo, seen, worst = [frozenset(s) for s in sets], frozenset(), 0
    while todo:
        new = min(todo, key=lambda s: len(s - seen))
        todo.remove(new)
        worst, seen = max(worst, len(new - seen)), seen | new
    return worst


# -------------------------------------------------------------------------- families


def unit_coefficients(n: int) -> tuple[float, ...]:
    """1 for each of n monomials, the first 1.5 where n is even: a sum is never 0."""
    return (1.0 if n % 2 else 1.5,) + (1.0,) * (n - 1)


def staircase(d: int, steps: tuple[int, ...], **fields: Any) -> Expansion:
    """The sum of nested parities; step j adds steps[j] positions to the one before.

    `(1,) * k` is z_0 + z_0 z_1 + ... + z_0 ... z_{k-1}, and `(k,)` is parity. The n
    nested parities are independent uniform signs, so the label is their majority (the
    first decides where n is even) and balanced. The leap is max(steps).

    Args:
      d: input bits.
      steps: positions that each step adds.
      **fields: further fields of `Expansion` (support, p, coefficients).
    """
    require(
        len(steps) >= 1 and all(type(s) is int and s >= 1 for s in steps),
        f"steps must be positive whole numbers, got {steps!r:.60}.",
    )
    sets = tuple(tuple(range(n)) for n in accumulate(steps))
    return _expansion(d, sets, fields)


def merged_staircase(d: int, sets: Sets, **fields: Any) -> Expansion:
    """A sum over sets that can be ordered so that each adds at most one new position.

    Args:
      d: input bits.
      sets: the monomials.
      **fields: further fields of `Expansion` (support, p, coefficients).
    """
    require(
        leap(sets) <= 1,
        f"sets must be a merged staircase, in some order at most one new position a"
        f" set; the leap of {sets!r:.60} is {leap(sets)}.",
    )
    return _expansion(d, sets, fields)


def majority_of_parities(d: int, n: int, size: int, **fields: Any) -> Expansion:
    """The majority of n parities (n odd) on disjoint blocks of `size` positions.

    Args:
      d: input bits.
      n: parities.
      size: positions of each.
      **fields: further fields of `Expansion` (support, p).
    """
    require(n >= 1 and n % 2 == 1, f"n must be odd, so that no vote is a tie, got {n}.")
    sets = tuple(tuple(range(j * size, (j + 1) * size)) for j in range(n))
    return _expansion(d, sets, fields)


def junta(d: int, table: Sequence[int], **fields: Any) -> Expansion:
    """Any function of k bits, from its truth table.

    Args:
      d: input bits.
      table: class (0 or 1) of the 2^k rows; position i is -1 where bit i of the row's
        number is set, as in `BooleanTask.enumerate`.
      **fields: further fields of `Expansion` (support, p).
    """
    n = len(table)
    require(
        2 <= n <= 2**MAX_POSITIONS and n & (n - 1) == 0 and set(table) <= {0, 1},
        f"table must hold 2^k classes 0 or 1 with 1 <= k <= {MAX_POSITIONS}, got"
        f" {n} entries.",
    )
    require(len(set(table)) == 2, "table must hold both classes.")
    _check_used(np.asarray(table), "table")
    terms = _terms(walsh_hadamard(1.0 - 2.0 * np.asarray(table)) / n)
    coefficients = tuple(c for _, c in terms)
    return _expansion(
        d, tuple(s for s, _ in terms), {"coefficients": coefficients, **fields}
    )


def _expansion(d: int, sets: Sets, fields: dict[str, Any]) -> Expansion:
    fields = {"coefficients": unit_coefficients(len(sets))} | fields
    return Expansion(d=d, sets=sets, **fields)
