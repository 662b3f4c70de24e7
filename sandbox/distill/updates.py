"""What one optimizer step moves. The training loop only ever calls `update.step`."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import optax

from sandbox.distill.cost import Cost
from sandbox.distill.views import View
from sandbox.types import Array, Params


class Trained(NamedTuple):
    """Everything that a lane's training moves.

    Attributes:
      phi: the tensors of the view, from which the student is made.
      aux: the loss's own parameters; None for none.
      teacher: a live source's own parameters; None for none.
      optimizer: what the update keeps.
    """

    phi: Params
    aux: Params = None
    teacher: Params = None
    optimizer: Any = None


@dataclass(frozen=True)
class Step:
    """One step of a lane, as functions of what is trained.

    Attributes:
      lr: learning rate.
      t: first sample.
      view: maps phi to the student and scales learning rates by leaf.
      transform: optax transformation without a learning rate.
      loss: (phi, aux, teacher) -> mean loss of the student on the batch; no gradient
        of it reaches a live teacher.
      through: the same, whose gradient does.
      own: (phi, teacher) -> mean loss of a live teacher on the batch; 0 for none.
      quiz: (phi) -> mean cross-entropy of the student on the quiz rows of the step.
    """

    lr: Array
    t: Array
    view: View
    transform: optax.GradientTransformation
    loss: Callable[[Params, Params, Params], Array]
    through: Callable[[Params, Params, Params], Array]
    own: Callable[[Params, Params], Array]
    quiz: Callable[[Params], Array]


@runtime_checkable
class Update(Protocol):
    """What a step moves, and by which gradients.

    Attributes:
      quiz_rows: rows of the quiz stream that each step is given.
    """

    @property
    def quiz_rows(self) -> int:
        """Rows of the quiz stream that each step is given."""
        return 0

    @property
    def cost(self) -> Cost:
        """Passes a sample, beside those of the loss."""
        return Cost()

    def init(self, trained: Trained, transform: optax.GradientTransformation) -> Any:
        """What is kept from step to step: optimizer states."""
        return transform.init(_tensors(trained))

    @abstractmethod
    def step(self, trained: Trained, step: Step) -> tuple[Trained, Array]:
        """What is trained after the step, and the student's loss before it."""
        ...


@dataclass(frozen=True)
class Joint(Update):
    """One gradient step on student's and live teacher's loss over every tensor.

    phi <- phi - lr * lr_scale * transform(grad mean_B loss(student(phi)))

    A loss's own parameters and a live teacher's are moved by the same rule: clipping
    and weight decay count them in.
    """

    def step(self, trained: Trained, step: Step) -> tuple[Trained, Array]:
        """One step."""
        tensors = _tensors(trained)
        live = trained.teacher is not None or step.view.teacher(trained.phi) is not None

        def student(tensors: Any) -> Array:
            new = _replaced(trained, tensors)
            return step.loss(new.phi, new.aux, new.teacher)

        def both(tensors: Any) -> tuple[Array, Array]:
            new, loss = _replaced(trained, tensors), student(tensors)
            return loss + step.own(new.phi, new.teacher), loss

        if live:
            (_, loss), grad = jax.value_and_grad(both, has_aux=True)(tensors)
        else:
            loss, grad = jax.value_and_grad(student)(tensors)
        direction, kept = step.transform.update(grad, trained.optimizer, tensors)
        scale = step.view.lr_scale(trained.phi)
        if trained.aux is not None or trained.teacher is not None:
            rest = (trained.aux, trained.teacher)
            scale = (scale, *jax.tree.map(lambda _: 1.0, rest))
        moved = jax.tree.map(
            lambda p, u, s: p - step.lr * s * u, tensors, direction, scale
        )
        new = _replaced(trained, moved)
        phi = step.view.after_update(new.phi, step.t, _replaced(trained, grad).phi)
        return new._replace(phi=phi, optimizer=kept), loss


def _tensors(trained: Trained) -> Any:
    """Phi alone, or all three where there is more."""
    if trained.aux is None and trained.teacher is None:
        return trained.phi
    return trained[:3]


def _replaced(trained: Trained, tensors: Any) -> Trained:
    if trained.aux is None and trained.teacher is None:
        return trained._replace(phi=tensors)
    phi, aux, teacher = tensors
    return trained._replace(phi=phi, aux=aux, teacher=teacher)
