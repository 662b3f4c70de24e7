r"""Attention with small heads on an NVIDIA GPU: three Triton kernels, no N x N array.

The same numbers as `sandbox.models.attention`, to rounding: scores of a tile of queries
and keys are made in registers, forward with a running maximum and sum, backward from
the stored logarithm of each query's sum. With l_i that logarithm, D_i = out_i . d_out_i
and p_ij = exp(s_ij - l_i), dropped entries as in `sandbox.models.dropout`,

    d_v_j = sum_i drop(p)_ij d_out_i        d_s_ij = p_ij (drop(d_out_i . v_j) - D_i)
    d_q_i = sum_j d_s_ij k_j                d_k_j  = sum_i d_s_ij q_i

Sums run in one order, so results are the same every time. Head sizes are padded to 16,
the least of a matrix product. Never run on a GPU yet, only compiled for one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from sandbox.models.dropout import kept
from sandbox.platforms import platform
from sandbox.types import Array

HIDDEN = -1e30
"""Score of a key that may not be attended to."""
FLOOR = -1e29
"""The largest score of a query is taken to be at least this: all hidden gives 0."""
TILE, WARPS, LARGEST = 64, 4, 64
"""Queries and keys of a tile, warps of a program, and the largest size of a head."""


class Shape(NamedTuple):
    """What must be known before tracing.

    Attributes:
      n: positions N.
      d: size of a head; `width` with padding.
      width: a power of 2 from 16.
      heads: of a sentence.
      causal: whether a query sees only keys at or before its own position.
      rate: probability that a weight is dropped.
      half: products with bfloat16 factors.
    """

    n: int
    d: int
    width: int
    heads: int
    causal: bool
    rate: float
    half: bool


class Tile(NamedTuple):
    """Reads and writes the rows `at` of one head of one sentence."""

    shape: Shape
    head: Array
    at: Array

    def rows(self, ref: Any) -> Array:
        """`(tile, width)` of `(B H, N, D)`, 0 beyond."""
        return plt.load(self._of(ref), mask=self._mask(), other=0.0)

    def write(self, ref: Any, value: Array) -> None:
        """The inverse of `rows`."""
        plt.store(self._of(ref), value, mask=self._mask())

    def numbers(self, ref: Any, other: Any, *, sentence: bool = False) -> Array:
        """`(tile,)` of `(B H, N)`, or of `(B, N)`."""
        first = self.head // self.shape.heads if sentence else self.head
        return plt.load(
            ref.at[first, self.at], mask=self.at < self.shape.n, other=other
        )

    def _columns(self) -> Array:
        return jnp.arange(self.shape.width)

    def _of(self, ref: Any) -> Any:
        return ref.at[self.head, self.at[:, None], self._columns()[None, :]]

    def _mask(self) -> Array:
        inside = (self.at < self.shape.n)[:, None]
        return inside & (self._columns() < self.shape.d)[None, :]


def _dot(s: Shape, a: Array, b: Array) -> Array:
    if s.half:
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    precision = None if s.half else lax.Precision.HIGHEST
    return plt.dot(a, b, precision=precision)


def _scores(
    s: Shape, q: Array, k: Array, rows: Tile, keys: Tile, visible: Any
) -> Array:
    """`(queries, keys)`, `HIDDEN` where not allowed."""
    seen = keys.numbers(visible, 0, sentence=True) != 0
    allowed = jnp.broadcast_to(seen[None, :], (TILE, TILE))
    if s.causal:
        allowed &= keys.at[None, :] <= rows.at[:, None]
    return jnp.where(allowed, _dot(s, q, k.T), HIDDEN)


def _drop(s: Shape, p: Array, rows: Array, columns: Array) -> Array:
    if s.rate == 0:
        return p
    keep, scale = kept(rows[:, None] + columns[None, :], s.rate)
    return jnp.where(keep, p * scale, 0.0)


def _own(s: Shape) -> Tile:
    """The tile of this program, whose grid is (tiles, sentences and heads)."""
    at = pl.program_id(0) * TILE + jnp.arange(TILE)
    return Tile(s, pl.program_id(1), at)


def _others(own: Tile, i: Array) -> Tile:
    return own._replace(at=i * TILE + jnp.arange(TILE))


def _forward(s: Shape, q, k, v, visible, row_words, column_words, out, log_sum) -> None:
    own = _own(s)
    q_i, words = own.rows(q), own.numbers(row_words, jnp.uint32(0))

    def step(t: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top, total, sums = carry
        keys = _others(own, t)
        scores = _scores(s, q_i, keys.rows(k), own, keys, visible)
        higher = jnp.maximum(top, scores.max(1))
        p, shrunk = jnp.exp(scores - higher[:, None]), jnp.exp(top - higher)
        total = total * shrunk + p.sum(1)
        p = _drop(s, p, words, keys.numbers(column_words, jnp.uint32(0)))
        return higher, total, sums * shrunk[:, None] + _dot(s, p, keys.rows(v))

    start = (
        jnp.full(TILE, FLOOR, jnp.float32),
        jnp.zeros(TILE, jnp.float32),
        jnp.zeros((TILE, s.width), jnp.float32),
    )
    top, total, sums = lax.fori_loop(0, pl.cdiv(s.n, TILE), step, start)
    total = jnp.where(total > 0, total, 1.0)
    own.write(out, sums / total[:, None])
    plt.store(log_sum.at[own.head, own.at], top + jnp.log(total), mask=own.at < s.n)


def _to_queries(
    s: Shape, q, k, v, visible, row_words, column_words, log_sum, slope, d_out, d_q
) -> None:
    own = _own(s)
    q_i, d_i, words = (
        own.rows(q),
        own.rows(d_out),
        own.numbers(row_words, jnp.uint32(0)),
    )
    log_i, slope_i = own.numbers(log_sum, 0.0), own.numbers(slope, 0.0)

    def step(t: Array, sums: Array) -> Array:
        keys = _others(own, t)
        k_j = keys.rows(k)
        scores = _scores(s, q_i, k_j, own, keys, visible)
        p = jnp.exp(scores - log_i[:, None])
        d_p = _dot(s, d_i, keys.rows(v).T)
        d_p = _drop(s, d_p, words, keys.numbers(column_words, jnp.uint32(0)))
        return sums + _dot(s, p * (d_p - slope_i[:, None]), k_j)

    zero = jnp.zeros((TILE, s.width), jnp.float32)
    own.write(d_q, lax.fori_loop(0, pl.cdiv(s.n, TILE), step, zero))


def _to_keys(
    s: Shape, q, k, v, visible, row_words, column_words, log_sum, slope, d_out, d_k, d_v
) -> None:
    own = _own(s)
    k_j, v_j, words = own.rows(k), own.rows(v), own.numbers(column_words, jnp.uint32(0))

    def step(t: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        rows = _others(own, t)
        q_i, d_i = rows.rows(q), rows.rows(d_out)
        scores = _scores(s, q_i, k_j, rows, own, visible)
        p = jnp.exp(scores - rows.numbers(log_sum, 0.0)[:, None])
        own_words = rows.numbers(row_words, jnp.uint32(0))
        d_p = _drop(s, _dot(s, d_i, v_j.T), own_words, words)
        d_s = p * (d_p - rows.numbers(slope, 0.0)[:, None])
        d_v = _dot(s, _drop(s, p, own_words, words).T, d_i)
        return sums[0] + _dot(s, d_s.T, q_i), sums[1] + d_v

    zero = jnp.zeros((TILE, s.width), jnp.float32)
    sums = lax.fori_loop(0, pl.cdiv(s.n, TILE), step, (zero, zero))
    own.write(d_k, sums[0])
    own.write(d_v, sums[1])


def _run(
    kernel: Callable[..., None], s: Shape, shapes: tuple[Any, ...], *args: Array
) -> Any:
    # In interpret mode off the GPU, which is for tests alone.
    how: dict[str, Any] = {"interpret": True}
    if platform().triton:
        how = {"compiler_params": plt.CompilerParams(num_warps=WARPS, num_stages=2)}
    grid = (pl.cdiv(s.n, TILE), args[0].shape[0])
    return pl.pallas_call(partial(kernel, s), grid=grid, out_shape=shapes, **how)(*args)


def _flat(a: Array) -> Array:
    return a.reshape(-1, *a.shape[2:])


def forward(
    static: Any, mask: Any, q: Array, k: Array, v: Array
) -> tuple[Array, Array]:
    """Outputs `(B, H, N, D)` and logarithms of the sums `(B, H, N)`."""
    s, inputs = _inputs(static, mask, q, k, v)
    like = jax.ShapeDtypeStruct
    rows, numbers = inputs[0].shape, inputs[0].shape[:2]
    out = _run(_forward, s, (like(rows, q.dtype), like(numbers, q.dtype)), *inputs)
    return out[0].reshape(q.shape), out[1].reshape(q.shape[:-1])


def backward(
    static: Any, mask: Any, q: Array, k: Array, v: Array, *saved: Array
) -> tuple[Array, Array, Array]:
    """Gradients of q, k and v; `saved` is log_sum, slope and d_out."""
    s, inputs = _inputs(static, mask, q, k, v)
    given = (*inputs, *map(_flat, saved))
    like = jax.ShapeDtypeStruct(inputs[0].shape, q.dtype)
    (d_q,) = _run(_to_queries, s, (like,), *given)
    d_k, d_v = _run(_to_keys, s, (like, like), *given)
    return d_q.reshape(q.shape), d_k.reshape(q.shape), d_v.reshape(q.shape)


def _inputs(
    static: Any, mask: Any, q: Array, k: Array, v: Array
) -> tuple[Shape, tuple[Array, ...]]:
    b, h, n, d = q.shape
    width = max(16, 1 << (d - 1).bit_length())
    rate = static.rate if mask.rows.shape[-1] else 0.0
    shape = Shape(n, d, width, h, static.causal, rate, static.half)
    none = jnp.zeros((b * h, n), jnp.uint32)
    words = (_flat(w) if w.shape[-1] else none for w in (mask.rows, mask.columns))
    return shape, (*map(_flat, (q, k, v)), mask.visible.astype(jnp.int32), *words)
