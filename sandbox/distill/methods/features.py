r"""Features of unlike networks in the class's direction: KD++ (arXiv 2305.17007).

    NormDirection   1 - <s, e_y> / max(|s|, |t|)

s, t are the features of student (through a trained matrix) and teacher, e_y the unit
mean of the teacher's over rows of class y.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.losses import Answers, Objective, Taught
from sandbox.distill.targets import Known
from sandbox.store.bounds import MoreThan, check_fields
from sandbox.types import Array, Params


@dataclass(frozen=True, kw_only=True)
class OfLayer(Objective):
    """A loss on features of a layer.

    Attributes:
      layer: tap of the student.
      teacher_layer: tap of the teacher.
      weight: of the loss.
    """

    layer: str
    teacher_layer: str
    weight: Annotated[float, MoreThan(0)] = 1.0

    def __post_init__(self) -> None:
        """Refuses weights at or below 0."""
        check_fields(self, "loss")

    @property
    def taps(self) -> tuple[str, ...]:
        """The student's layer."""
        return (self.layer,)

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """The teacher's."""
        return (self.teacher_layer,)


def last(acts: Array, like: Array) -> Array:
    """Activations; of the last position where the answer has none."""
    return acts[..., -1, :] if acts.ndim > like.ndim else acts


class Matched(OfLayer):
    """Features through a trained matrix, as many as the teacher's."""

    uses_known = True

    def init_aux(self, key: Any, student: Answers, teacher: Answers | None) -> Params:
        """The matrix from the student's features to the teacher's."""
        assert teacher is not None
        n = (student.acts or {})[self.layer].shape[-1]
        m = (teacher.acts or {})[self.teacher_layer].shape[-1]
        return jax.random.normal(key, (n, m)) / n**0.5

    def mapped(self, out: Answers, aux: Params) -> Array:
        """The student's features in the teacher's space."""
        s = last((out.acts or {})[self.layer], out.logits)
        return jnp.dot(s, aux, precision="highest")


@dataclass(frozen=True, kw_only=True)
class NormDirection(Matched):
    """Features as long as the teacher's, or longer, in the class's direction."""

    def statistics(self, known: Known) -> Any:
        """Unit class means, `(C, n)`."""
        h = last((known.acts or {})[self.teacher_layer], known.logits)
        rows = known.label * known.weight[:, None]
        mean = jnp.dot(rows.T, h, precision="highest")
        return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The class's direction and the teacher's norm."""
        assert taught is not None and taught.known is not None
        t = last((taught.answers.acts or {})[self.teacher_layer], label)
        e = jnp.dot(label, taught.known.stats, precision="highest")
        return e, jnp.linalg.norm(t, axis=-1)

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The loss of each row."""
        (e, norm), s = sup, self.mapped(out, aux)
        # sqrt has no derivative at 0
        own = jnp.sqrt(jnp.maximum(jnp.sum(s * s, -1), 1e-24))
        return self.weight * (1 - jnp.sum(s * e, -1) / jnp.maximum(own, norm))
