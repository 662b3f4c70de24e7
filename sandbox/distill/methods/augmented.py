r"""Rows on which only the teacher is sure, after TST (arXiv 2212.05422).

Theirs trains an augmentor of images for a while, now and then. Here n uniform rows on
the cube are drawn beside each row, and with the score of a row x, y its teacher's top
class,

    s(x) = log p_y + log(1 - q_y)

the student learns from them with weights softmax(beta s). That is the best law over the
n rows for E s - KL(law, uniform) / beta: an augmentor without parameters, ours. The
teacher labels the rows, so that no label is wrong where it is right. beta = 0 takes
them all alike.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.losses import Answers, Objective, Taught
from sandbox.distill.targets import soften
from sandbox.errors import require
from sandbox.store.bounds import AtLeast, check_fields
from sandbox.types import Array, Params


@dataclass(frozen=True, kw_only=True)
class Augmented(Objective):
    """Cross-entropy to the teacher on drawn rows, the telling ones first.

    Attributes:
      n: rows drawn beside each row: as many further passes of both networks.
      beta: how much the score decides.
    """

    n: Annotated[int, AtLeast(1)] = 4
    beta: Annotated[float, AtLeast(0)] = 1.0

    shift_free = True

    def __post_init__(self) -> None:
        """Refuses none."""
        check_fields(self, "loss")

    @property
    def copies(self) -> int:
        """The drawn rows."""
        return self.n

    def inputs(self, key: Any, x: Any) -> Any:
        """Uniform rows of signs."""
        require(getattr(x, "ndim", 0) == 1, "rows are drawn on bits alone.")
        return jax.random.rademacher(key, (self.n, *x.shape), x.dtype)

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The target on drawn rows, `(*n, copies, C)`."""
        assert taught is not None and taught.answers.extra is not None
        extra = taught.answers.extra
        return soften(extra, jnp.broadcast_to(taught.tau[..., None], extra.shape[:-1]))

    def weights(self, log_q: Array, p: Array) -> Array:
        """Weights of the drawn rows, which add up to 1."""
        top = jax.nn.one_hot(jnp.argmax(p, -1), p.shape[-1], dtype=p.dtype)
        tiny = jnp.finfo(p.dtype).tiny
        sure, right = (jnp.sum(top * a, -1) for a in (p, jnp.exp(log_q)))
        score = jnp.log(jnp.maximum(sure, tiny)) + jnp.log(jnp.maximum(1 - right, tiny))
        return jax.lax.stop_gradient(jax.nn.softmax(self.beta * score, -1))

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The weighted cross-entropy of each row's."""
        assert out.extra is not None
        log_q = jax.nn.log_softmax(out.extra, -1)
        each = -jnp.sum(sup * log_q, -1)
        return jnp.sum(self.weights(log_q, sup) * each, -1)
