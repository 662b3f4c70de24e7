r"""Which context the exact predictor uses, and how well it can do.

At a masked position i of a string x let p be the prediction with only i masked, and let
W be the n-gram window around i (`windows`). Then

    M_robust(n) = TV(p, prediction with the tokens of W masked as well)
    M_close(n)  = TV(p, prediction with all tokens outside W masked)

with TV(p, q) = 1/2 sum_a |p(a) - q(a)| (Panigrahi et al., arXiv 2410.05464, whose code
reports the L1 norm, twice as much). A masked token shows nothing; length and absolute
position are known. The second prediction is the best one that sees n-grams only.

The accuracy ceiling of masked-token prediction is the mean of max_a P(x_i = a | what is
seen) over scored positions; no model does better on average.

Example:
    arrays = compile_grammar(load_grammar("cfg3b", start=("13", "14", "15")))
    accuracy_ceiling(arrays, jax.random.key(0), 512, Channel(rate=0.3), hidden=True)
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from sandbox.errors import require
from sandbox.tasks.bayes import (
    gradients,
    in_float64,
    predict_corrupted,
    predict_masked,
    shares,
)
from sandbox.tasks.channel import Channel, observed
from sandbox.tasks.grammar_arrays import GrammarArrays
from sandbox.tasks.grammar_sampler import Strings, sample_strings
from sandbox.tasks.windows import window_mask
from sandbox.types import Array

ROWS = 64
"""Strings at a time."""
LONG_ROWS, LONG = 8, 200
"""How many where context is measured on strings of more than so many tokens."""


class Ceiling(NamedTuple):
    """A ratio estimate with the string as the unit of sampling.

    Attributes:
      accuracy: mean over scored positions of the largest posterior.
      standard_error: of the Monte-Carlo average over strings.
      strings: how many were drawn.
      scored: positions that entered.
    """

    accuracy: float
    standard_error: float
    strings: int
    scored: int


def total_variation(
    p: Float[Array, "*B V"], q: Float[Array, "*B V"]
) -> Float[Array, "*B"]:
    """1/2 sum_a |p(a) - q(a)|, in [0, 1]."""
    return 0.5 * abs(p - q).sum(-1)


@in_float64
@partial(jax.jit, static_argnums=0)
def predict_at(
    arrays: GrammarArrays,
    tokens: Int[Array, "B N"],
    known: Bool[Array, "B K N"],
    length: Int[Array, " B"],
    positions: Int[Array, "B K"],
) -> Float[Array, "B K V"]:
    """P(x_i = a | known tokens other than i) for K questions about each string.

    Args:
      arrays: the grammar.
      tokens: terminals by number.
      known: which tokens each question may see; that at i is never seen.
      length: tokens of each string.
      positions: i of each question; 0 is returned for those after the end.
    """
    v, k, n_tokens = len(arrays.terminals), positions.shape[1], tokens.shape[1]
    slopes = gradients(
        arrays,
        lambda row, see, _: observed(row, see, v),
        n_tokens,
        length.repeat(k),
        tokens.repeat(k, 0),
        known.reshape(-1, n_tokens),
        jnp.clip(positions, 0, n_tokens - 1).reshape(-1),
        pick=lambda slope, _row, _see, i: slope[i],
    ).reshape(*positions.shape, v)
    return shares(slopes, (positions >= 0) & (positions < length[:, None]))


def predict_without_window(
    arrays: GrammarArrays,
    tokens: Int[Array, "B N"],
    length: Int[Array, " B"],
    positions: Int[Array, "B K"],
    n: int,
) -> Float[Array, "B K V"]:
    """Predictions at positions whose n-gram windows are masked."""
    known = ~window_mask(positions, n, tokens.shape[1])
    return predict_at(arrays, tokens, known, length, positions)


def predict_from_window(
    arrays: GrammarArrays,
    tokens: Int[Array, "B N"],
    length: Int[Array, " B"],
    positions: Int[Array, "B K"],
    n: int,
) -> Float[Array, "B K V"]:
    """The n-gram-restricted optimal predictions: all tokens outside W are masked."""
    known = window_mask(positions, n, tokens.shape[1])
    return predict_at(arrays, tokens, known, length, positions)


def predict_alone(
    arrays: GrammarArrays,
    tokens: Int[Array, "B N"],
    length: Int[Array, " B"],
    positions: Int[Array, "B K"],
) -> Float[Array, "B K V"]:
    """Predictions at positions of which each is the only masked one."""
    known = jnp.ones(tokens.shape, bool)
    p = predict_masked(arrays, tokens, known, length)
    at = jnp.clip(positions, 0, tokens.shape[1] - 1)
    return jnp.take_along_axis(p, at[..., None], 1)


def m_robust(
    arrays: GrammarArrays,
    tokens: Int[Array, "B N"],
    length: Int[Array, " B"],
    positions: Int[Array, "B K"],
    n: int,
) -> Float[Array, "B K"]:
    """How far masking the n-gram window moves the exact prediction, in [0, 1]."""
    p = predict_alone(arrays, tokens, length, positions)
    return total_variation(
        p, predict_without_window(arrays, tokens, length, positions, n)
    )


def m_close(
    arrays: GrammarArrays,
    tokens: Int[Array, "B N"],
    length: Int[Array, " B"],
    positions: Int[Array, "B K"],
    n: int,
) -> Float[Array, "B K"]:
    """How far the exact prediction is from the best one of n-grams, in [0, 1]."""
    p = predict_alone(arrays, tokens, length, positions)
    return total_variation(p, predict_from_window(arrays, tokens, length, positions, n))


def accuracy_ceiling(
    arrays: GrammarArrays,
    key: Array,
    strings: int,
    channel: Channel | None = None,
    *,
    hidden: bool = False,
) -> Ceiling:
    """The best accuracy there is, estimated from fresh strings.

    Args:
      arrays: the grammar.
      key: of the strings and their corruption.
      strings: how many to draw; rounded up to whole batches of 64 or fewer.
      channel: how strings are corrupted, scored at the selected positions; without
        one, every position is scored with that position alone masked.
      hidden: whether selected positions are hidden from the others
        (`predict_corrupted`).

    Raises:
      ConfigError: there is nothing to draw.
    """
    require(strings > 0, f"a ceiling needs at least 1 string, got {strings}.")
    require(
        channel is None or channel.rate > 0,
        "a ceiling needs scored positions, but channel.rate is 0; leave the channel"
        " out to score each position with itself alone masked.",
    )
    rows = min(ROWS, strings)
    k_strings, k_channel = jax.random.split(key)
    sums: list[np.ndarray] = []
    for i in range(-(-strings // rows)):
        drawn = draw_strings(arrays, k_strings, i * rows, rows)
        best, scored = _best(
            arrays, drawn, jax.random.fold_in(k_channel, i), channel, hidden
        )
        sums.append(np.stack([np.where(scored, best, 0).sum(1), scored.sum(1)]))
    best, scored = np.concatenate(sums, 1)
    accuracy = best.sum() / max(scored.sum(), 1)
    spread = best - accuracy * scored
    error = np.sqrt((spread**2).sum() / max(len(spread) - 1, 1) * len(spread))
    return Ceiling(
        float(accuracy),
        float(error / max(scored.sum(), 1)),
        len(spread),
        int(scored.sum()),
    )


def _best(
    arrays: GrammarArrays,
    drawn: Strings,
    key: Array,
    channel: Channel | None,
    hidden: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Largest posterior and whether scored, of every position."""
    valid = np.asarray(drawn.valid)
    if channel is None:
        p = predict_masked(arrays, drawn.tokens, drawn.valid, drawn.length)
        return np.asarray(p.max(-1)), valid
    seen, selected = channel.corrupt(key, drawn.tokens, len(arrays.terminals))
    out = selected if hidden else None
    p = predict_corrupted(arrays, seen, drawn.length, channel, hidden=out)
    return np.asarray(p.max(-1)), valid & np.asarray(selected)


draw_strings = jax.jit(sample_strings, static_argnums=(0, 3))
"""`sample_strings`, jitted."""


def context_use(
    arrays: GrammarArrays, key: Array, n: int, windows: tuple[int, ...], stride: int
) -> np.ndarray:
    """How far masking moves the exact prediction at masked tokens, `(2, W, tokens)`.

    Args:
      arrays: the grammar.
      key: of the strings.
      n: how many strings; rounded up to whole batches.
      windows: sizes of the n-gram windows, masked as well (first row) or the only
        tokens that are not (second row).
      stride: of the positions stride - 1, 2 stride - 1, ... that are measured.
    """
    longest = arrays.longest
    rows = min(LONG_ROWS if longest > LONG else ROWS, n)
    at = np.arange(stride - 1, longest, stride)
    positions = jnp.asarray(np.broadcast_to(at, (rows, len(at))))
    shape = (rows, len(at), longest)
    masks = np.stack([window_mask(at, n, longest) for n in windows])
    out = []
    for t0 in range(0, n, rows):
        drawn = draw_strings(arrays, key, t0, rows)

        def predict(known: np.ndarray, drawn: Strings = drawn) -> Array:
            see = jnp.asarray(np.broadcast_to(known, shape))
            return predict_at(arrays, drawn.tokens, see, drawn.length, positions)

        alone = predict(np.ones(shape, bool))
        used = at[None, :] < np.asarray(drawn.length)[:, None]
        moved = [
            [np.asarray(total_variation(alone, predict(m)))[used] for m in seen]
            for seen in (~masks, masks)
        ]
        out.append(np.asarray(moved))
    return np.concatenate(out, -1)
