r"""The teacher's last layer reads the student: srdL (arXiv 2205.06701).

    OwnHead   |s - t|^2 / n + |(s W + b) - z_T|^2 / C

s, t are the features of student (through a trained matrix) and teacher, W, b the last
layer, read off the teacher's answers to held-out rows by least squares. No labels are
needed, so that rows of another task can teach (`Mix`).
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from sandbox.distill.losses import Answers, Taught
from sandbox.distill.methods.features import Matched, last
from sandbox.distill.targets import Known
from sandbox.types import Array, Params


@dataclass(frozen=True, kw_only=True)
class OwnHead(Matched):
    """The teacher's features, and its answers by its own last layer."""

    def statistics(self, known: Known) -> Any:
        """The last layer `(n + 1, C)`, its bias last."""
        h = last((known.acts or {})[self.teacher_layer], known.logits)
        one = jnp.ones((len(h), 1), h.dtype)
        return jnp.linalg.lstsq(jnp.concatenate([h, one], 1), known.logits)[0]

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """Features, logits, and the last layer at every row."""
        assert taught is not None and taught.known is not None
        t = last((taught.answers.acts or {})[self.teacher_layer], label)
        head = taught.known.stats
        each = jnp.broadcast_to(head, (*t.shape[:-1], *head.shape))
        return t, taught.answers.logits, each

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The loss of each row."""
        (t, z, head), s = sup, self.mapped(out, aux)
        own = jnp.einsum("...n,...nc->...c", s, head[..., :-1, :], precision="highest")
        own = own + head[..., -1, :]
        return self.weight * (jnp.mean((s - t) ** 2, -1) + jnp.mean((own - z) ** 2, -1))
