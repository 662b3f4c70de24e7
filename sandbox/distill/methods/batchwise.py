r"""Losses on rows together, which need batches of many rows.

    Relations   KL between softmax(-|f_i - f_j|^2 / tau) over j of teacher and student,
                f of length 1: the first stage of REFILLED (arXiv 2205.01915), over all
                other rows in place of semi-hard tuples
    Centres     KL between softmax(f_i . c / tau) over the classes that the batch has,
                c the mean of the teacher's features in each, and softmax(z_S / tau)
                over the same: its second stage, beside labels

Every row gets its own part of the batch's value.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.losses import Answers, Taught
from sandbox.distill.methods.features import OfLayer, last
from sandbox.store.bounds import MoreThan
from sandbox.types import Array, Params


class Batchwise(OfLayer):
    """A loss on features and answers of the batch."""

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The teacher's features and answers."""
        assert taught is not None
        h = last((taught.answers.acts or {})[self.teacher_layer], label)
        return h, taught.answers.logits


@dataclass(frozen=True, kw_only=True)
class Relations(Batchwise):
    """Which rows are alike.

    Attributes:
      tau: temperature of the distances.
    """

    tau: Annotated[float, MoreThan(0)] = 0.5

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The divergence of each row."""
        s = last((out.acts or {})[self.layer], out.logits)
        log_p, log_q = (
            self.log_likeness(h.reshape(-1, h.shape[-1])) for h in (sup[0], s)
        )
        gap = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
        return self.weight * gap.reshape(s.shape[:-1])

    def log_likeness(self, h: Array) -> Array:
        """Log probabilities `(B, B)` of the other rows, those of itself near 0."""
        unit = h / jnp.sqrt(jnp.maximum(jnp.sum(h * h, -1, keepdims=True), 1e-12))
        distance = 2 - 2 * jnp.dot(unit, unit.T, precision="highest")
        own = 1e6 * jnp.eye(len(h), dtype=h.dtype)
        return jax.nn.log_softmax(-(distance + own) / self.tau, -1)


@dataclass(frozen=True, kw_only=True)
class Centres(Batchwise):
    """Nearness to the centres of the classes that are there.

    Attributes:
      layer: none of the student's.
      tau: temperature of both sides.
    """

    layer: str = ""
    tau: Annotated[float, MoreThan(0)] = 2.0

    @property
    def taps(self) -> tuple[str, ...]:
        """Logits alone are read."""
        return ()

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The teacher's features and the labels."""
        return super().supervise(label, taught, numbers)[0], label

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The divergence of each row."""
        h, label = (a.reshape(-1, a.shape[-1]) for a in sup)
        n, z = jnp.sum(label, 0), out.logits.reshape(label.shape)
        rows = jnp.dot(label.T, h, precision="highest")
        centres = rows / jnp.maximum(n, 1)[:, None]
        near = jnp.dot(h, centres.T, precision="highest")
        log_p, log_q = (
            jax.nn.log_softmax(jnp.where(n[None] > 0, a / self.tau, -1e30), -1)
            for a in (near, z)
        )
        gap = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
        return self.weight * gap.reshape(out.logits.shape[:-1])
