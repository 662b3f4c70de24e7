r"""Linear read-outs of hidden states, plain and through attention over positions.

Pure functions of weights; what trains them is `sandbox.probes.nonterminals`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from sandbox.types import Array, Params

_einsum = partial(jnp.einsum, precision="highest")


def linear(
    weights: Params, h: Float[Array, "B N E"], valid: Bool[Array, "B N"]
) -> Float[Array, "B N O"]:
    """Logits from each position's own hidden state."""
    return _einsum("bne,eo->bno", h, weights["w"]) + weights["b"][None, None]


def attention(
    weights: Params, h: Float[Array, "B N E"], valid: Bool[Array, "B N"]
) -> Float[Array, "B N O"]:
    """Logits from all hidden states, weighted by positions alone."""
    p = weights["p"]
    score = _einsum("rip,rjp->rij", p, p)
    a = jnp.exp(score - jax.lax.stop_gradient(score.max(-1, keepdims=True)))
    seen = valid.astype(h.dtype)
    v = _einsum("bje,reo->brjo", h, weights["w"]) + weights["b"][None, :, None]
    total = _einsum("rij,bj->bri", a, seen) + 1e-20
    mixed = _einsum("rij,brjo->brio", a, v * seen[:, None, :, None])
    return jnp.sum(mixed / total[..., None], 1)


def cross_entropy(
    z: Float[Array, "J B N levels C"],
    y: Int[Array, "J B N levels"],
    exists: Bool[Array, "J 1 1 levels C"],
) -> Array:
    """Sum over jobs and levels of the mean over tokens, so that none holds another."""
    log_q = jax.nn.log_softmax(jnp.where(exists, z, -1e9), -1)
    # A product, as the gradient of a lookup adds in no fixed order on accelerators.
    nll = -jnp.sum(jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype) * log_q, -1)
    asked = (y >= 0).astype(z.dtype)
    each = jnp.sum(nll * asked, (1, 2)) / jnp.maximum(jnp.sum(asked, (1, 2)), 1)
    return jnp.sum(each)


def mean_ratio(
    name: str, hit: Float[Array, "B levels N"], groups: tuple[Array, ...]
) -> dict[str, Array]:
    """Mean over groups of (hits in it) / (tokens in it), and its standard error.

    Strings are independent, so to first order the error is that of a sum over strings
    of (hits - ratio tokens) / (all tokens). A group without tokens counts as ratio 0.
    """
    n = hit.shape[0]
    total = jnp.zeros(hit.shape[1], hit.dtype)
    share = jnp.zeros(hit.shape[:2], hit.dtype)
    for group in groups:
        hits, tokens = (hit * group).sum(-1), group.sum(-1)  # (B, levels)
        whole = jnp.maximum(tokens.sum(0), 1)
        ratio = hits.sum(0) / whole
        total = total + ratio / len(groups)
        share = share + (hits - ratio[None] * tokens) / (whole * len(groups))[None]
    error = jnp.sqrt(jnp.sum(share**2, 0) * (n / (n - 1)))
    return {name: total, f"{name}_se": error}
