r"""Decoupled distillation: Zhao et al. (CVPR 2022, arXiv 2203.08679).

With p, q the two distributions, b = (p_y, 1 - p_y), b' = (q_y, 1 - q_y), and p^, q^
those of the wrong classes alone,

    KL(p || q) = KL(b || b') + (1 - p_y) KL(p^ || q^)

and the method weighs the two terms by constants in place of 1 and 1 - p_y. For two
classes the second is 0.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.losses import Answers, Objective, Taught
from sandbox.store.bounds import AtLeast, MoreThan, check_fields
from sandbox.types import Array, Params

_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Decoupled(Objective):
    """The two terms, weighted.

    Attributes:
      target: weight of the label's term.
      others: weight of the wrong classes' term; None for 1 - p_y, which makes the loss
        the forward KL.
      tau_student: temperature of the student; both terms are multiplied by its square.
    """

    target: Annotated[float, AtLeast(0)] = 1.0
    others: Annotated[float, AtLeast(0)] | None = 8.0
    tau_student: Annotated[float, MoreThan(0)] = 1.0

    on_logits = True
    shift_free = True

    def __post_init__(self) -> None:
        """Refuses negative weights."""
        check_fields(self, "loss")

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The label and the target."""
        assert taught is not None
        return label, taught.p

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The weighted sum of each row, in nats."""
        label, p = sup
        log_q = jax.nn.log_softmax(out.logits / self.tau_student, -1)
        p_y = jnp.sum(p * label, -1)
        log_y = jnp.sum(log_q * label, -1)
        far = jnp.finfo(log_q.dtype).min / 2
        wrong = jnp.where(label == 1, far, log_q)
        log_rest = jax.nn.logsumexp(wrong, -1)
        first = _kl(p_y, log_y) + _kl(1 - p_y, log_rest)
        if label.shape[-1] == 2:
            return self.target * self.tau_student**2 * first
        hat = jnp.where(label == 1, 0, p) / jnp.maximum(1 - p_y, _TINY)[..., None]
        log_hat = jnp.where(label == 1, 0, log_q - log_rest[..., None])
        second = jnp.sum(_kl(hat, log_hat), -1)
        weight = 1 - p_y if self.others is None else self.others
        return self.tau_student**2 * (self.target * first + weight * second)


def _kl(p: Array, log_q: Array) -> Array:
    """Terms p (log p - log q), 0 where p is."""
    return jnp.where(p > 0, p * (jnp.log(jnp.maximum(p, _TINY)) - log_q), 0)
