"""A stored teacher plus a small network that is trained, after OKD (arXiv 2409.12512).

Its losses are ours: CE(y, p) + kappa KL(p || q).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.cost import Cost
from sandbox.distill.losses import Answers
from sandbox.distill.methods.online import cross_entropy
from sandbox.distill.sources import LiveSource
from sandbox.distill.views import View
from sandbox.models.base import Model
from sandbox.models.mlp import MLP
from sandbox.store.bounds import AtLeast, check_fields
from sandbox.types import Array, Params

_OWN = 1  # fold of the lane's key


@dataclass(frozen=True, kw_only=True)
class Adapter(LiveSource):
    """A stored teacher's final logits plus those of a network that starts at 0.

    Attributes:
      network: an MLP, whose last layer starts at 0.
      kappa: weight of the divergence from the student.
    """

    network: MLP
    kappa: Annotated[float, AtLeast(0)] = 1.0

    stored = True

    def __post_init__(self) -> None:
        """Refuses negative weights."""
        check_fields(self, "source")

    def init(self, key: Any, model: Model) -> Params:
        """Fresh weights; the last layer's are 0."""
        params = self.network.init(jax.random.fold_in(key, _OWN))
        last = f"layer_{len(params) - 1}"
        return params | {last: jax.tree.map(jnp.zeros_like, params[last])}

    def outputs(
        self,
        teacher: Params,
        phi: Params,
        x: Any,
        frozen: Answers | None,
        view: View,
        model: Model,
    ) -> Array:
        """The sum of both."""
        assert frozen is not None
        return frozen.logits + self.network.apply(teacher, x).logits

    @property
    def cost(self) -> Cost:
        """The student's answers, once more, and its own passes."""
        return Cost(student_forward=1, teacher_forward=1, teacher_backward=1)

    def own_loss(
        self, logits: Array, label: Array, student: Callable[[], Array]
    ) -> Array:
        """Cross-entropy, and kappa times KL(p || q) to the student's q."""
        log_p, log_q = (jax.nn.log_softmax(z, -1) for z in (logits, student()))
        gap = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
        return cross_entropy(logits, label) + self.kappa * gap
