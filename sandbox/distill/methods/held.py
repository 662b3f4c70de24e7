"""Teachers that the student's view holds among the trained tensors.

Tuned    moved by nothing but an update that says so (`MetaDistil`)
Dynamic  learns from labels (`Expand`)
Beside   the view of a network beside the student
"""

from dataclasses import dataclass
from typing import Any

import jax

from sandbox.distill.losses import Answers
from sandbox.distill.methods.online import FromLabels
from sandbox.distill.sources import LiveSource
from sandbox.distill.views import View
from sandbox.models.base import Model
from sandbox.types import Array, Params


@dataclass(frozen=True)
class Tuned(LiveSource):
    """The teacher that a view holds; only an update that says so moves it."""

    def outputs(
        self,
        teacher: Params,
        phi: Params,
        x: Any,
        frozen: Answers | None,
        view: View,
        model: Model,
    ) -> Array:
        """Its logits."""
        network = view.taught_by
        assert network is not None
        return network.apply(view.teacher(phi), x).logits


@dataclass(frozen=True)
class Dynamic(FromLabels, Tuned):
    """The teacher that a view holds, which learns from labels."""


@dataclass(frozen=True, kw_only=True)
class Beside(View):
    """A student and, beside it, the network that the run starts from as its teacher.

    Attributes:
      network: the teacher.
    """

    network: Model

    def init(self, key: Any, model: Model, given: Params | None) -> Params:
        """A fresh student; the teacher is fresh as well where none is given."""
        teacher = (
            self.network.init(jax.random.fold_in(key, 1)) if given is None else given
        )
        return {"student": model.init(key), "teacher": teacher}

    def student(self, phi: Params) -> Params:
        """The student."""
        return phi["student"]

    def teacher(self, phi: Params) -> Params:
        """The teacher."""
        return phi["teacher"]

    @property
    def taught_by(self) -> Model:
        """The network of these."""
        return self.network
