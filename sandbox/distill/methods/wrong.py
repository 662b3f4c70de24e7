"""Where the teacher is wrong, or unsure, the label teaches, or nothing does.

SwapWrong, SkipWrong   DGAD's label swap and masking (arXiv 2409.01627)
Sure                   ATSEN's threshold (arXiv 2212.06522)

At temperature 0 a swapped target is the label exactly, so progressive distillation
becomes cross-entropy bit for bit. DGAD's two rules act on adversarial examples,
which are not made here.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from sandbox.distill.targets import Known, Transform, soften
from sandbox.store.bounds import MoreThan, Within, check_fields
from sandbox.types import Array


@dataclass(frozen=True)
class SwapWrong(Transform):
    """ELS: where the teacher is wrong, its top logit is swapped with the label's."""

    def apply(
        self, p: Array, logits: Array, label: Array, known: Known | None
    ) -> tuple[Array, None]:
        """Probabilities with those two entries swapped."""
        top = jax.nn.one_hot(jnp.argmax(logits, -1), p.shape[-1], dtype=p.dtype)
        of_top = jnp.sum(p * top, -1, keepdims=True)
        of_label = jnp.sum(p * label, -1, keepdims=True)
        swapped = jnp.where(label == 1, of_top, jnp.where(top == 1, of_label, p))
        return swapped, None


@dataclass(frozen=True)
class SkipWrong(Transform):
    """MAP: rows on which the teacher is wrong are not trained on."""

    def apply(
        self, p: Array, logits: Array, label: Array, known: Known | None
    ) -> tuple[Array, Array]:
        """The target as it is, and 1 where the teacher is right."""
        right = jnp.argmax(logits, -1) == jnp.argmax(label, -1)
        return p, right.astype(p.dtype)


@dataclass(frozen=True, kw_only=True)
class Sure(Transform):
    """Where the teacher is unsure the label teaches.

    Attributes:
      above: least probability of its top class, sharpened.
      tau: temperature of that.
    """

    above: Annotated[float, Within(0, 1)] = 0.9
    tau: Annotated[float, MoreThan(0)] = 0.5

    def __post_init__(self) -> None:
        """Refuses what is no probability."""
        check_fields(self, "target")

    def apply(
        self, p: Array, logits: Array, label: Array, known: Known | None
    ) -> tuple[Array, None]:
        """The target where the teacher is sure, else the label."""
        q = soften(logits, jnp.full(logits.shape[:-1], self.tau, logits.dtype))
        sure = q.max(-1, keepdims=True) > self.above
        return jnp.where(sure, p, label.astype(p.dtype)), None
