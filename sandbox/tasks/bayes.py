r"""The exact Bayes predictor of a grammar without recursion.

What is known of a string is a leaf weight w_i(a) = P(what is seen at i | token a) for
each position i and terminal a, and its length; the predictor knows absolute positions,
as a model does. With Z the total weight of `inside`,

    P(x_i = a | everything seen)          = w_i(a) dZ/dw_i(a) / Z
    P(x_i = a | everything seen but at i) = dZ/dw_i(a) / sum_b dZ/dw_i(b)

so that one backward pass gives both at every position (Baker 1979; Eisner 2016).
What is not in the tokens, nonterminals, boundaries and the end, is in `bayes_levels`.

Everything is computed in float64, whatever the caller uses, and comes back in the
caller's precision: float64 under `jax.enable_x64(True)`, else float32. All functions
may be called under jit. Tokens are numbers as `sample_strings` makes them; impossible
evidence gives NaN, never a guess. Probabilities are linear, scaled where a string's is
too small for float64 (`at_any_scale`).

Example:
    arrays = compile_grammar(load_grammar("cfg3b", start=("13", "14", "15")))
    strings = sample_strings(arrays, jax.random.key(0), 0, 64)
    p = predict_masked(arrays, strings.tokens, known, strings.length)
"""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Int

from sandbox.platforms import platform
from sandbox.tasks.channel import Channel, observed
from sandbox.tasks.grammar_arrays import GrammarArrays
from sandbox.tasks.inside import (
    Band,
    ChartPlan,
    chart_plan,
    inside,
    total,
)
from sandbox.types import Array

LOW, HIGH, ATTEMPTS = 1e-120, 1e200, 16
"""Weights that are trusted, since what the smallest cells lose is below `inside.FLOOR`
times the weight of their surroundings; and how many scales are tried.
"""


def in_float64(f: Callable[..., Any]) -> Any:
    """Runs a function in float64; its floats come back in the caller's precision."""

    @wraps(f)
    def run(*args: Any, **kwargs: Any) -> Any:
        dtype = jnp.result_type(float)
        with jax.enable_x64(True):
            out = f(*args, **kwargs)
            return jax.tree.map(
                lambda x: x.astype(dtype) if x.dtype.kind == "f" else x, out
            )

    return run


class Totals(NamedTuple):
    """What shows whether the products in a chart stayed within float64.

    Attributes:
      weight: of a string, or of each of its beginnings, `(K,)`.
      tokens: how many of its tokens each of them spans, `(K,)`.
      leaves: the weights that went in, `(N, V)`.
      cells: of every nonterminal.
    """

    weight: Array
    tokens: Array
    leaves: Array
    cells: dict[int, Array]

    @classmethod
    def of(
        cls,
        plan: ChartPlan,
        leaves: Array,
        chart: Mapping[int, Band],
        weight: Array,
        tokens: Array,
    ) -> "Totals":
        """Of leaves and their chart."""
        cells = {a: chart[a].cells for a in plan.nonterminals}
        return cls(jnp.atleast_1d(weight), jnp.atleast_1d(tokens), leaves, cells)

    @property
    def exact(self) -> Array:
        """Where nothing that counts was lost, `(K,)`; zeros are impossible (`kept`)."""
        in_range = (self.weight > LOW) & (self.weight < HIGH)
        return in_range | (self.weight == 0)

    def costs(self, plan: ChartPlan) -> tuple[Array, Array]:
        """What a token costs in nats, where it stands, `(N,)`, and the largest cell.

        The cost is that per token of the longest span that covers it and did not
        underflow, -log of its largest cell; the mean over such spans.
        """
        n, low = len(self.leaves), dict(plan.shortest)
        bands = [(low[a], c) for a, c in self.cells.items() if c.size]
        longest = max((k + len(c) for k, c in bands), default=2)
        best = jnp.zeros((longest, n))
        for k, c in [(1, self.leaves.max(-1)[None]), *bands]:
            rest = ((k, longest - k - len(c)), (0, n - c.shape[1]))
            best = jnp.maximum(best, jnp.pad(c, rest))

        def cover(span: Array, cost: Array) -> Array:
            seen = (best[span] > LOW) & jnp.isfinite(best[span])
            each = jnp.where(seen, -jnp.log(jnp.where(seen, best[span], 1.0)) / span, 0)
            sums = jnp.pad(jnp.cumsum(jnp.stack([seen, each]), 1), ((0, 0), (n, 0)))
            many, all_ = sums[:, n:] - lax.dynamic_slice(sums, (0, n - span), (2, n))
            return jnp.where(many > 0, all_ / jnp.maximum(many, 1), cost)

        return lax.fori_loop(1, len(best), cover, jnp.zeros(n)), best.max()


def weighed(
    plan: ChartPlan,
    w: Array,
    n: Array,
    factors: Mapping[int, Array] | None = None,
    rules: Array | None = None,
) -> tuple[Float[Array, ""], Totals]:
    """Z of one string, and what tells whether it is exact."""
    chart = inside(plan, w, factors, rules=rules)
    z = total(plan, chart, n)
    return z, Totals.of(plan, w, chart, z, n)


def at_any_scale(
    arrays: GrammarArrays,
    use: Callable[..., tuple[Any, Totals]],
    weights_of: Callable[..., Array],
    n_tokens: int,
    length: Int[Array, " B"],
    *rows: Array,
    by_level: bool = False,
) -> tuple[Any, Float[Array, " B"]]:
    """Results of `use` for many strings, however small their probabilities are.

    Weights of position i times e^g_i multiply a string's weight by e^G, G the sum of
    g_i, and change no posterior. A string is tried as it is, g = 0; where its weight is
    too small or too large, what its tokens cost is added to g, and it is tried again.
    A few strings at a time, as far as memory stays small.

    Args:
      arrays: the grammar.
      use: weights `(N, V)`, length, one of each of `rows` -> results and totals.
      weights_of: one of each of `rows` -> weights.
      n_tokens: N.
      length: tokens of each string.
      rows: what weights are made of, each with a leading axis of strings.
      by_level: which chart is filled.

    Returns:
      Results, NaN for a string that is exact at no scale, and G of each string.
    """
    plan = chart_plan(arrays, by_level=by_level)
    n = len(length)
    limit = max(platform().cells // max(plan.cells(n_tokens), 1), 1)
    chunks = max(-(-n // limit), 1)
    size = -(-n // chunks)

    def one(g: Array, n: Array, *row: Array) -> tuple[Any, Totals]:
        return use(weights_of(*row) * jnp.exp(g)[:, None], n, *row)

    def some(args: tuple[Array, ...]) -> tuple[Any, Array, Array]:
        g, n = args[:2]
        out, totals = jax.vmap(one)(*args)
        sound = (totals.exact | (totals.tokens > n[:, None])).all(1)

        def look() -> tuple[Array, Array]:
            cost, largest = jax.vmap(lambda t: t.costs(plan))(totals)
            done = sound & (largest < HIGH)
            valid = jnp.arange(n_tokens)[None, :] < n[:, None]
            return done, jnp.where(valid & ~done[:, None], cost, 0.0)

        # As they are, weights and so cells are 1 at most.
        plain = (g == 0).all() & sound.all()
        return out, *lax.cond(plain, lambda: (sound, jnp.zeros_like(g)), look)

    def split(x: Array) -> Array:
        return jnp.concatenate([x, x[:1].repeat(chunks * size - n, 0)]).reshape(
            chunks, size, *x.shape[1:]
        )

    @jax.jit  # traced once, for its shapes and in the loop
    def attempt(g: Array) -> tuple[Any, Array, Array]:
        made = lax.map(some, tuple(map(split, (g, length, *rows))))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], made)

    def unfinished(state: tuple[Any, ...]) -> Array:
        count, _, (_, done, _) = state
        return (count < ATTEMPTS) & ~done.all()

    def where(done: Array, yes: Any, no: Any) -> Any:
        """String by string, leaf by leaf."""
        return jax.tree.map(
            lambda a, b: jnp.where(done.reshape(-1, *[1] * (a.ndim - 1)), a, b), yes, no
        )

    def again(state: tuple[Any, ...]) -> tuple[Any, ...]:
        count, g, old = state
        g = g + old[2]
        return count + 1, g, where(old[1], old, attempt(g))

    zero = jnp.zeros((n, n_tokens))
    nothing = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(attempt, zero)
    )
    first = (jnp.int32(0), zero, nothing)
    _, g, (out, done, _) = lax.while_loop(unfinished, again, first)
    unknown = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), out)
    return where(done, out, unknown), g.sum(1)


def shares(x: Array, valid: Array) -> Array:
    """Divided by its sum over the last axis; 0 where not valid."""
    safe = jnp.where(valid[..., None], x, 1.0)
    return jnp.where(valid[..., None], x / safe.sum(-1, keepdims=True), 0.0)


def gradients(
    arrays: GrammarArrays,
    weights_of: Callable[..., Array],
    n_tokens: int,
    length: Int[Array, " B"],
    *rows: Array,
    pick: Callable[..., Array] = lambda slope, *_: slope,
) -> Array:
    """What `pick` takes of dZ/dw and a row, at a scale of its string's own."""
    slope_of = jax.grad(partial(weighed, chart_plan(arrays)), has_aux=True)

    def use(w: Array, n: Array, *row: Array) -> tuple[Array, Totals]:
        slope, totals = slope_of(w, n)
        return pick(slope, *row), totals

    return at_any_scale(arrays, use, weights_of, n_tokens, length, *rows)[0]


def _valid(weights: Array, length: Array) -> Array:
    """Which positions are inside their strings, `(B, N)`."""
    return jnp.arange(weights.shape[1])[None, :] < length[:, None]


@in_float64
@partial(jax.jit, static_argnums=0)
def log_evidence(
    arrays: GrammarArrays, weights: Float[Array, "B N V"], length: Int[Array, " B"]
) -> Float[Array, " B"]:
    """Log of the sum over strings of the length of P(string) prod_i w_i(x_i), in nats.

    -inf where the evidence is impossible.
    """
    plan = chart_plan(arrays)

    def use(w: Array, n: Array, _: Array) -> tuple[Array, Totals]:
        return weighed(plan, w, n)

    z, g = at_any_scale(arrays, use, largest_one, weights.shape[1], length, weights)
    top = weights.max(-1)
    taken = jnp.log(jnp.where((top > 0) & _valid(weights, length), top, 1.0))
    return jnp.log(z) - g + taken.sum(1)


def largest_one(w: Float[Array, "N V"]) -> Float[Array, "N V"]:
    """Weights with largest entry 1 at each position."""
    top = w.max(-1, keepdims=True)
    return w / jnp.where(top > 0, top, 1.0)


@in_float64
def log_probability(
    arrays: GrammarArrays, tokens: Int[Array, "B N"], length: Int[Array, " B"]
) -> Float[Array, " B"]:
    """Log probability of whole strings in nats, -inf for those that are none.

    Args:
      arrays: the grammar.
      tokens: terminals by number; anything after the end.
      length: tokens of each string.
    """
    known = jnp.ones(tokens.shape, bool)
    return log_evidence(arrays, observed(tokens, known, len(arrays.terminals)), length)


@in_float64
@partial(jax.jit, static_argnums=0)
def posterior(
    arrays: GrammarArrays, weights: Float[Array, "B N V"], length: Int[Array, " B"]
) -> Float[Array, "B N V"]:
    """P(x_i = a | all evidence); 0 after the end."""
    slopes = gradients(arrays, largest_one, weights.shape[1], length, weights)
    return shares(jax.vmap(largest_one)(weights) * slopes, _valid(weights, length))


@in_float64
@partial(jax.jit, static_argnums=0)
def leave_one_out(
    arrays: GrammarArrays, weights: Float[Array, "B N V"], length: Int[Array, " B"]
) -> Float[Array, "B N V"]:
    """P(x_i = a | all evidence but that at i itself); 0 after the end."""
    slopes = gradients(arrays, largest_one, weights.shape[1], length, weights)
    return shares(slopes, _valid(weights, length))


@in_float64
def predict_masked(
    arrays: GrammarArrays,
    tokens: Int[Array, "B N"],
    known: Bool[Array, "B N"],
    length: Int[Array, " B"],
) -> Float[Array, "B N V"]:
    """P(x_i = a | the other known tokens) at every position, known itself or not.

    The target of a masked token where hidden positions show nothing at all.

    Args:
      arrays: the grammar.
      tokens: terminals by number; read where known.
      known: which tokens are seen.
      length: tokens of each string.
    """
    weights = observed(tokens, known, len(arrays.terminals))
    return leave_one_out(arrays, weights, length)


@in_float64
def predict_corrupted(
    arrays: GrammarArrays,
    seen: Int[Array, "B N"],
    length: Int[Array, " B"],
    channel: Channel,
    *,
    hidden: Bool[Array, "B N"] | None = None,
) -> Float[Array, "B N V"]:
    """P(clean token at i | a corrupted string, i selected), at every position i.

    Position i is scored and so known to be selected. Of the others,

    - visible (`hidden` not given): all are seen, but not which were selected, so that
      a token seen may be a random one;
    - hidden: the selected ones are not seen at all (outside attention), the rest are
      clean; position i still sees its own corrupted token (the residual path). Read
      the result at selected positions.

    Args:
      arrays: the grammar.
      seen: terminals by number after corruption, V = `len(arrays.terminals)` for MASK.
      length: tokens of each string.
      channel: how they were corrupted.
      hidden: which positions were selected, if others cannot see them.
    """
    v = len(arrays.terminals)
    rows = (channel.selected(v), channel.unknown(v))
    clean = jnp.zeros(seen.shape, bool) if hidden is None else ~hidden
    weights, own = _corrupted(seen, clean, hidden is None, *rows)
    return _product(leave_one_out(arrays, weights, length), own, length)


@jax.jit
def _corrupted(
    seen: Array, clean: Array, visible: Array, selected: Array, unknown: Array
) -> tuple[Array, Array]:
    """Leaf weights of the context, and of each position's own token."""
    v = selected.shape[1]
    number = jnp.clip(seen, 0, v)
    return (
        jnp.where(visible, unknown[number], observed(seen, clean, v)),
        selected[number],
    )


@jax.jit
def _product(p: Array, own: Array, length: Array) -> Array:
    return shares(p * own, jnp.arange(p.shape[1])[None, :] < length[:, None])
