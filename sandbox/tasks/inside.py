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
`jax.enable_x64(True)`; `bayes` does, and takes batches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from sandbox.tasks.grammar_arrays import GrammarArrays
from sandbox.types import Array

FLOOR = 1e-150
"""Smallest positive cell: what a product of two of them still can hold."""
_ZERO = np.int32(0)
_UNROLLED = 3
"""Lengths of a band, and words of a symbol, up to which they are unrolled."""


@dataclass(frozen=True)
class ChartPlan:
    """What of a grammar the chart needs; hashable, so it can be a static argument.

    A symbol is a number: its place in `GrammarArrays.symbols`, or, where levels are
    told apart, level * len(symbols) + place.

    Attributes:
      terminals: in the order of tokens and of the last axis of weights.
      nonterminals: children before parents.
      rules: for each nonterminal its (right side, probability) pairs.
      start: symbols that a string may start from, each equally likely.
      shortest: symbol -> fewest tokens, as pairs.
      longest: symbol -> most tokens, as pairs.
    """

    terminals: tuple[int, ...]
    nonterminals: tuple[int, ...]
    rules: tuple[tuple[tuple[tuple[int, ...], float], ...], ...]
    start: tuple[int, ...]
    shortest: tuple[tuple[int, int], ...]
    longest: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, arrays: GrammarArrays) -> "ChartPlan":
        """One chart symbol for each symbol of the grammar."""
        n = arrays.n_nonterminals
        rules = {a: _rules(arrays, a) for a in range(n)}
        order: list[int] = []
        ready = set(range(n, len(arrays.symbols)))
        while len(order) < n:
            order += [
                a
                for a, sides in rules.items()
                if a not in ready and all(ready.issuperset(side) for side, _ in sides)
            ]
            ready.update(order)
        bounds = (arrays.min_length.tolist(), arrays.max_length.tolist())
        return cls(
            tuple(range(n, len(arrays.symbols))),
            tuple(order),
            tuple(rules[a] for a in order),
            tuple(arrays.start.tolist()),
            *(tuple(enumerate(bound)) for bound in bounds),
        )

    @classmethod
    def by_level(cls, arrays: GrammarArrays) -> "ChartPlan":
        """One chart symbol for each level that a symbol occurs at.

        Terminals are carried down to the last level by rules of probability 1. In a
        layered grammar this is the plan of `of`, with other numbers.
        """
        size, last = len(arrays.symbols), arrays.n_levels
        order: list[int] = []
        rules: list[tuple[tuple[tuple[int, ...], float], ...]] = []
        for level in reversed(range(last)):
            below = (level + 1) * size
            for a in np.flatnonzero(arrays.at_level[level]).tolist():
                sides: tuple[tuple[tuple[int, ...], float], ...] = (((a,), 1.0),)
                if a < arrays.n_nonterminals:
                    sides = _rules(arrays, a)
                order.append(level * size + a)
                rules.append(
                    tuple((tuple(below + x for x in side), p) for side, p in sides)
                )
        terminals = range(last * size + arrays.n_nonterminals, (last + 1) * size)
        bounds = (arrays.min_length, arrays.max_length)
        return cls(
            tuple(terminals),
            tuple(order),
            tuple(rules),
            tuple(arrays.start.tolist()),
            *(
                tuple((x, int(bound[x % size])) for x in (*terminals, *order))
                for bound in bounds
            ),
        )

    @property
    def lengths(self) -> tuple[int, int]:
        """Fewest and most tokens of a string."""
        low, high = dict(self.shortest), dict(self.longest)
        return min(low[a] for a in self.start), max(high[a] for a in self.start)

    def cells(self, n: int) -> int:
        """Numbers that the bands of the nonterminals hold for n tokens."""
        low, high = dict(self.shortest), dict(self.longest)
        rows = (max(min(high[a], n) - low[a] + 1, 0) for a in self.nonterminals)
        return n * sum(rows)


@lru_cache(maxsize=32)
def chart_plan(arrays: GrammarArrays, *, by_level: bool = False) -> ChartPlan:
    """The plan of a grammar, made once."""
    return ChartPlan.by_level(arrays) if by_level else ChartPlan.of(arrays)


def _rules(
    arrays: GrammarArrays, symbol: int
) -> tuple[tuple[tuple[int, ...], float], ...]:
    """(Right side, probability) of each rule of a nonterminal."""
    n = arrays.n_rules[symbol]
    rows = zip(
        arrays.right[symbol, :n].tolist(),
        arrays.right_length[symbol, :n].tolist(),
        arrays.probability[symbol, :n].tolist(),
        strict=True,
    )
    return tuple((tuple(right[:k]), p) for right, k, p in rows)


def kept(x: Array) -> Array:
    """Positive numbers stay positive, so that a zero says impossible, not too small."""
    return jnp.where(x > 0, jnp.maximum(x, FLOOR), x)


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
    factors: Mapping[int, Array] | None = None,
    *,
    rules: Float[Array, " R"] | None = None,
    add: Callable[..., Array] = jnp.add,
    beginnings: dict[tuple[int, ...], Band] | None = None,
) -> dict[int, Band]:
    """The bands of all symbols for one string of at most N tokens.

    Args:
      plan: of the grammar.
      weights: leaf weights; positions beyond the string's end are never read by a cell
        that counts.
      factors: optional factors on the cells of nonterminals, shaped as `cells`.
      rules: weights of all rules in the plan's order, by default their probabilities.
      add: how ways to write a span come together. `jnp.maximum` leaves the largest
        instead, which has no derivative here.
      beginnings: is given the bands of two or more symbols that right sides begin
        with, named by these symbols and then, negative, the number of starts.
    """
    n = weights.shape[0]
    weights = kept(weights)
    column = {a: i for i, a in enumerate(plan.terminals)}
    chart = {a: Band(1, weights[None, :, i]) for a, i in column.items()}
    low, high = dict(plan.shortest), dict(plan.longest)
    used = {x for sides in plan.rules for side, _ in sides for x in side}
    sequences = {} if beginnings is None else beginnings
    number = 0
    for a, own in zip(plan.nonterminals, plan.rules, strict=True):
        sides: Any = own
        if rules is not None:
            sides = [(side, rules[number + i]) for i, (side, _) in enumerate(own)]
        number += len(own)
        starts = n if a in used else 1  # a root is needed at position 0 alone
        top = min(high[a], n)
        rows = max(top - low[a] + 1, 0)
        cells = jnp.zeros((rows, starts), weights.dtype)
        words = {side: p for side, p in sides if len(side) == 1 and side[0] in column}
        # A lexicon in one product: a sum, but a known token has one word's weight.
        if len(words) > _UNROLLED and rows:
            lexicon: Any = np.zeros(len(column))
            place, values = [column[x] for (x,) in words], list(words.values())
            if rules is None:
                lexicon[place] = values
            else:
                zero, place = jnp.zeros(len(column)), np.array(place)
                lexicon = zero.at[place].set(jnp.stack(values))
            cells = cells.at[0].add(weights[:starts] @ lexicon)
            sides = [(side, p) for side, p in sides if side not in words]
        for side, probability in sides:
            band = _sequence(chart, side, starts, sequences, add)
            k = min(band.cells.shape[0], low[a] + rows - band.low)
            if k > 0:
                at = slice(band.low - low[a], band.low - low[a] + k)
                both = add(cells[at], probability * band.cells[:k])
                cells = cells.at[at].set(both)
        if factors is not None and a in factors:
            cells = cells * factors[a]
        chart[a] = Band(low[a], kept(cells))
    return chart


def _sequence(
    chart: Mapping[int, Band],
    side: tuple[int, ...],
    starts: int,
    sequences: dict[tuple[int, ...], Band],
    add: Callable[..., Array],
) -> Band:
    """The band of a sequence of symbols, sharing common beginnings."""
    if len(side) == 1:
        band = chart[side[0]]
        return Band(band.low, band.cells[:, :starts])
    key = (*side, -starts)
    if key not in sequences:
        first = _sequence(chart, side[:-1], starts, sequences, add)
        last = chart[side[-1]]
        cells: Any = _concatenate(add, first.low, first.cells, last.cells)
        sequences[key] = Band(first.low + last.low, kept(cells))
    return sequences[key]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _concatenate(
    add: Callable[..., Array],
    low: int,
    left: Float[Array, "J S"],
    right: Float[Array, "K N"],
) -> Float[Array, "JK S"]:
    """out[j + k, s] = sum of left[j, s] right[k, s + low + j], zero beyond N."""
    n_left, starts = left.shape
    n_right = right.shape[0]
    if not n_left or not n_right:  # more tokens than there are positions
        return jnp.zeros((0, starts), left.dtype)
    right = jnp.pad(right, ((0, 0), (0, low + n_left)))

    def step(j: Any, out: Array) -> Array:
        here = lax.dynamic_slice(right, (_ZERO, low + j), (n_right, starts))
        old = lax.dynamic_slice(out, (j, _ZERO), (n_right, starts))
        new = add(old, left[j][None] * here)
        return lax.dynamic_update_slice(out, new, (j, _ZERO))

    return _loop(n_left, step, jnp.zeros((n_left + n_right - 1, starts), left.dtype))


def _forward(add: Any, low: int, left: Array, right: Array) -> tuple[Array, Any]:
    return _concatenate(add, low, left, right), (left, right)


def _backward(add: Any, low: int, saved: Any, grad: Array) -> tuple[Array, Array]:
    left, right = saved
    n_left, starts = left.shape
    n_right, n = right.shape
    if not n_left or not n_right:
        return jnp.zeros_like(left), jnp.zeros_like(right)
    wide = jnp.pad(right, ((0, 0), (0, low + n_left)))

    def step(j: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        d_left, d_right = carry
        here = lax.dynamic_slice(wide, (_ZERO, low + j), (n_right, starts))
        g = lax.dynamic_slice(grad, (j, _ZERO), (n_right, starts))
        d_left = lax.dynamic_update_slice(
            d_left, jnp.sum(g * here, 0)[None], (j, _ZERO)
        )
        old = lax.dynamic_slice(d_right, (_ZERO, low + j), (n_right, starts))
        d_right = lax.dynamic_update_slice(
            d_right, old + left[j][None] * g, (_ZERO, low + j)
        )
        return d_left, d_right

    zero = (jnp.zeros_like(left), jnp.zeros_like(wide))
    d_left, d_right = _loop(n_left, step, zero)
    return d_left, d_right[:, :n]


_concatenate.defvjp(_forward, _backward)


def _loop(n: int, step: Any, carry: Any) -> Any:
    if n > _UNROLLED:
        return lax.fori_loop(jnp.int32(0), jnp.int32(n), step, carry)
    for j in range(n):
        carry = step(jnp.int32(j), carry)
    return carry


def total(
    plan: ChartPlan,
    chart: Mapping[int, Band],
    length: Int[Array, ""],
    add: Callable[..., Array] = jnp.add,
) -> Float[Array, ""]:
    """Z of a string of the given length; 0 for a length that no string has."""
    roots = []
    for a in plan.start:
        band = chart[a]
        rows, row = band.cells.shape[0], length - band.low
        cell = jnp.zeros((), jnp.result_type(float))
        if rows:
            cell = band.cells[jnp.clip(row, 0, rows - 1), 0]
            cell = jnp.where((row >= 0) & (row < rows), cell, 0.0)
        roots.append(cell)
    return reduce(add, roots) / len(roots)
