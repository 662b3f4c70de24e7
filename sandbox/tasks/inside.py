r"""The inside algorithm on the span chart, batched, jitted and differentiable.

For an acyclic grammar and non-negative leaf weights w_i(a), one for each position i
and terminal a, the chart holds for every symbol A, start s and length l

    I_A(s, 1) = w_s(A)                                            A a terminal
    I_A(s, l) = sum_{A -> X_1..X_r} p sum_{l_1+..+l_r = l} prod_j I_{X_j}(s_j, l_j)

with s_1 = s and s_{j+1} = s_j + l_j. Only lengths that A can have are stored, so the
chart of a layered grammar is a set of narrow bands. The total weight of a string of
length n is

    Z = mean over start symbols A of I_A(0, n),

which is the string's probability where w is the indicator of its tokens, and the
probability of any product evidence where w is its likelihood. Everything else is a
derivative of log Z: w_i(a) dlogZ/dw_i(a) is the posterior of token a at position i,
dlogZ/dw_i(a) is proportional to it without position i's own evidence, and the
derivative with respect to a factor 1 on a chart cell is the posterior of that cell
(Baker 1979; Eisner 2016, "Inside-outside and forward-backward algorithms are just
backprop").

Weights are linear, not logarithmic, so that zeros are harmless; a cfg3b string of 432
tokens has Z near 1e-75, well inside float64. Call everything under
`jax.enable_x64(True)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from sandbox.errors import require
from sandbox.types import Array

_UNROLLED = 3
"""Lengths up to which a product of two bands is unrolled."""


@runtime_checkable
class _Rule(Protocol):
    @property
    def left(self) -> str: ...
    @property
    def right(self) -> tuple[str, ...]: ...
    @property
    def probability(self) -> float: ...


@runtime_checkable
class _Grammar(Protocol):
    @property
    def rules(self) -> Sequence[_Rule]: ...
    @property
    def start(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class ChartPlan:
    """What of a grammar the chart needs; hashable, so it can be a static argument.

    Attributes:
      terminals: the V terminals, in the order of the last axis of weights.
      nonterminals: children before parents.
      rules: for each nonterminal its (right side, probability) pairs.
      start: symbols that a string may start from, each equally likely.
      shortest: symbol -> fewest tokens, as pairs.
      longest: symbol -> most tokens, as pairs.
    """

    terminals: tuple[str, ...]
    nonterminals: tuple[str, ...]
    rules: tuple[tuple[tuple[tuple[str, ...], float], ...], ...]
    start: tuple[str, ...]
    shortest: tuple[tuple[str, int], ...]
    longest: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, grammar: _Grammar) -> "ChartPlan":
        """Orders the symbols and finds their lengths.

        Raises:
          ConfigError: the grammar is recursive.
        """
        rules: dict[str, list[tuple[tuple[str, ...], float]]] = {}
        for r in grammar.rules:
            rules.setdefault(r.left, []).append((r.right, r.probability))
        right = {x for r in grammar.rules for x in r.right}
        terminals = tuple(sorted(right - rules.keys()))
        low, high = dict.fromkeys(terminals, 1), dict.fromkeys(terminals, 1)
        order: list[str] = []
        while len(order) < len(rules):
            ready = [
                a
                for a, sides in rules.items()
                if a not in low and all(x in low for side, _ in sides for x in side)
            ]
            require(
                bool(ready),
                "the exact predictor needs a grammar without recursion, but"
                f" {sorted(rules.keys() - low.keys())[0]} can contain itself.",
            )
            for a in sorted(ready):
                sides = [side for side, _ in rules[a]]
                low[a] = min(sum(low[x] for x in side) for side in sides)
                high[a] = max(sum(high[x] for x in side) for side in sides)
                order.append(a)
        return cls(
            terminals,
            tuple(order),
            tuple(tuple(rules[a]) for a in order),
            tuple(grammar.start),
            tuple(low.items()),
            tuple(high.items()),
        )

    @property
    def lengths(self) -> tuple[int, int]:
        """Fewest and most tokens of a string."""
        low, high = dict(self.shortest), dict(self.longest)
        return min(low[a] for a in self.start), max(high[a] for a in self.start)


class Band(NamedTuple):
    """Chart cells of one symbol.

    Attributes:
      low: the length that row 0 stands for.
      cells: `(lengths, starts)`; starts beyond the last column hold nothing.
    """

    low: int
    cells: Array


def inside(
    plan: ChartPlan,
    weights: Float[Array, "N V"],
    factors: Mapping[str, Array] | None = None,
) -> dict[str, Band]:
    """The bands of all symbols for one string of at most N tokens.

    Args:
      plan: of the grammar.
      weights: leaf weights; positions beyond the string's end are never read by a cell
        that counts.
      factors: optional factors on the cells of nonterminals, shaped as `cells`.
    """
    n = weights.shape[0]
    chart = {a: Band(1, weights[None, :, i]) for i, a in enumerate(plan.terminals)}
    low, high = dict(plan.shortest), dict(plan.longest)
    used = {x for sides in plan.rules for side, _ in sides for x in side}
    pairs: dict[tuple[str, ...], Band] = {}
    for a, sides in zip(plan.nonterminals, plan.rules, strict=True):
        starts = n if a in used else 1  # a root is needed at position 0 alone
        top = min(high[a], n)
        rows = max(top - low[a] + 1, 0)
        cells = jnp.zeros((rows, starts), weights.dtype)
        for side, probability in sides:
            band = _sequence(chart, side, starts, pairs)
            k = min(band.cells.shape[0], low[a] + rows - band.low)
            if k > 0:
                at = band.low - low[a]
                cells = cells.at[at : at + k].add(probability * band.cells[:k])
        if factors is not None and a in factors:
            cells = cells * factors[a]
        chart[a] = Band(low[a], cells)
    return chart


def _sequence(
    chart: Mapping[str, Band],
    side: tuple[str, ...],
    starts: int,
    pairs: dict[tuple[str, ...], Band],
) -> Band:
    """The band of a sequence of symbols, sharing common beginnings."""
    if len(side) == 1:
        band = chart[side[0]]
        return Band(band.low, band.cells[:, :starts])
    key = (*side, str(starts))
    if key not in pairs:
        first, last = _sequence(chart, side[:-1], starts, pairs), chart[side[-1]]
        cells: Any = _concatenate(first.low, first.cells, last.cells)
        pairs[key] = Band(first.low + last.low, cells)
    return pairs[key]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _concatenate(
    low: int, left: Float[Array, "J S"], right: Float[Array, "K N"]
) -> Float[Array, "JK S"]:
    """out[j + k, s] = sum of left[j, s] right[k, s + low + j], zero beyond N."""
    n_left, starts = left.shape
    n_right = right.shape[0]
    right = jnp.pad(right, ((0, 0), (0, low + n_left)))

    def add(j: Any, out: Array) -> Array:
        here = lax.dynamic_slice(right, (0, low + j), (n_right, starts))
        old = lax.dynamic_slice(out, (j, 0), (n_right, starts))
        return lax.dynamic_update_slice(out, old + left[j][None] * here, (j, 0))

    return _loop(n_left, add, jnp.zeros((n_left + n_right - 1, starts), left.dtype))


def _forward(low: int, left: Array, right: Array) -> tuple[Array, tuple[Array, Array]]:
    return _concatenate(low, left, right), (left, right)


def _backward(low: int, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    left, right = saved
    n_left, starts = left.shape
    n_right, n = right.shape
    wide = jnp.pad(right, ((0, 0), (0, low + n_left)))

    def add(j: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        d_left, d_right = carry
        here = lax.dynamic_slice(wide, (0, low + j), (n_right, starts))
        g = lax.dynamic_slice(grad, (j, 0), (n_right, starts))
        d_left = lax.dynamic_update_slice(d_left, jnp.sum(g * here, 0)[None], (j, 0))
        old = lax.dynamic_slice(d_right, (0, low + j), (n_right, starts))
        d_right = lax.dynamic_update_slice(
            d_right, old + left[j][None] * g, (0, low + j)
        )
        return d_left, d_right

    zero = (jnp.zeros_like(left), jnp.zeros_like(wide))
    d_left, d_right = _loop(n_left, add, zero)
    return d_left, d_right[:, :n]


_concatenate.defvjp(_forward, _backward)


def _loop(n: int, step: Any, carry: Any) -> Any:
    if n > _UNROLLED:
        return lax.fori_loop(0, n, step, carry)
    for j in range(n):
        carry = step(j, carry)
    return carry


def total(
    plan: ChartPlan, chart: Mapping[str, Band], length: Int[Array, ""]
) -> Float[Array, ""]:
    """Z of a string of the given length; 0 for a length that no string has."""
    out = jnp.zeros((), jnp.result_type(float))
    for a in plan.start:
        band = chart[a]
        rows = band.cells.shape[0]
        if rows:
            row = length - band.low
            cell = band.cells[jnp.clip(row, 0, rows - 1), 0]
            out = out + jnp.where((row >= 0) & (row < rows), cell, 0.0)
    return out / len(plan.start)


def log_total(
    plan: ChartPlan, weights: Float[Array, "N V"], length: Int[Array, ""]
) -> Float[Array, ""]:
    """Log Z; -inf where the evidence is impossible."""
    return jnp.log(total(plan, inside(plan, weights), length))
