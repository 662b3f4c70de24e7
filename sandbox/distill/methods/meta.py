"""A teacher that learns to teach: MetaDistil, Zhou et al. (arXiv 2106.04570).

A step on rows B with quiz rows Q, teacher T and student S:

    pilot   S' = S - eta dL(S, T; B)/dS
    teach   T <- T - teacher_lr dCE(S'(T); Q)/dT        through the pilot step
    real    S <- S - lr dL(S, T; B)/dS                  with the teacher that has moved

    Strategy(name="meta", source=Tuned(), view=Beside(network=teacher),
             update=MetaDistil(eta=0.05, teacher_lr=0.05, quiz=256))

in a run whose `start` is the teacher's. At temperature 0 the teacher has no gradient.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import optax

from sandbox.distill.cost import Cost
from sandbox.distill.updates import Step, Trained, Update
from sandbox.store.bounds import AtLeast, check_fields
from sandbox.types import Array, Params


@dataclass(frozen=True, kw_only=True)
class MetaDistil(Update):
    """Pilot step, teacher's step through it, student's step.

    Attributes:
      eta: rate of the pilot step; 0 leaves the teacher as it is.
      teacher_lr: rate of the teacher.
      quiz: rows of the quiz stream in each step.
    """

    eta: Annotated[float, AtLeast(0)] = 0.05
    teacher_lr: Annotated[float, AtLeast(0)] = 0.05
    quiz: Annotated[int, AtLeast(1)] = 256

    def __post_init__(self) -> None:
        """Refuses negative rates."""
        check_fields(self, "update")

    @property
    def quiz_rows(self) -> int:
        """As many."""
        return self.quiz

    @property
    def cost(self) -> Cost:
        """One more pass of both, and the gradient through the teacher's answers.

        The loop counts the quiz rows.
        """
        return Cost(1, 1, teacher_forward=1, teacher_backward=1)

    def init(self, trained: Trained, transform: optax.GradientTransformation) -> Any:
        """The student's optimizer."""
        return transform.init(trained.phi["student"])

    def step(self, trained: Trained, step: Step) -> tuple[Trained, Array]:
        """The three."""

        def loss(student: Params, teacher: Params) -> Array:
            phi = {"student": student, "teacher": teacher}
            return step.through(phi, trained.aux, trained.teacher)

        def quizzed(teacher: Params) -> Array:
            grad = jax.grad(loss)(student, teacher)
            pilot = jax.tree.map(lambda p, g: p - self.eta * g, student, grad)
            return step.quiz({"student": pilot, "teacher": teacher})

        student, teacher = trained.phi["student"], trained.phi["teacher"]
        grad = jax.grad(quizzed)(teacher)
        teacher = jax.tree.map(lambda p, g: p - self.teacher_lr * g, teacher, grad)
        value, grad = jax.value_and_grad(loss)(student, teacher)
        direction, kept = step.transform.update(grad, trained.optimizer, student)
        moved = jax.tree.map(lambda p, u: p - step.lr * u, student, direction)
        phi = {"student": moved, "teacher": teacher}
        return trained._replace(phi=phi, optimizer=kept), value
