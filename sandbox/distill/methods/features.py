r"""Features of unlike networks: norm and direction, and a teacher's own head.

s, t are the features of student (through a trained matrix) and teacher, e_y the unit
mean of the teacher's over rows of class y, W, b its last layer.

    NormDirection   1 - <s, e_y> / max(|s|, |t|)          KD++: arXiv 2305.17007
    OwnHead         |s - t|^2 / n + |(s W + b) - z_T|^2 / C   srdL: arXiv 2205.06701

`OwnHead` needs no labels, so that rows of another task can teach (`Mix`). W and b are
read off the teacher's answers to held-out rows by least squares.
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


class _Matched(OfLayer):
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
class NormDirection(_Matched):
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


@dataclass(frozen=True, kw_only=True)
class OwnHead(_Matched):
    """The teacher's features, and its answers by its own last layer."""

    def statistics(self, known: Known) -> Any:
        """The last layer `(n + 1, C)`, its bias last."""
        h = last((known.acts or {})[self.teacher_layer], known.logits)
        one = jnp.ones((len(h), 1), h.dtype)
        return jnp.linalg.lstsq(jnp.concatenate([h, one], 1), known.logits)[0]

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """Features, logits, and the last layer at every row."""
        assert taught is not None and taught.known is not None
        t = last((taught.answers.acts or {})[self.teacher_layer], label)
        head = taught.known.stats
        each = jnp.broadcast_to(head, (*t.shape[:-1], *head.shape))
        return t, taught.answers.logits, each

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The loss of each row."""
        (t, z, head), s = sup, self.mapped(out, aux)
        own = jnp.einsum("...n,...nc->...c", s, head[..., :-1, :], precision="highest")
        own = own + head[..., -1, :]
        return self.weight * (jnp.mean((s - t) ** 2, -1) + jnp.mean((own - z) ** 2, -1))
