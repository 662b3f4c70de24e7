"""Teacher logits to target probabilities, and numbers annealed along the stream."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from sandbox.types import Array


def soften(
    logits: Float[Array, "*n C"], tau: Float[Array, "*n"]
) -> Float[Array, "*n C"]:
    """softmax(logits / tau), with tau = 0 the one-hot argmax (lowest class on ties)."""
    hard = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=logits.dtype)
    safe = jnp.where(tau == 0, 1.0, tau)[..., None]
    below = logits - jnp.max(logits, -1, keepdims=True)  # no overflow for tiny tau
    return jnp.where((tau == 0)[..., None], hard, jax.nn.softmax(below / safe, -1))


def log_soften(
    logits: Float[Array, "*n C"], tau: Float[Array, "*n"]
) -> Float[Array, "*n C"]:
    """Log softmax(logits / tau) for tau > 0, finite wherever the logits are."""
    below = logits - jnp.max(logits, -1, keepdims=True)  # no NaN for tiny tau
    info = jnp.finfo(logits.dtype)
    scaled = below / jnp.maximum(tau, info.tiny)[..., None]
    return jax.nn.log_softmax(jnp.maximum(scaled, info.min / 2), -1)


def annealed(
    start: Float[Array, " L"],
    end: Float[Array, " L"],
    over: Shaped[Array, " L"],
    t: Shaped[Array, " R"],
) -> Float[Array, "R L"]:
    """Moves from start to end as min(t / over, 1); a row a sample, a column a lane."""
    ramp = jnp.minimum(t.astype(start.dtype)[:, None] / over[None, :], 1.0)
    return start[None, :] + (end - start)[None, :] * ramp
