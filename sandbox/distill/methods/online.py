"""A teacher that learns from labels beside its student.

Progressive distillation at a spacing of 1: Harutyunyan et al. (arXiv 2301.12245).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from sandbox.distill.cost import Cost
from sandbox.distill.losses import Answers
from sandbox.distill.sources import LiveSource
from sandbox.distill.views import View
from sandbox.models.base import Model
from sandbox.types import Array, Params

_OWN = 1  # fold of the lane's key


def cross_entropy(logits: Array, label: Array) -> Array:
    """Of one-hot labels, in nats."""
    return -jnp.sum(label * jax.nn.log_softmax(logits, -1), -1)


class FromLabels(LiveSource, Protocol):
    """A teacher that learns from labels."""

    @property
    def cost(self) -> Cost:
        """Its own backward pass."""
        return Cost(teacher_backward=1)

    def own_loss(
        self, logits: Array, label: Array, student: Callable[[], Array]
    ) -> Array:
        """Cross-entropy."""
        return cross_entropy(logits, label)


@dataclass(frozen=True, kw_only=True)
class Online(FromLabels):
    """A network that is trained on the student's rows.

    Attributes:
      network: the teacher.
    """

    network: Model

    def init(self, key: Any, model: Model) -> Params:
        """Its own weights."""
        return self.network.init(jax.random.fold_in(key, _OWN))

    def outputs(
        self,
        teacher: Params,
        phi: Params,
        x: Any,
        frozen: Answers | None,
        view: View,
        model: Model,
    ) -> Array:
        """Its logits."""
        return self.network.apply(teacher, x).logits
