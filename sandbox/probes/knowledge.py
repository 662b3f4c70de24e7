r"""What a teacher's target asks of a student: instance, universe and domain knowledge.

With p the target, q the student, y the label, l the teacher's weight, u uniform on the
wrong classes, and s, r the two distributions on the wrong classes alone,

    grad_z L = w (q - e_y)                            w = 1 - l (1 - p_y) / (1 - q_y)
             + l (1 - p_y) (s - u) - l (1 - p_y) (r - u)

are an instance's weight on the label's gradient, the pull of wrong classes to each
other (universe), and relations of classes (domain). The last two vanish for C = 2. The
decomposition follows Tang et al. (arXiv 2002.03532); this exact form is ours.

Example:
    >>> probe = KnowledgeProbe(task, model, student=MLP(d=32, hidden=(20,)))
    >>> jax.jit(probe.measure)(params, key)["instance"]
"""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from sandbox.models.base import Model
from sandbox.store.bounds import AtLeast, check_fields
from sandbox.tasks.base import Task
from sandbox.types import Array, Params

_STUDENT = 9  # fold of the task key; other probes use 3 to 8


def split(
    p: Float[Array, "*n C"],
    q: Float[Array, "*n C"],
    label: Float[Array, "*n C"],
    weight: float = 1.0,
) -> dict[str, Float[Array, "*n C"]]:
    """The three terms, whose sum is q - (1 - weight) e_y - weight p.

    Args:
      p: the target.
      q: the student's probabilities, below 1 on the label.
      label: one-hot.
      weight: of the teacher's term.
    """
    wrong = (1 - label) / (label.shape[-1] - 1)
    p_y, q_y = (jnp.sum(v * label, -1, keepdims=True) for v in (p, q))
    s = (1 - label) * q / (1 - q_y)
    r = jnp.where(p_y < 1, (1 - label) * p / jnp.where(p_y < 1, 1 - p_y, 1), wrong)
    pull = weight * (1 - p_y)
    return {
        "instance": (1 - pull / (1 - q_y)) * (q - label),
        "universe": pull * (s - wrong),
        "domain": -pull * (r - wrong),
    }


@dataclass(frozen=True)
class KnowledgeProbe:
    """Root mean square of each term over scored labels, for a fresh student.

    Attributes:
      task: any task.
      model: the teacher.
      student: whose fresh parameters give q.
      points: rows of the probe stream.
    """

    task: Task
    model: Model
    _: KW_ONLY
    student: Model
    points: Annotated[int, AtLeast(1)] = 16_384

    def __post_init__(self) -> None:
        """Refuses no rows."""
        check_fields(self, "probe")

    def measure(self, params: Params, key: Any) -> dict[str, Array]:
        """Scalars `instance`, `universe` and `domain`; pure and jittable.

        Args:
          params: the teacher's.
          key: the lane's task key.
        """
        batch = self.task.sample(key, jnp.uint32(0), self.points, split="probe")
        label = jax.nn.one_hot(batch.y, self.task.n_classes, dtype=batch.weight.dtype)
        fresh = self.student.init(jax.random.fold_in(key, _STUDENT))
        p = jax.nn.softmax(self.model.apply(params, batch.x).logits, -1)
        q = jax.nn.softmax(self.student.apply(fresh, batch.x).logits, -1)
        terms, w = split(p, q, label), batch.weight / jnp.sum(batch.weight)
        return {k: jnp.sqrt(jnp.sum(w * jnp.sum(v**2, -1))) for k, v in terms.items()}
