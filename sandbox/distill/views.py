"""How student and teacher parameters relate to what is trained.

A view maps the trained tensors phi to the student's parameters. `Identity` is the plain
case: phi is the student. Shared expansions and pruning are further views of the same
functions, so they need no other loop.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax

from sandbox.models.base import Model
from sandbox.types import Array, Params


@runtime_checkable
class View(Protocol):
    """Maps trained tensors phi to parameters; subclasses override what they change."""

    @abstractmethod
    def init(self, key: Any, model: Model, given: Params | None) -> Params:
        """The tensors that are trained, phi.

        Args:
          key: of a seed's initialisation.
          model: the student.
          given: parameters of the stored run that the record starts from, if any.
        """
        ...

    def student(self, phi: Params) -> Params:
        """The student's parameters, which are trained through."""
        return phi

    def teacher(self, phi: Params) -> Params | None:
        """Parameters of a teacher that shares phi; None where there is none."""
        return None

    @property
    def taught_by(self) -> Model | None:
        """The network of that teacher; None where there is none."""
        return None

    def lr_scale(self, phi: Params) -> Params:
        """A learning-rate factor for every leaf."""
        return jax.tree.map(lambda _: 1.0, phi)

    def after_update(self, phi: Params, t: Array, grad: Params) -> Params:
        """Called after every optimizer step.

        Args:
          phi: the new tensors.
          t: first sample of the step.
          grad: gradient of the step's loss with respect to phi.
        """
        return phi

    def deploy(self, phi: Params) -> Params:
        """What is stored and evaluated: parameters of the student."""
        return self.student(phi)


@dataclass(frozen=True)
class Identity(View):
    """phi is the student's parameters."""

    def init(self, key: Any, model: Model, given: Params | None) -> Params:
        """Fresh parameters, or those that were given."""
        return model.init(key) if given is None else given
