r"""A teacher that is an average of its student, after ATSEN (arXiv 2212.06522).

After the step from sample t each tensor, with probability `share`, moves to

    T <- m T + (1 - m) S,   m = 1 - (1 - least) (cos(pi min(t / over, 1)) + 1) / 2

which rises from `least` to 1. It teaches where it and its copy of the last `period`
samples agree and its sharpened answer is surer than a threshold (`Sure`); elsewhere the
label does. Theirs leaves such rows out, after training on labels alone. There two such
pairs teach each other's students, with weights that minimise the norm of
the gradients' mean; here one pair does.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.cost import Cost
from sandbox.distill.losses import Answers
from sandbox.distill.sources import LiveSource
from sandbox.distill.views import View
from sandbox.models.base import Model
from sandbox.store.bounds import AtLeast, Within, check_fields
from sandbox.types import Array, Params


@dataclass(frozen=True, kw_only=True)
class Averaged(LiveSource):
    """The student's moving average.

    Attributes:
      network: the student's.
      least: m at the first sample.
      over: samples in which m rises to 1.
      share: of the tensors that move in a step.
      period: samples after which the older copy is renewed; 0 for no such copy.
    """

    network: Model
    least: Annotated[float, Within(0, 1)] = 0.8
    over: Annotated[int, AtLeast(1)] = 100_000
    share: Annotated[float, Within(0, 1)] = 0.2
    period: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        """Refuses what are no shares."""
        check_fields(self, "source")

    @property
    def cost(self) -> Cost:
        """The older copy's pass."""
        return Cost(teacher_forward=int(self.period > 0))

    def init(self, key: Any, model: Model) -> Params:
        """Another draw of the student's initial weights."""
        params = self.network.init(key)
        return (params, params) if self.period else params

    def outputs(
        self,
        teacher: Params,
        phi: Params,
        x: Any,
        frozen: Answers | None,
        view: View,
        model: Model,
    ) -> Array:
        """Its logits; 0 where the older copy disagrees."""
        if not self.period:
            return self.network.apply(teacher, x).logits
        now, old = (self.network.apply(params, x).logits for params in teacher)
        agree = jnp.argmax(now, -1) == jnp.argmax(old, -1)
        return jnp.where(agree[..., None], now, 0)

    def advance(self, teacher: Params, phi: Params, t: Array, view: View) -> Params:
        """Towards the student, some tensors at a time."""
        now, old = teacher if self.period else (teacher, None)
        part = jnp.minimum(t.astype(jnp.result_type(float)) / self.over, 1)
        m = 1 - (1 - self.least) * (jnp.cos(jnp.pi * part) + 1) / 2
        leaves, tree = jax.tree.flatten(now)
        student = tree.flatten_up_to(view.deploy(phi))
        key = jax.random.fold_in(jax.random.key(0), t)
        draws = jax.random.uniform(key, (len(leaves),))
        moved = [
            jnp.where(u < self.share, m * a + (1 - m) * s, a)
            for u, a, s in zip(draws, leaves, student, strict=True)
        ]
        new = jax.tree.unflatten(tree, moved)
        if old is None:
            return new
        renew = t % jnp.uint32(self.period) == 0
        return new, jax.tree.map(lambda a, b: jnp.where(renew, a, b), new, old)
