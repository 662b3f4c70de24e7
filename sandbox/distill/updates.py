"""What one optimizer step moves. The training loop only ever calls `update.step`."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sandbox.types import Array, Params


@dataclass(frozen=True)
class Joint:
    """One gradient step on the loss over every trained tensor.

    phi <- phi - lr * lr_scale * transform(grad mean_B loss(student(phi)))
    """

    def step(
        self,
        phi: Params,
        opt_state: Any,
        lr: Array,
        *,
        loss_fn: Any,
        view: Any,
        transform: optax.GradientTransformation,
    ) -> tuple[Params, Any, Array]:
        """Moves phi once.

        Args:
          phi: trained tensors.
          opt_state: state of `transform`.
          lr: learning rate of this step.
          loss_fn: student parameters -> (weighted sum of losses, sum of weights).
          view: maps phi to student parameters and scales learning rates by leaf.
          transform: optax transformation without a learning rate.

        Returns:
          The new phi, the new optimizer state, the mean loss before the step.
        """

        def mean_loss(tensors: Params) -> Array:
            total, weight = loss_fn(view.student(tensors))
            return total / jnp.where(weight > 0, weight, 1)  # no weight, no step

        loss, grad = jax.value_and_grad(mean_loss)(phi)
        direction, opt_state = transform.update(grad, opt_state, phi)
        phi = jax.tree.map(
            lambda p, u, s: p - lr * s * u, phi, direction, view.lr_scale(phi)
        )
        return phi, opt_state, loss
