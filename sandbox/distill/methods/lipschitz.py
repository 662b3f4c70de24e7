r"""How much answers move with features, in batches: after LONDON (arXiv 2108.12905).

    Lipschitz   (|T_S| / |T_T| - 1)^2

|T| is the spectral norm of the mean outer product of features and answers; every row
gets the batch's value.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from sandbox.distill.losses import Answers
from sandbox.distill.methods.batchwise import Batchwise
from sandbox.distill.methods.features import last
from sandbox.types import Array, Params


@dataclass(frozen=True, kw_only=True)
class Lipschitz(Batchwise):
    """How much answers move with features, by the spectral norm."""

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The batch's value, at every row."""
        s = last((out.acts or {})[self.layer], out.logits)
        theirs, own = (spectral(h, z) for h, z in (sup, (s, out.logits)))
        gap = (own / jnp.maximum(theirs, 1e-12) - 1) ** 2
        return jnp.broadcast_to(self.weight * gap, out.logits.shape[:-1])


def spectral(h: Array, z: Array) -> Array:
    """Largest singular value of mean_i h_i z_i^T."""
    rows_h, rows_z = (a.reshape(-1, a.shape[-1]) for a in (h, z))
    m = jnp.dot(rows_h.T, rows_z, precision="highest") / len(rows_h)
    gram = jnp.dot(m.T, m, precision="highest")
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(gram)[-1], 1e-24))
