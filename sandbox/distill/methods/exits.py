r"""One-for-all distillation between unlike networks: Hao et al. (arXiv 2310.19444).

With p the target and y the label,

    L_g = -sum_c [ (p_c + 1{c = y})^g - 1{c = y} ] log q_c

of the output, and of a linear head on every layer that is named, which is dropped after
training. g = 1 is the cross-entropy to p. Theirs adds the label's cross-entropy:
`Sum(losses=(Loss(alpha=1.0), OneForAll(exits=("residual_1",))), weights=(1.0, 1.0))`.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.losses import Answers, Objective, Taught
from sandbox.distill.methods.extraction import head
from sandbox.store.bounds import MoreThan, check_fields
from sandbox.types import Array, Params


@dataclass(frozen=True, kw_only=True)
class OneForAll(Objective):
    """The adaptive target, of the output and of early exits.

    Attributes:
      g: exponent.
      exits: taps of the student that get a head.
    """

    g: Annotated[float, MoreThan(0)] = 1.0
    exits: tuple[str, ...] = ()

    shift_free = True

    def __post_init__(self) -> None:
        """Refuses exponents at or below 0."""
        check_fields(self, "loss")

    @property
    def on_logits(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Without exits."""
        return not self.exits

    @property
    def has_aux(self) -> bool:
        """With exits."""
        return bool(self.exits)

    @property
    def taps(self) -> tuple[str, ...]:
        """The exits."""
        return self.exits

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """None."""
        return ()

    def init_aux(self, key: Any, student: Answers, teacher: Answers | None) -> Params:
        """A head an exit, drawn as a dense layer's of PyTorch."""
        heads, c = [], student.logits.shape[-1]
        for i, name in enumerate(self.exits):
            width = (student.acts or {})[name].shape[-1]
            own = jax.random.fold_in(key, i)
            w = jax.random.uniform(own, (width, c), minval=-1, maxval=1)
            heads.append((w / width**0.5, jnp.zeros(c, w.dtype)))
        return heads

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The adaptive target, `(*n, C)`."""
        assert taught is not None
        return (taught.p + label) ** self.g - label

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The loss of each row, summed over output and exits."""
        every, heads = [out.logits], aux if self.exits else []
        for name, wb in zip(self.exits, heads, strict=True):
            every.append(head((out.acts or {})[name], out.logits, *wb))
        return -sum(jnp.sum(sup * jax.nn.log_softmax(z, -1), -1) for z in every)  # pyright: ignore
