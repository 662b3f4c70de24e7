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
evidence gives NaN, never a guess. Probabilities are linear, which holds to about 1,500
tokens.

Example:
    arrays = compile_grammar(load_grammar("cfg3b", start=("13", "14", "15")))
    strings = sample_strings(arrays, jax.random.key(0), 0, 64)
    p = predict_masked(arrays, strings.tokens, known, strings.length)
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Int

from sandbox.tasks.channel import Channel, observed
from sandbox.tasks.grammar_arrays import GrammarArrays
from sandbox.tasks.inside import ChartPlan, chart_plan, evidence
from sandbox.types import Array

CELLS_AT_ONCE = 60_000
"""Strings whose charts together hold about this many numbers are computed together."""


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


def map_strings(
    plan: ChartPlan, n_tokens: int, f: Callable[..., Any], *rows: Array
) -> Any:
    """`f` of one string each, a few of them at a time as far as memory stays small."""
    n = rows[0].shape[0]
    limit = max(CELLS_AT_ONCE // max(plan.cells(n_tokens), 1), 1)
    chunks = max(-(-n // limit), 1)
    size = -(-n // chunks)
    rest = chunks * size - n

    def pad(x: Array) -> Array:
        return jnp.concatenate([x, x[:1].repeat(rest, 0)]) if rest else x

    many = tuple(pad(x) for x in rows)
    out = lax.map(lambda row: f(*row), many, batch_size=size)
    return jax.tree.map(lambda x: x[:n], out)


def scaled_weights(
    weights: Float[Array, "B N V"], length: Int[Array, " B"]
) -> tuple[Float[Array, "B N V"], Float[Array, " B"]]:
    """Weights with largest entry 1 at each position, and the log of what was taken."""
    weights = jnp.asarray(weights, float)
    top = weights.max(-1)
    top = jnp.where(top > 0, top, 1.0)
    inside_string = jnp.arange(weights.shape[1])[None, :] < length[:, None]
    taken = jnp.where(inside_string, jnp.log(top), 0.0).sum(1)
    return weights / top[..., None], taken


def shares(x: Array, valid: Array) -> Array:
    """Divided by its sum over the last axis; 0 where not valid."""
    safe = jnp.where(valid[..., None], x, 1.0)
    return jnp.where(valid[..., None], x / safe.sum(-1, keepdims=True), 0.0)


def _gradients(
    arrays: GrammarArrays, weights: Array, length: Array
) -> tuple[Array, Array]:
    """dZ/dw and which positions are inside their strings."""
    plan = chart_plan(arrays)
    slope = jax.grad(partial(evidence, plan))
    grads = map_strings(plan, weights.shape[1], slope, weights, length)
    return grads, jnp.arange(weights.shape[1])[None, :] < length[:, None]


@in_float64
@partial(jax.jit, static_argnums=0)
def log_evidence(
    arrays: GrammarArrays, weights: Float[Array, "B N V"], length: Int[Array, " B"]
) -> Float[Array, " B"]:
    """Log of the sum over strings of the length of P(string) prod_i w_i(x_i), in nats.

    -inf where the evidence is impossible.
    """
    plan = chart_plan(arrays)
    scaled, taken = scaled_weights(weights, length)
    z = map_strings(plan, weights.shape[1], partial(evidence, plan), scaled, length)
    return jnp.log(z) + taken


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
    scaled, _ = scaled_weights(weights, length)
    grads, valid = _gradients(arrays, scaled, length)
    return shares(scaled * grads, valid)


@in_float64
@partial(jax.jit, static_argnums=0)
def leave_one_out(
    arrays: GrammarArrays, weights: Float[Array, "B N V"], length: Int[Array, " B"]
) -> Float[Array, "B N V"]:
    """P(x_i = a | all evidence but that at i itself); 0 after the end."""
    scaled, _ = scaled_weights(weights, length)
    return shares(*_gradients(arrays, scaled, length))


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
