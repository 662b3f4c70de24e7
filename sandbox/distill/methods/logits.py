"""Matching logits, and targets that move from student to teacher.

LogitMatching   (weight / 2) sum_c (z_c - z_T,c)^2, means of both removed: Ba and
                Caruana (arXiv 1312.6184), the limit of Hinton et al. at high T
TAID            CE to softmax((1 - s) sg(z) + s z_T), s annealed: Shing et al.
                (arXiv 2501.16937), whose s adapts to the loss; here it is linear
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.losses import Answers, Objective, Taught
from sandbox.distill.targets import Anneal, Target
from sandbox.store.bounds import MoreThan, Within, check_fields
from sandbox.types import Array, Params


class _OfLogits(Objective):
    on_logits = True
    shift_free = True

    def refuses(self, target: Target) -> str:
        """Temperatures and transforms, which change probabilities."""
        words = "its loss reads logits, so target must keep its defaults."
        return words if target != Target() else ""


@dataclass(frozen=True, kw_only=True)
class LogitMatching(_OfLogits):
    """Squared distance of centred logits.

    Attributes:
      weight: of the whole.
    """

    weight: Annotated[float, MoreThan(0)] = 1.0

    def __post_init__(self) -> None:
        """Refuses no weight."""
        check_fields(self, "loss")

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The teacher's centred logits."""
        assert taught is not None
        return _centred(taught.answers.logits)

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """Half the squared distance."""
        return self.weight * jnp.sum((_centred(out.logits) - sup) ** 2, -1) / 2


@dataclass(frozen=True, kw_only=True)
class TAID(_OfLogits):
    """Cross-entropy to a mixture of both networks' logits.

    Attributes:
      share: s, the teacher's in the mixture.
    """

    share: Annotated[float | Anneal, Within(0, 1)]

    def __post_init__(self) -> None:
        """Refuses what is no share."""
        check_fields(self, "loss")

    @property
    def ramps(self) -> tuple[float | Anneal, ...]:
        """The share."""
        return (self.share,)

    @property
    def compiled(self) -> "TAID":
        """The record without it."""
        return replace(self, share=0.0)

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The teacher's logits and the share."""
        assert taught is not None
        return taught.answers.logits, numbers[0]

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The cross-entropy of each row."""
        teacher, s = sup
        mixed = (1 - s)[..., None] * jax.lax.stop_gradient(out.logits)
        p = jax.nn.softmax(mixed + s[..., None] * teacher, -1)
        return -jnp.sum(p * jax.nn.log_softmax(out.logits, -1), -1)


def _centred(logits: Array) -> Array:
    return logits - jnp.mean(logits, -1, keepdims=True)
