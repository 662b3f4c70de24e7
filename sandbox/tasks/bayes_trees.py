r"""Trees of strings: the likeliest one, draws from the posterior, entropy, rules.

All from the chart of `inside`, with another way in which its cells come together
(J. Goodman, "Semiring parsing", 1999). Where they add up, derivatives of log Z with
respect to the weights p_r of the rules are expected counts,

    E[count of r | string] = p_r dlogZ/dp_r
    H(tree | string) = log Z + log S - sum_r E[count of r] log p_r

with S the number of start symbols, since a tree's probability is prod_r p_r^count / S.
Where instead the largest is taken, Z is the likeliest tree's probability; where one is
drawn in proportion to its weight, a tree is drawn from the posterior. In both, what is
passed back is not a derivative but whether a cell is used, 0 or 1 (J. Eisner 2016; the
backward sampling of A. Rush, "Torch-Struct", 2020).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int

from sandbox.tasks.bayes import Totals, at_any_scale, in_float64, weighed
from sandbox.tasks.bayes_levels import of_tokens, used_cells
from sandbox.tasks.channel import observed
from sandbox.tasks.grammar_arrays import GrammarArrays
from sandbox.tasks.inside import ChartPlan, Part, Sum, chart_plan
from sandbox.types import Array


class Trees(NamedTuple):
    """A tree of each string, as `Strings` holds it.

    Attributes:
      symbols: `symbols[b, l, i]`, the symbol of level l over token i, -1 after the end.
      boundaries: whether the node of level l ends at this token.
    """

    symbols: Int[Array, "B levels N"]
    boundaries: Bool[Array, "B levels N"]


class Pick(Sum):
    """One of the ways: the likeliest, or one drawn in proportion to its weight."""

    def __init__(self, key: Array | None = None) -> None:
        """Draws with a key, takes the largest without."""
        self.best, self.key, self.draws = key is None, key, 0

    def either(self, cells: Array, parts: Sequence[Part]) -> Array:
        """One of the lexicon and the rules, cell by cell."""
        every = [cells]
        for probability, at, part in parts:
            below = len(cells) - at - len(part)
            scaled = _scaled(jnp.asarray(probability, part.dtype), part)
            every.append(jnp.pad(scaled, ((at, below), (0, 0))))
        return _choose(self.best, self._uniform(cells), jnp.stack(every))

    def join(self, low: int, left: Array, right: Array) -> Array:
        """One place where the second begins, cell by cell."""
        shape = (max(len(left) + len(right) - 1, 0), left.shape[1])
        if not len(left) or not len(right):
            return jnp.zeros((0, left.shape[1]), left.dtype)
        u = self._uniform(jax.ShapeDtypeStruct(shape, left.dtype))
        return _split(self.best, low, u, left, right)

    def mark(self, cells: Array, factor: Array) -> Array:
        """Cells; what comes back to a factor is whether its cell is used."""
        return _marked(cells, factor)

    def start(self, roots: Sequence[Array]) -> Array:
        """One of the start symbols."""
        chosen: Any = _choose(self.best, self._uniform(roots[0]), jnp.stack(roots))
        return _scaled(jnp.asarray(1 / len(roots), chosen.dtype), chosen)

    def _uniform(self, like: Any) -> Array:
        if self.key is None:
            return jnp.zeros(like.shape, like.dtype)
        self.draws += 1
        key = jax.random.fold_in(self.key, self.draws)
        bits = jax.random.bits(key, like.shape, jnp.uint32)
        # Below 1 by more than rounding, so that the last way is not missed.
        return (bits.astype(like.dtype) + 0.5) / 2**32


@jax.custom_vjp
def _scaled(p: Array, cells: Array) -> Array:
    """Cells times p, which are used as often as the product is."""
    return p * cells


_scaled.defvjp(lambda p, cells: (p * cells, p), lambda p, g: (jnp.zeros_like(p), g))


@jax.custom_vjp
def _marked(cells: Array, factor: Array) -> Array:
    """A factor is used as often as its cell."""
    return cells


_marked.defvjp(lambda cells, factor: (cells, None), lambda _, g: (g, g))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _choose(best: bool, u: Array, every: Float[Array, "R ..."]) -> Array:
    return every.max(0) if best else every.sum(0)


def _choose_backward(best: bool, saved: Any, g: Array) -> tuple[Array, Array]:
    u, every = saved
    reached = jnp.cumsum(every, 0) > u[None] * every.sum(0)[None]
    chosen = (every if best else reached).argmax(0)
    which = jnp.arange(len(every)).reshape(-1, *[1] * g.ndim)
    return jnp.zeros_like(u), jnp.where(which == chosen[None], g[None], 0)


_choose.defvjp(lambda best, u, e: (_choose(best, u, e), (u, e)), _choose_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _split(
    best: bool, low: int, u: Array, left: Float[Array, "J S"], right: Array
) -> Float[Array, "JK S"]:
    """As `inside._concatenate`, with the largest product or their sum."""
    (n_left, starts), n_right = left.shape, len(right)
    wide = jnp.pad(right, ((0, 0), (0, low + n_left)))

    def add(j: Any, out: Array) -> Array:
        value = left[j][None] * _at(wide, 0, low + j, n_right, starts)
        old = _at(out, j, 0, n_right, starts)
        new = jnp.maximum(old, value) if best else old + value
        return lax.dynamic_update_slice(out, new, (j, jnp.int32(0)))

    return lax.fori_loop(jnp.int32(0), jnp.int32(n_left), add, jnp.zeros_like(u))


def _at(a: Array, row: Any, column: Any, rows: int, columns: int) -> Array:
    at = (jnp.asarray(row, jnp.int32), jnp.asarray(column, jnp.int32))
    return lax.dynamic_slice(a, at, (rows, columns))


def _split_forward(best: bool, low: int, u: Array, left: Array, right: Array) -> Any:
    out = _split(best, low, u, left, right)
    return out, (u, left, right, out)


def _split_backward(best: bool, low: int, saved: Any, g: Array) -> Any:
    u, left, right, out = saved
    (n_left, starts), n_right = left.shape, len(right)
    wide = jnp.pad(right, ((0, 0), (0, low + n_left)))

    def step(j: Any, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        reached, open_, d_left, d_right = carry
        value = left[j][None] * _at(wide, 0, low + j, n_right, starts)
        old, bound = (_at(a, j, 0, n_right, starts) for a in (reached, u * out))
        new = jnp.maximum(old, value) if best else old + value
        largest = value == _at(out, j, 0, n_right, starts)
        hit = (largest if best else new > bound) & (value > 0)
        hit &= _at(open_, j, 0, n_right, starts)
        used = jnp.where(hit, _at(g, j, 0, n_right, starts), 0)
        rest = _at(open_, j, 0, n_right, starts) & ~hit
        zero, at = jnp.int32(0), jnp.asarray(low + j, jnp.int32)
        after = _at(d_right, 0, at, n_right, starts) + used
        return (
            lax.dynamic_update_slice(reached, new, (j, zero)),
            lax.dynamic_update_slice(open_, rest, (j, zero)),
            lax.dynamic_update_slice(d_left, used.sum(0)[None], (j, zero)),
            lax.dynamic_update_slice(d_right, after, (zero, at)),
        )

    start = (
        jnp.zeros_like(out),
        jnp.ones(out.shape, bool),
        jnp.zeros_like(left),
        jnp.zeros_like(wide),
    )
    _, _, d_left, d_right = lax.fori_loop(jnp.int32(0), jnp.int32(n_left), step, start)
    return jnp.zeros_like(u), d_left, d_right[:, : right.shape[1]]


_split.defvjp(_split_forward, _split_backward)


@in_float64
@partial(jax.jit, static_argnums=0)
def best_trees(
    arrays: GrammarArrays, tokens: Int[Array, "B N"], length: Int[Array, " B"]
) -> tuple[Trees, Float[Array, " B"]]:
    """The likeliest tree of each string, and the log of its probability in nats.

    A string that is none has no tree: -1 and False throughout, -inf.

    Args:
      arrays: the grammar.
      tokens: terminals by number; anything after the end.
      length: tokens of each string.
    """
    found, z, g = _trees(arrays, tokens, length, None)
    return found, jnp.log(z) - g


@in_float64
@partial(jax.jit, static_argnums=0)
def draw_trees(
    arrays: GrammarArrays, tokens: Int[Array, "B N"], length: Int[Array, " B"], key: Any
) -> Trees:
    """A tree of each string, drawn from the posterior.

    Args:
      arrays: the grammar.
      tokens: terminals by number; anything after the end.
      length: tokens of each string.
      key: of the draws; row b folds in b.
    """
    rows = jnp.arange(len(tokens))
    keys = jax.vmap(partial(jax.random.fold_in, key))(rows)
    return _trees(arrays, tokens, length, keys)[0]


def _trees(
    arrays: GrammarArrays, tokens: Array, length: Array, keys: Array | None
) -> tuple[Trees, Array, Array]:
    n = tokens.shape[1]

    def use(w: Array, length: Array, _: Array, *key: Array) -> tuple[Any, Totals]:
        z, totals, cells = used_cells(arrays, w, length, Pick(*key))
        over, ends = of_tokens(arrays, cells, n)
        return (over.argmax(-1).astype(z.dtype), ends, z), totals

    rows = (_observed(arrays, tokens),) + (() if keys is None else (keys,))
    (over, ends, z), g = at_any_scale(
        arrays, use, lambda w, *_: w, n, length, *rows, by_level=True
    )
    valid = (jnp.arange(n)[None, :] < length[:, None]) & (z > 0)[:, None]
    symbols = jnp.where(valid[:, None], over, -1).astype(jnp.int32)
    return Trees(symbols, (ends > 0) & valid[:, None]), z, g


def _observed(arrays: GrammarArrays, tokens: Array) -> Array:
    return observed(tokens, jnp.ones(tokens.shape, bool), len(arrays.terminals))


class Rules(NamedTuple):
    """What a string says of the rules.

    Attributes:
      gradient: d log P(string) / d p of every rule, as `arrays.probability` is shaped.
      expected: how often a tree of the string uses it, on average.
      entropy: of the tree given the string, in nats.
    """

    gradient: Float[Array, "B A R"]
    expected: Float[Array, "B A R"]
    entropy: Float[Array, " B"]


@in_float64
@partial(jax.jit, static_argnums=0)
def rule_counts(
    arrays: GrammarArrays, tokens: Int[Array, "B N"], length: Int[Array, " B"]
) -> Rules:
    """Gradients, expected counts and the trees' entropy; NaN for what is no string."""
    plan = chart_plan(arrays)
    p, place = _probabilities(plan, arrays)

    def use(w: Array, n: Array, _: Array) -> tuple[Any, Totals]:
        weigh = partial(weighed, plan, w, n, None)
        (z, totals), slope = jax.value_and_grad(weigh, has_aux=True)(jnp.asarray(p))
        return (z, slope / z), totals

    seen = _observed(arrays, tokens)
    (z, slope), g = at_any_scale(
        arrays, use, lambda w: w, tokens.shape[1], length, seen
    )
    count = slope * p[None]
    log_p = np.log(np.where(p > 0, p, 1.0))
    starts = np.log(len(plan.start))
    entropy = jnp.log(z) - g + starts - count @ log_p

    def placed(a: Array) -> Array:
        out = jnp.zeros((len(a), *arrays.probability.shape))
        return out.at[:, *place].set(a)

    return Rules(placed(slope), placed(count), jnp.maximum(entropy, 0.0))


def _probabilities(
    plan: ChartPlan, arrays: GrammarArrays
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Of the plan's rules in its order, and their places in `arrays.probability`."""
    pairs = zip(plan.nonterminals, plan.rules, strict=True)
    at = [(a, i) for a, sides in pairs for i in range(len(sides))]
    rows, columns = np.array(at).T
    return arrays.probability[rows, columns], (rows, columns)
