r"""The distillation loss and its gradient with respect to the student's logits.

With e_y the one-hot label, p the teacher's target, q = softmax(z / tau_s):

    forward  L = -alpha log softmax(z)_y - (1 - alpha) scale sum_c p_c log q_c
             dL/dz = alpha (softmax(z) - e_y) + (1 - alpha) (scale / tau_s) (q - p)
    reverse  D = sum_c q_c (log q_c - log p_c)
             dD/dz = (scale / tau_s) q (log q - log p - D)

For tau_s = scale = 1 the forward loss is the cross-entropy to one mixed target
alpha e_y + (1 - alpha) p; that case keeps only the mixture.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from sandbox.distill.strategy import Loss
from sandbox.distill.targets import log_soften, soften
from sandbox.types import Array


class Supervision(NamedTuple):
    """What a loss needs about each example, computed before the student is touched.

    Attributes:
      mixed: the mixed target where the loss is a plain cross-entropy to it, else the
        one-hot label.
      teacher: target probabilities (forward) or log-probabilities (reverse); None for a
        plain cross-entropy.
      alpha: label weight; None for a plain cross-entropy.
    """

    mixed: Array
    teacher: Array | None
    alpha: Array | None


def is_plain(loss: Loss) -> bool:
    """Whether the loss is a cross-entropy to one mixed target."""
    return loss.direction == "forward" and loss.tau_student == 1 and loss.scale == 1


def supervise(
    loss: Loss,
    label: Float[Array, "*n C"],
    teacher_logits: Float[Array, "*n C"] | None,
    tau: Float[Array, "*n"],
    alpha: Float[Array, "*n"],
) -> Supervision:
    """Prepares labels and teacher logits for `value` and `delta`.

    Where alpha is 1 the mixture is the label exactly, whatever the teacher says.

    Args:
      loss: the compiled-in structure of the loss.
      label: one-hot labels.
      teacher_logits: None where no lane has a teacher.
      tau: teacher temperature.
      alpha: label weight.
    """
    if teacher_logits is None:
        return Supervision(label, None, None)
    a = alpha[..., None]
    if is_plain(loss):
        p = soften(teacher_logits, tau)
        return Supervision(
            jnp.where(a == 1, label, a * label + (1 - a) * p), None, None
        )
    if loss.direction == "forward":
        return Supervision(label, soften(teacher_logits, tau), alpha)
    return Supervision(label, log_soften(teacher_logits, tau), alpha)


def value(
    loss: Loss, logits: Float[Array, "*n C"], sup: Supervision
) -> Float[Array, "*n"]:
    """Loss of each example, in nats."""
    ce = -jnp.sum(sup.mixed * jax.nn.log_softmax(logits, -1), -1)
    if sup.teacher is None or sup.alpha is None:
        return ce
    log_q = jax.nn.log_softmax(logits / loss.tau_student, -1)
    if loss.direction == "forward":
        term = -jnp.sum(sup.teacher * log_q, -1)
    else:
        term = jnp.sum(jnp.exp(log_q) * (log_q - sup.teacher), -1)
    return sup.alpha * ce + (1 - sup.alpha) * loss.scale * term


def delta(
    loss: Loss, logits: Float[Array, "*n C"], sup: Supervision
) -> Float[Array, "*n C"]:
    """Gradient of `value` with respect to the logits, in closed form."""
    ce = jax.nn.softmax(logits, -1) - sup.mixed
    if sup.teacher is None or sup.alpha is None:
        return ce
    log_q = jax.nn.log_softmax(logits / loss.tau_student, -1)
    q = jnp.exp(log_q)
    if loss.direction == "forward":
        term = q - sup.teacher
    else:
        gap = log_q - sup.teacher
        term = q * (gap - jnp.sum(q * gap, -1, keepdims=True))
    a = sup.alpha[..., None]
    return a * ce + (1 - a) * (loss.scale / loss.tau_student) * term
