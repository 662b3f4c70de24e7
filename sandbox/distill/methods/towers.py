r"""Embeddings matched, and a tower inherited: EmbedDistill (arXiv 2301.12005).

The student is a `TwoTowers` whose query tower may be smaller than its teacher's; it
takes over the teacher's document tower, which stays as it is:

    Strategy(name="embed", source=Final(), view=Inherited(),
             loss=Sum(losses=(Loss(), Embedding()), weights=(1.0, 1.0)))

in a run whose `start` is the teacher's. With one document tower E_d, scores differ by
at most |E_q^S - E_q^T| |E_d|.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from sandbox.distill.losses import Answers, Objective, Taught
from sandbox.distill.views import View
from sandbox.errors import require
from sandbox.models.base import Model
from sandbox.types import Array, Params

Tower = Literal["query", "document"]


@dataclass(frozen=True, kw_only=True)
class Embedding(Objective):
    """Squared distance of embeddings, |E^S - E^T|^2.

    Attributes:
      tower: whose.
    """

    tower: Tower = "query"

    @property
    def taps(self) -> tuple[str, ...]:
        """The embedding."""
        return (self.tower,)

    def supervise(self, label: Array, taught: Taught | None, numbers: Any) -> Any:
        """The teacher's embedding."""
        assert taught is not None
        return (taught.answers.acts or {})[self.tower]

    def value(self, out: Answers, sup: Any, aux: Params) -> Array:
        """The distance of each row."""
        return jnp.sum(((out.acts or {})[self.tower] - sup) ** 2, -1)


@dataclass(frozen=True, kw_only=True)
class Inherited(View):
    """A student with a tower of the network that the run starts from.

    Attributes:
      tower: which one; it is not trained.
    """

    tower: Tower = "document"

    def init(self, key: Any, model: Model, given: Params | None) -> Params:
        """Fresh, but for that tower."""
        require(given is not None, "view: an inherited tower needs the run's start.")
        own = model.init(key)
        theirs = (given or {})[self.tower]
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (own[self.tower], theirs)]
        words = f"view.tower: the {self.tower} towers of student and start differ."
        require(shapes[0] == shapes[1], words)
        return own | {self.tower: theirs}

    def lr_scale(self, phi: Params) -> Params:
        """0 for that tower."""
        return {
            name: jax.tree.map(lambda _, on=name != self.tower: float(on), tree)
            for name, tree in phi.items()
        }
