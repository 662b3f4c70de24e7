"""Exact posteriors of nonterminals and boundaries, and of the next token.

A factor on a chart cell gives its posterior as a derivative of log Z, as a leaf weight
does (`bayes`; J. Goodman, "Semiring parsing", 1999; Eisner 2016): summed over the cells
that cover a token it is the posterior of the nonterminal there, over the cells that
end at a token that of the boundary.

The next token is predicted by a prefix probability. With left_A(s) the probability that
a derivation writes the first s tokens and goes on with an A,

    left_{X_{j+1}}(s + l) += left_A(s) p prod_{i<=j} I_{X_i}(s_i, l_i)

over the rules A -> X_1 .. X_r, because whatever follows is free and sums to 1. The
terminals' left_a(t) are the joint probabilities of a prefix and its next token: one
pass serves all prefixes (the forward probabilities of A. Stolcke, Computational
Linguistics 21, 1995, without his recursion).
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from sandbox.tasks.bayes import (
    Totals,
    at_any_scale,
    in_float64,
    largest_one,
    shares,
    weighed,
)
from sandbox.tasks.grammar_arrays import GrammarArrays
from sandbox.tasks.inside import Band, ChartPlan, chart_plan, inside, kept
from sandbox.types import Array


class LevelPosteriors(NamedTuple):
    """Posteriors of what `Strings` holds of every level 0 .. L-1.

    Attributes:
      symbols: `[b, l, i, a]`, that symbol a of level l is over token i; sums to 1 over
        the symbols, and is 0 after the end.
      boundaries: `[b, l, i]`, that a node of level l ends at token i.
    """

    symbols: Float[Array, "B levels N s"]
    boundaries: Float[Array, "B levels N"]


@in_float64
@partial(jax.jit, static_argnums=0)
def level_posteriors(
    arrays: GrammarArrays, weights: Float[Array, "B N V"], length: Int[Array, " B"]
) -> LevelPosteriors:
    """Posteriors of the nonterminal over, and the boundary at, every token and level.

    Levels are depths, as in `grammar_arrays`; a terminal stands for itself at the
    levels where the path to it has ended.
    """
    plan, n_tokens = chart_plan(arrays, by_level=True), weights.shape[1]

    def use(w: Array, n: Array, _: Array) -> tuple[tuple[Array, Array], Totals]:
        bands: dict[int, Band] = jax.eval_shape(partial(inside, plan), w)
        ones = {a: jnp.ones(bands[a].cells.shape) for a in plan.nonterminals}
        weigh = partial(weighed, plan, w, n)
        (z, totals), cells = jax.value_and_grad(weigh, has_aux=True)(ones)
        each = {a: c / z for a, c in cells.items()}
        over, ends = _of_tokens(arrays, each, n_tokens)
        return (jnp.clip(over, 0.0, 1.0), jnp.clip(ends, 0.0, 1.0)), totals

    (over, ends), _ = at_any_scale(
        arrays, use, largest_one, n_tokens, length, weights, by_level=True
    )
    valid = jnp.arange(n_tokens)[None, None, :] < length[:, None, None]
    return LevelPosteriors(
        jnp.where(valid[..., None], over, 0.0), jnp.where(valid, ends, 0.0)
    )


def _of_tokens(
    arrays: GrammarArrays, cells: Mapping[int, Array], n: int
) -> tuple[Float[Array, "levels N s"], Float[Array, "levels N"]]:
    """Sums over the cells that cover a token, by symbol, and that end at it."""
    low = dict(chart_plan(arrays, by_level=True).shortest)
    over = jnp.zeros((arrays.n_levels, n, len(arrays.symbols)))
    ends = jnp.zeros((arrays.n_levels, n))
    for a, own in cells.items():
        level, symbol = divmod(a, len(arrays.symbols))
        begin = jnp.zeros(n).at[: own.shape[1]].set(own.sum(0))
        end = _by_end(Band(low[a], own), n)
        over = over.at[level, :, symbol].set(jnp.cumsum(begin - end[:-1]))
        ends = ends.at[level].add(end[1:])
    return over, ends


def _by_end(band: Band, n: int) -> Float[Array, " ends"]:
    """Sums of cells by the position 0 .. n after their last token."""
    rows, starts = band.cells.shape
    if not rows:
        return jnp.zeros(n + 1)
    # A row of one more column than the sums shifts each length by one place.
    wide = jnp.pad(band.cells, ((0, 0), (0, rows)))
    width = starts + rows - 1
    sums = wide.reshape(-1)[: rows * width].reshape(rows, width).sum(0)
    sums = jnp.pad(sums, (band.low, 0))
    return jnp.pad(sums, (0, max(n + 1 - len(sums), 0)))[: n + 1]


@in_float64
@partial(jax.jit, static_argnums=0)
def predict_next(
    arrays: GrammarArrays, tokens: Int[Array, "B N"], length: Int[Array, " B"]
) -> Float[Array, "B T next"]:
    """P(next token | the first t tokens), for t = 0 .. N; the last entry is the end.

    The length is not known: all lengths that remain possible are summed over.

    Args:
      arrays: the grammar.
      tokens: terminals by number; anything after the end.
      length: tokens of each string.

    Returns:
      `(B, N + 1, V + 1)`; 0 for t beyond the length.
    """
    plan, n = chart_plan(arrays), tokens.shape[1]
    valid = jnp.arange(n)[None, :] < length[:, None]
    clean = jax.nn.one_hot(tokens, len(arrays.terminals), dtype=float)
    seen = jnp.where(valid[..., None], clean, 0.0)

    def use(w: Array, length: Array, _: Array) -> tuple[Array, Totals]:
        chart = inside(plan, w)
        joint = _next_weights(plan, chart, n)
        return joint, Totals.of(plan, w, chart, joint.sum(1), jnp.arange(n + 1))

    joint, _ = at_any_scale(arrays, use, lambda w: w, n, length, seen)
    return shares(joint, jnp.arange(n + 1)[None, :] <= length[:, None])


def _next_weights(
    plan: ChartPlan, chart: dict[int, Band], n: int
) -> Float[Array, "T next"]:
    """P(first t tokens, then token a or the end); see the module docstring."""
    first = jnp.zeros(n + 1).at[0].set(1 / len(plan.start))
    left = {a: jnp.zeros(n + 1) for a in (*plan.terminals, *plan.nonterminals)}
    end = jnp.zeros(n + 1)
    for a in plan.start:
        left[a] = first
        band = Band(chart[a].low, chart[a].cells[:, :1] / len(plan.start))
        end = end + _by_end(band, n)
    for a, sides in reversed([*zip(plan.nonterminals, plan.rules, strict=True)]):
        for side, probability in sides:
            here = kept(probability * left[a])
            for j, x in enumerate(side):
                left[x] = left[x] + here
                if j + 1 < len(side):
                    band = chart[x]
                    cells = kept(band.cells * here[None, :n])
                    here = _by_end(Band(band.low, cells), n)
    return jnp.stack([*(left[a] for a in plan.terminals), end], 1)
