"""Teacher logits to target probabilities, and numbers annealed along the stream.

To change what of the teacher is matched, write a frozen dataclass that subclasses
`Transform` and put it into `Target.transforms`; `sandbox.distill.methods` has several.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from sandbox.store.bounds import AtLeast, check_fields
from sandbox.store.config import later
from sandbox.types import Array


@dataclass(frozen=True, kw_only=True)
class Anneal:
    """A number that moves linearly from `start` to `end` in `over` samples."""

    start: float
    end: float
    over: Annotated[int, AtLeast(1)]

    def __post_init__(self) -> None:
        """Refuses an empty ramp and ends that are no numbers."""
        check_fields(self, "anneal")

    @property
    def numbers(self) -> tuple[float, float]:
        """What the bounds of an annealed field hold for."""
        return self.start, self.end


def ends(value: float | Anneal) -> tuple[float, float, int]:
    """(start, end, over) of a constant or an annealed number."""
    if isinstance(value, Anneal):
        return value.start, value.end, value.over
    return value, value, 1


class Known(NamedTuple):
    """What a teacher says of held-out rows, computed once for every checkpoint.

    Attributes:
      logits: of `n` scored rows or positions, `(n, C)`.
      label: one-hot, `(n, C)`.
      weight: `(n,)`.
      acts: the teacher's activations that the loss asked for, `(n, ...)`; for
        `Objective.statistics` alone.
      stats: what that made of them.
      p: the lane's target there, at the temperature of the segment's first row and
        after the transforms before; `(n, C)`.
    """

    logits: Array
    label: Array
    weight: Array
    acts: dict[str, Array] | None = None
    stats: Any = None
    p: Array | None = None


@runtime_checkable
class Transform(Protocol):
    """Changes a teacher's target.

    It is written for one lane, for any leading axes `*n`. What it returns must be a
    function of its arguments alone.

    Attributes:
      uses_known: whether `apply` needs the teacher's answers on held-out rows.
    """

    uses_known: ClassVar[bool] = False

    @abstractmethod
    def apply(
        self, p: Array, logits: Array, label: Array, known: Known | None
    ) -> tuple[Array, Array | None]:
        """The target that takes the place of `p`, and which rows are trained on.

        Args:
          p: probabilities at the target's temperature, after earlier transforms,
            `(*n, C)`.
          logits: the teacher's, `(*n, C)`.
          label: one-hot, `(*n, C)`.
          known: the teacher on held-out rows; None unless `uses_known`.

        Returns:
          Probabilities `(*n, C)`, and a weight of each row `(*n,)` on the whole loss,
          whose mean still divides by all rows; None where all count.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Target:
    """What of the teacher is matched.

    Attributes:
      tau: teacher temperature; 0 is the exact argmax (ties go to the lowest class).
      transforms: what is done to the probabilities at that temperature, in turn.
    """

    tau: Annotated[float | Anneal, AtLeast(0)] = 1.0
    transforms: tuple[Transform, ...] = later(())

    def __post_init__(self) -> None:
        """Refuses negative temperatures."""
        check_fields(self, "target")

    def transformed(
        self,
        logits: Float[Array, "*n C"],
        tau: Float[Array, "*n"],
        label: Float[Array, "*n C"],
        known: Known | None,
    ) -> tuple[Float[Array, "*n C"], Float[Array, "*n"] | None]:
        """The probabilities to match, and the weight of each row (None for 1).

        Args:
          logits: the teacher's.
          tau: its temperature.
          label: one-hot.
          known: the teacher on held-out rows.
        """
        p, keep = soften(logits, tau), None
        if known is not None:
            one = jnp.broadcast_to(jnp.ravel(tau)[0], known.weight.shape)
            known = known._replace(p=soften(known.logits, one))
        for transform in self.transforms:
            p, own = transform.apply(p, logits, label, known)
            if known is not None and known.p is not None:
                q, _ = transform.apply(known.p, known.logits, known.label, known)
                known = known._replace(p=q)
            if own is not None:
                keep = own if keep is None else keep * own
        return p, keep


def soften(
    logits: Float[Array, "*n C"], tau: Float[Array, "*n"]
) -> Float[Array, "*n C"]:
    """softmax(logits / tau), with tau = 0 the one-hot argmax (lowest class on ties)."""
    hard = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=logits.dtype)
    safe = jnp.where(tau == 0, 1.0, tau)[..., None]
    below = logits - jnp.max(logits, -1, keepdims=True)  # no overflow for tiny tau
    return jnp.where((tau == 0)[..., None], hard, jax.nn.softmax(below / safe, -1))


def log_soften(
    logits: Float[Array, "*n C"], tau: Float[Array, "*n"]
) -> Float[Array, "*n C"]:
    """Log softmax(logits / tau) for tau > 0, finite wherever the logits are."""
    below = logits - jnp.max(logits, -1, keepdims=True)  # no NaN for tiny tau
    info = jnp.finfo(logits.dtype)
    scaled = below / jnp.maximum(tau, info.tiny)[..., None]
    return jax.nn.log_softmax(jnp.maximum(scaled, info.min / 2), -1)


def annealed(
    start: Float[Array, " L"],
    end: Float[Array, " L"],
    over: Shaped[Array, " L"],
    t: Shaped[Array, " R"],
) -> Float[Array, "R L"]:
    """Moves from start to end as min(t / over, 1); a row a sample, a column a lane."""
    ramp = jnp.minimum(t.astype(start.dtype)[:, None] / over[None, :], 1.0)
    return start[None, :] + (end - start)[None, :] * ramp
