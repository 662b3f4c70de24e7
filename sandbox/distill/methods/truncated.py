r"""What the teacher likes better is pushed up: Allen-Zhu and Li (arXiv 2012.09816).

    weight * sum_i sg[softmax(F)_i - softmax(G)_i]^- F_i

Logits are clipped from above, also the last ones: without, both are pushed up for ever
where the student cannot follow.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.losses import Answers, Objective, Taught
from sandbox.store.bounds import MoreThan, check_fields
from sandbox.types import Array, Params


@dataclass(frozen=True, kw_only=True)
class Truncated(Objective):
    """Pushes up what the teacher likes better.

    Attributes:
      tau: temperature of both.
      most: logits are clipped from above there.
      weight: of the loss.
    """

    tau: Annotated[float, MoreThan(0)] = 1.0
    most: Annotated[float, MoreThan(0)] = 10.0
    weight: Annotated[float, MoreThan(0)] = 1.0

    on_logits = True

    def __post_init__(self) -> None:
        """Refuses temperatures and weights at or below 0."""
        check_fields(self, "loss")

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The teacher's probabilities."""
        assert taught is not None
        return self._softmax(taught.answers.logits)

    def _softmax(self, z: Array) -> Array:
        return jax.nn.softmax(jnp.minimum(z, self.most) / self.tau, -1)

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The loss of each row, whose gradient is the truncated one."""
        gap = jnp.minimum(self._softmax(out.logits) - sup, 0)
        logits = jnp.minimum(out.logits, self.most)
        return self.weight * jnp.sum(jax.lax.stop_gradient(gap) * logits, -1)
