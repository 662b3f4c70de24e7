r"""Trees of strings: the likeliest one, draws from the posterior, entropy, rules.

All from the chart of `inside`, with another way in which its cells come together
(J. Goodman, "Semiring parsing", 1999). Where they add up, derivatives of log Z with
respect to the weights p_r of the rules are expected counts,

    E[count of r | string] = p_r dlogZ/dp_r
    H(tree | string) = log Z + log S - sum_r E[count of r] log p_r

with S the number of start symbols, since a tree's probability is prod_r p_r^count / S.
Where instead the largest is taken, Z is the likeliest tree's probability. A tree is
read from a chart from its root down, in work proportional to its nodes: the likeliest
from the chart of largest weights, one drawn from the posterior from that of sums
(J. Goodman, "Parsing inside-out", 1998; M. Johnson et al., "Bayesian inference for
PCFGs via Markov chain Monte Carlo", 2007).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int

from sandbox.tasks.bayes import Totals, at_any_scale, in_float64, weighed
from sandbox.tasks.channel import observed
from sandbox.tasks.grammar_arrays import GrammarArrays
from sandbox.tasks.inside import Band, ChartPlan, chart_plan, inside, total
from sandbox.types import Array


class Trees(NamedTuple):
    """A tree of each string, as `Strings` holds it.

    Attributes:
      symbols: `symbols[b, l, i]`, the symbol of level l over token i, -1 after the end.
      boundaries: whether the node of level l ends at this token.
    """

    symbols: Int[Array, "B levels N"]
    boundaries: Bool[Array, "B levels N"]


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
    plan, n = chart_plan(arrays, by_level=True), tokens.shape[1]
    add = jnp.maximum if keys is None else jnp.add

    def use(w: Array, length: Array, _: Array, *key: Array) -> tuple[Any, Totals]:
        beginnings: dict[tuple[int, ...], Band] = {}
        chart = inside(plan, w, add=add, beginnings=beginnings)
        z = total(plan, chart, length, add)
        over, ends = _read(arrays, _Ways(plan, chart, beginnings), length, n, *key)
        found = (over.astype(z.dtype), ends.astype(z.dtype), z)
        return found, Totals.of(plan, w, chart, z, length)

    rows = (_observed(arrays, tokens),) + (() if keys is None else (keys,))
    (over, ends, z), g = at_any_scale(
        arrays, use, lambda w, *_: w, n, length, *rows, by_level=True
    )
    valid = (jnp.arange(n)[None, :] < length[:, None]) & (z > 0)[:, None]
    symbols = jnp.where(valid[:, None], over, -1).astype(jnp.int32)
    return Trees(symbols, (ends > 0) & valid[:, None]), z, g


class _Ways:
    """Tables of all bands, each a number: what its cells are made of.

    Attributes:
      symbol: of the chart; -1 for the beginning of right sides.
      rows: lengths of a band.
      low: the first of them.
      side: `(bands, R)`, of a symbol the bands of its rules' right sides, unless these
        are tokens.
      weight: `(bands, R)`, probabilities of these rules, 0 after the last.
      left: of a beginning the band of all symbols but the last; -1 for a symbol.
      last: of a beginning the band of its last symbol.
      start: of the start symbols.
    """

    def __init__(
        self,
        plan: ChartPlan,
        chart: Mapping[int, Band],
        beginnings: Mapping[tuple[int, ...], Band],
    ) -> None:
        """Of what `inside` makes."""
        names: list[Any] = [*chart, *beginnings]
        bands = [*chart.values(), *beginnings.values()]
        number = {name: i for i, name in enumerate(names)}

        def band(*side: int, starts: int) -> int:
            return number[side[0] if len(side) == 1 else (*side, -starts)]

        low, rows, starts = np.array([(b.low, *b.cells.shape) for b in bands]).T
        words = set(plan.terminals)
        rules = [[x for x in own if x[0][0] not in words] for own in plan.rules]
        side = np.zeros((len(bands), max(map(len, rules))), np.int32)
        weight = np.zeros(side.shape)
        for a, own in zip(plan.nonterminals, rules, strict=True):
            i = number[a]
            side[i, : len(own)] = [band(*x, starts=int(starts[i])) for x, _ in own]
            weight[i, : len(own)] = [p for _, p in own]
        made = [(band(*x[:-2], starts=-x[-1]), number[x[-2]]) for x in beginnings]
        left, last = np.array([(-1, 0)] * len(chart) + made).T
        self.symbol = np.array([*chart] + [-1] * len(beginnings))
        self.rows, self.start = rows, np.array([number[a] for a in plan.start])
        self.low, self.left, self.last = (jnp.int32(a) for a in (low, left, last))
        self.side, self.weight = jnp.asarray(side), jnp.asarray(weight)
        self._rows, self._starts = jnp.int32(rows), jnp.int32(starts)
        self._at = jnp.int32(np.cumsum(rows * starts) - rows * starts)
        self._cells = jnp.concatenate([b.cells.ravel() for b in bands])

    def cell(self, band: Array, first: Array, span: Array) -> Array:
        """Of `span` tokens from `first` on; 0 outside a band."""
        row, starts = span - self.low[band], self._starts[band]
        known = (row >= 0) & (row < self._rows[band]) & (first < starts)
        place = jnp.where(known, self._at[band] + row * starts + first, 0)
        return jnp.where(known, jnp.take(self._cells, place, mode="clip"), 0.0)


def _read(
    arrays: GrammarArrays, ways: _Ways, length: Array, n: int, key: Any = None
) -> tuple[Int[Array, "levels N"], Bool[Array, "levels N"]]:
    """A tree from its root down: symbols over the tokens, and where nodes end.

    A node takes one of its symbol's rules and then, from the last symbol of the right
    side to the second, one of the places where that may begin: the likeliest, or with
    a key one drawn in proportion. Of the chart only the tree's cells and their rivals
    are read. A node is a column: band, first token, and tokens, 0 for none.
    """
    size, levels = len(arrays.symbols), arrays.n_levels
    width = int(arrays.right_length.max())
    nodes = [min(most, n) for most in arrays.max_nodes]
    u = iter(())
    if key is not None:
        shape = (1 + (levels - 1) * width, max(nodes[: levels - 1], default=1))
        bits = jax.random.bits(key, shape, jnp.uint32)
        # Below 1 by more than rounding, so that the last way is not missed.
        u = iter((bits.astype(float) + 0.5) / 2**32)

    def choose(weight: Float[Array, "M K"]) -> Int[Array, " M"]:
        if key is None:
            chosen = weight == weight.max(1, keepdims=True)
        else:
            reached = jnp.cumsum(weight, 1)
            bound = next(u)[: len(weight), None] * reached[:, -1:]
            chosen = (reached > bound) & (weight > 0)
        # Of float64, argmax would not lower in a caller's jit in single precision.
        return lax.argmax(chosen, 1, jnp.int32)

    def below(level: int, node: Array) -> Array:
        band, first, span = node[:, :, None]
        side = ways.side[node[0]]
        chosen = choose(ways.weight[node[0]] * ways.cell(side, first, span))
        band = jnp.take_along_axis(side, chosen[:, None], 1)
        longest = ways.rows[ways.symbol // size == level + 1].max()
        children = []
        for _ in range(width - 1):
            last = ways.last[band]
            tokens = ways.low[last] + jnp.arange(longest, dtype=jnp.int32)[None]
            begin = first + span - tokens
            left = ways.cell(ways.left[band], first, begin - first)
            chosen = choose(left * ways.cell(last, begin, tokens))
            some = (ways.left[band] >= 0) & (span > 0)
            tokens = jnp.where(some, ways.low[last] + chosen[:, None], 0)
            span = span - tokens
            children.append((last, first + span, tokens))
            band = jnp.where(some, ways.left[band], band)
        children.append((band, first, span))
        every = jnp.stack(
            [jnp.concatenate(x, 1) for x in zip(*children[::-1], strict=True)]
        )
        every = every.reshape(3, -1)
        (there,) = jnp.nonzero(every[2] > 0, size=nodes[level + 1], fill_value=-1)
        return jnp.where(there >= 0, every[:, there], 0)

    def over_tokens(node: Array) -> tuple[Array, Array]:
        band, first, span = node
        end = jnp.where(span > 0, first + span - 1, n)
        ends = jnp.zeros(n, bool).at[end].set(True, mode="drop")
        over = jnp.take(band, jnp.cumsum(ends) - ends, mode="clip")
        return jnp.asarray(ways.symbol % size)[over], ends

    start = jnp.asarray(ways.start, jnp.int32)
    root = start[choose(ways.cell(start, jnp.int32(0), length)[None])]
    node = jnp.stack([root, jnp.zeros_like(root), length[None].astype(jnp.int32)])
    every = [node]
    for level in range(levels - 1):
        every.append(below(level, every[-1]))
    most = max(nodes[:levels])
    padded = [jnp.pad(x, ((0, 0), (0, most - x.shape[1]))) for x in every]
    return jax.vmap(over_tokens)(jnp.stack(padded))


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
