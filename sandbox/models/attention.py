r"""Attention with hidden keys, and a backward pass that stores no weights.

    s_ij = q_i . k_j            (q scaled by 1/sqrt(D)); allowed where key j is visible
                                and, if causal, j <= i
    p_ij = exp(s_ij) / sum over allowed j of exp(s_ij)
    out_i = sum_j keep_ij p_ij v_j / (1 - rate)

A query none of whose keys is allowed gets zeros. Between the passes only `out` and the
logarithm of each query's sum are kept; weights are computed again from them.

At head size 8 the time goes into the passes over the N x N scores, not into products.
Long sequences on a CPU therefore run one (sentence, head) tile at a time, which stays
in a core's cache; everything else runs as one batch. Both give the same numbers: the
weights dropped are a hash of one random word per query and one per key, so they do not
depend on the order of the work and are never stored either.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, UInt

from sandbox.models import attention_kernel
from sandbox.models.attention_kernel import FLOOR, HIDDEN
from sandbox.models.dropout import drop
from sandbox.types import Array

HIGHEST = lax.Precision.HIGHEST


class Mask(NamedTuple):
    """What is allowed and what is dropped; the leading axes are those of the keys.

    Attributes:
      visible: keys that may be attended to.
      rows: a random word per query, `(..., Q)`; `(..., 0)` without dropout.
      columns: a random word per key, `(..., N)`, likewise.
    """

    visible: Bool[Array, "*batch N"]
    rows: UInt[Array, "*heads Q"]
    columns: UInt[Array, "*heads R"]


class Static(NamedTuple):
    """What must be known before tracing; fields as the arguments of `attend`."""

    causal: bool
    rate: float
    tiled: bool
    half: bool
    triton: bool


def attend(
    q: Float[Array, "B H Q D"],
    k: Float[Array, "B H N D"],
    v: Float[Array, "B H N W"],
    visible: Bool[Array, "B N"],
    *,
    causal: bool,
    words: UInt[Array, "B H 2 N"] | None = None,
    rate: float = 0.0,
    tiled: bool = False,
    half: bool = False,
    triton: bool = False,
) -> Float[Array, "B H Q W"]:
    """Weighted sums of the values.

    Args:
      q: queries of the last Q of the N positions, already scaled by 1/sqrt(D).
      k: keys.
      v: values.
      visible: keys that may be attended to.
      causal: whether a query sees only keys at or before its own position.
      words: random, for each position one as a query and one as a key; None drops no
        weights.
      rate: probability that a weight is dropped.
      tiled: one (sentence, head) at a time; moves no bit but those of rounding.
      half: products with bfloat16 factors and float32 sums.
      triton: in the kernels of `sandbox.models.attention_kernel`, for all queries.
    """
    if words is None or rate == 0:
        rate, words = 0.0, jnp.zeros((*q.shape[:2], 2, 0), jnp.uint32)
    mask = Mask(visible, words[:, :, 0, -q.shape[2] :], words[:, :, 1])
    return _attend(Static(causal, rate, tiled, half, triton), q, k, v, mask)


def attention_weights(
    q: Float[Array, "B H Q D"],
    k: Float[Array, "B H N D"],
    visible: Bool[Array, "B N"],
    *,
    causal: bool,
    half: bool = False,
) -> Float[Array, "B H Q N"]:
    """The weights themselves, without dropout; rows sum to 1, or 0 if all is hidden."""
    s = _scores(q, k, visible[:, None, :], causal=causal, half=half)
    top = lax.stop_gradient(jnp.maximum(s.max(-1, keepdims=True), FLOOR))
    p = jnp.exp(s - top)
    total = p.sum(-1, keepdims=True)
    return p / jnp.where(total > 0, total, 1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(static: Static, q: Array, k: Array, v: Array, mask: Mask) -> Array:
    return _save(static, q, k, v, mask)[0]


def _save(static: Static, q: Array, k: Array, v: Array, mask: Mask):
    if static.triton:
        out, log_sum = attention_kernel.forward(static, mask, q, k, v)
    else:
        out, log_sum = _mapped(static, _tile_forward, mask, q, k, v)
    return out, (q, k, v, mask, out, log_sum)


def _pull(static: Static, saved, d_out: Array):
    q, k, v, mask, out, log_sum = saved
    rest = (log_sum, jnp.sum(d_out * out, -1), d_out)
    if static.triton:
        return (*attention_kernel.backward(static, mask, q, k, v, *rest), None)
    return (*_mapped(static, _tile_backward, mask, q, k, v, *rest), None)


_attend.defvjp(_save, _pull)


def _mapped(static: Static, tile, mask: Mask, *arrays: Array):
    """`tile(static, mask, *arrays)` for all sentences and heads, or one by one."""
    b, h = arrays[0].shape[:2]
    n = mask.visible.shape[-1]
    mask = mask._replace(visible=jnp.broadcast_to(mask.visible[:, None], (b, h, n)))
    if not static.tiled:
        return tile(static, mask, *arrays)
    flat = jax.tree.map(lambda a: a.reshape(b * h, *a.shape[2:]), (mask, *arrays))
    out = lax.map(lambda args: tile(static, *args), flat)
    return jax.tree.map(lambda a: a.reshape(b, h, *a.shape[1:]), out)


def _tile_forward(static: Static, mask: Mask, q: Array, k: Array, v: Array):
    s = _scores(q, k, mask.visible, causal=static.causal, half=static.half)
    top = jnp.maximum(s.max(-1), FLOOR)
    p = jnp.exp(s - top[..., None])
    total = p.sum(-1)
    total = jnp.where(total > 0, total, 1)
    out = _dot(_drop(static, mask, p), v, "...qk,...kd->...qd", half=static.half)
    return out / total[..., None], top + jnp.log(total)


def _tile_backward(static: Static, mask: Mask, *arrays: Array):
    q, k, v, log_sum, slope, d_out = arrays
    dot = partial(_dot, half=static.half)
    s = _scores(q, k, mask.visible, causal=static.causal, half=static.half)
    p = jnp.exp(s - log_sum[..., None])
    d_v = dot(_drop(static, mask, p), d_out, "...qk,...qd->...kd")
    d_p = _drop(static, mask, dot(d_out, v, "...qd,...kd->...qk"))
    d_s = p * (d_p - slope[..., None])
    return dot(d_s, k, "...qk,...kd->...qd"), dot(d_s, q, "...qk,...qd->...kd"), d_v


def _scores(q: Array, k: Array, visible: Array, *, causal: bool, half: bool) -> Array:
    """`(..., Q, N)`, `HIDDEN` where not allowed."""
    s = _dot(q, k, "...qd,...kd->...qk", half=half)
    allowed = jnp.broadcast_to(visible[..., None, :], s.shape)
    if causal:
        allowed = jnp.tril(allowed, s.shape[-1] - s.shape[-2])
    return jnp.where(allowed, s, jnp.asarray(HIDDEN, s.dtype))


def _dot(a: Array, b: Array, formula: str, *, half: bool) -> Array:
    """An einsum over the last two axes; sums in the dtype of `a`."""
    dtype = a.dtype
    if half:
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jnp.einsum(formula, a, b, precision=HIGHEST, preferred_element_type=dtype)


def _drop(static: Static, mask: Mask, p: Array) -> Array:
    return drop(p, mask.rows, mask.columns, rate=static.rate) if static.rate else p
