"""How student and teacher parameters relate to what is trained.

A view maps the trained tensors phi to the student's parameters. `Identity` is the plain
case: phi is the student. Shared expansions and pruning are further views of the same
functions, so they need no other loop.
"""

from dataclasses import dataclass
from typing import Any

import jax

from sandbox.models.base import Model
from sandbox.types import Array, Params


@dataclass(frozen=True)
class Identity:
    """phi is the student's parameters."""

    def init(self, key: Any, model: Model) -> Params:
        """Fresh trained tensors."""
        return model.init(key)

    def student(self, phi: Params) -> Params:
        """The student's parameters."""
        return phi

    def lr_scale(self, phi: Params) -> Params:
        """A learning-rate factor for every leaf."""
        return jax.tree.map(lambda _: 1.0, phi)

    def after_update(self, phi: Params, t: Array) -> Params:
        """Called after every optimizer step."""
        return phi

    def deploy(self, phi: Params) -> Params:
        """What is stored and evaluated."""
        return phi
