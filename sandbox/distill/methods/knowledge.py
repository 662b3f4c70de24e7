r"""Which part of a teacher's target is kept: Tang et al. (arXiv 2002.03532).

With p the target, y the label, C classes and u uniform on the wrong ones:

    OwnWeight   p_y e_y + (1 - p_y) u              the instance's confidence alone
    Smooth      (1 - e) e_y + e u, e = E[1 - p_y]  label smoothing by as much
    TopK        the k largest of p; the rest flattened
    ClassMeans  E[p | y]                           relations of classes alone

Theirs takes relations from output weights, here they are means. At C = 2 OwnWeight
changes nothing, and ClassMeans depends on y alone.
"""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp

from sandbox.distill.targets import Known, Transform
from sandbox.store.bounds import AtLeast, check_fields
from sandbox.types import Array


def _on_label(own: Array, label: Array) -> Array:
    """`own` on the label, the rest spread over the wrong classes."""
    wrong = (1 - label) / (label.shape[-1] - 1)
    return own[..., None] * label + (1 - own)[..., None] * wrong


@dataclass(frozen=True)
class OwnWeight(Transform):
    """KD-pt: only the probability of the label is kept."""

    def apply(
        self, p: Array, logits: Array, label: Array, known: Known | None
    ) -> tuple[Array, None]:
        """The label's probability, and 1 - it spread evenly."""
        return _on_label(jnp.sum(p * label, -1), label), None


@dataclass(frozen=True)
class Smooth(Transform):
    """Label smoothing by what the teacher gives to wrong classes on average."""

    uses_known = True

    def apply(
        self, p: Array, logits: Array, label: Array, known: Known | None
    ) -> tuple[Array, None]:
        """The smoothed label."""
        assert known is not None and known.p is not None
        right = jnp.sum(known.p * known.label, -1)
        mean = jnp.sum(known.weight * right) / jnp.sum(known.weight)
        return _on_label(jnp.broadcast_to(mean, label.shape[:-1]), label), None


@dataclass(frozen=True, kw_only=True)
class TopK(Transform):
    """KD-topk: the k largest probabilities are kept.

    Attributes:
      k: how many; C keeps all.
    """

    k: Annotated[int, AtLeast(1)]

    def __post_init__(self) -> None:
        """Refuses none."""
        check_fields(self, "transform")

    def apply(
        self, p: Array, logits: Array, label: Array, known: Known | None
    ) -> tuple[Array, None]:
        """The k largest, and the rest spread evenly over the others."""
        order = jnp.argsort(jnp.argsort(-p, -1), -1)
        kept = order < self.k
        rest = jnp.sum(jnp.where(kept, 0, p), -1, keepdims=True)
        others = max(p.shape[-1] - self.k, 1)
        return jnp.where(kept, p, rest / others), None


@dataclass(frozen=True)
class ClassMeans(Transform):
    """The mean target of the label's class; its label if no held-out row has it."""

    uses_known = True

    def apply(
        self, p: Array, logits: Array, label: Array, known: Known | None
    ) -> tuple[Array, None]:
        """The row of the mean targets that belongs to the label."""
        assert known is not None and known.p is not None
        own = known.weight[:, None] * known.label
        count = jnp.sum(own, 0)
        sums = jnp.dot(own.T, known.p, precision="highest")
        means = sums / jnp.maximum(count, 1e-9)[:, None]
        means = jnp.where(count[:, None] > 0, means, jnp.eye(label.shape[-1]))
        return jnp.dot(label, means, precision="highest"), None
