r"""Soft cross-entropy from n classes drawn with replacement (arXiv 1812.00914).

    -sum_s p_s z_s / (n r_s) + log sum_s e^{z_s} / (n r_s)

r mixes a uniform law with one in proportion to |p - q|, as their dynamic importance
sampling does with Laplace laws over ranks of it; the first sum is unbiased, the
logarithm is not.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.losses import Answers, Objective, Taught
from sandbox.store.bounds import AtLeast, Within, check_fields
from sandbox.types import Array, Params

_KEY = 11  # of draws that no seed decides: rows and steps do


@dataclass(frozen=True, kw_only=True)
class Sampled(Objective):
    """Soft cross-entropy to the target from some classes.

    Attributes:
      n: draws; 0 takes every class once, which is the whole loss.
      uniform: share of the uniform law.
    """

    n: Annotated[int, AtLeast(0)] = 0
    uniform: Annotated[float, Within(0, 1, "(]")] = 0.5

    on_logits = True
    shift_free = True

    def __post_init__(self) -> None:
        """Refuses laws that leave classes out."""
        check_fields(self, "loss")

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The target, and uniform numbers for the draws."""
        assert taught is not None and taught.t is not None
        if not self.n:
            return taught.p, jnp.zeros((*taught.t.shape, 0), taught.p.dtype)
        keys = jax.vmap(lambda t: jax.random.fold_in(jax.random.key(_KEY), t))
        each = jax.vmap(lambda k: jax.random.uniform(k, (self.n,)))
        draws = each(keys(taught.t.reshape(-1)))
        return taught.p, draws.reshape(*taught.t.shape, self.n).astype(taught.p.dtype)

    def law(self, p: Array, q: Array) -> Array:
        """Probabilities r of the classes."""
        gap = jnp.abs(p - q) + 1e-12
        own = gap / jnp.sum(gap, -1, keepdims=True)
        return self.uniform / p.shape[-1] + (1 - self.uniform) * own

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The loss of each row."""
        (p, draws), z = sup, out.logits
        if not self.n:
            return jax.nn.logsumexp(z, -1) - jnp.sum(p * z, -1)
        r = jax.lax.stop_gradient(self.law(p, jax.nn.softmax(z, -1)))
        reached = jnp.cumsum(r, -1)[..., None, :] < draws[..., None]
        at = jnp.minimum(jnp.sum(reached, -1), z.shape[-1] - 1)
        z_n, p_n, r_n = (jnp.take_along_axis(a, at, -1) for a in (z, p, r))
        whole = jax.nn.logsumexp(z_n - jnp.log(self.n * r_n), -1)
        return whole - jnp.sum(p_n * z_n / (self.n * r_n), -1)
