r"""Strings of the student's own, after GKD: Agarwal et al. (arXiv 2306.13649).

Each row keeps its length; with probability `share` its tokens are drawn anew,

    y_i ~ softmax of the student's logits after y_1 .. y_{i-1}

and the teacher is asked what it would say after those. No gradient passes through the
draws. `Loss(direction="reverse")` makes it the reverse divergence of MiniLLM
(arXiv 2306.08543) without its policy gradient:

    Strategy(name="gkd", source=OnPolicy(positions=task.positions, share=0.5),
             view=Beside(network=teacher), loss=Loss(direction="reverse"))

in a run whose `start` is the teacher's.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from sandbox.distill.cost import Cost
from sandbox.distill.methods.held import Tuned
from sandbox.distill.views import View
from sandbox.models.base import Model
from sandbox.store.bounds import AtLeast, Within, check_fields
from sandbox.tasks.next_token import NextToken
from sandbox.types import Array, Params, Tokens


@dataclass(frozen=True, kw_only=True)
class OnPolicy(Tuned):
    """The teacher of a view, asked about what the student writes.

    Attributes:
      positions: of a row: the task's, each a pass of the student.
      share: of the rows that the student writes.
    """

    positions: Annotated[int, AtLeast(2)]
    share: Annotated[float, Within(0, 1)] = 1.0

    def __post_init__(self) -> None:
        """Refuses what is no share."""
        check_fields(self, "source")

    def refuses(self, task: Any) -> str:
        """Tasks that do not predict every next token, or of another length."""
        if not isinstance(task, NextToken) or task.level is not None:
            return "students write strings for tasks that score every next token."
        if task.positions != self.positions:
            return f"source.positions must be the task's, {task.positions}."
        return ""

    @property
    def cost(self) -> Cost:
        """A pass for every token that is written."""
        return Cost(student_forward=self.positions - 1)

    def inputs(self, phi: Params, x: Any, key: Any, view: View, model: Model) -> Any:
        """The rows, some of them the student's."""
        which, own = jax.random.split(key)
        mine = jax.random.bernoulli(which, self.share, (x.ids.shape[0], 1))
        ids = written(model, view.student(phi), x, own)
        return x._replace(ids=jnp.where(mine, ids, x.ids))


def written(model: Model, params: Params, x: Tokens, key: Any) -> Array:
    """Tokens `(B, N)` that a network writes after the first one, as many as x has.

    Each needs what stands before it alone, so that the rows are cut in four lengths.
    """
    ids, last = x.ids, x.ids.shape[1] - 1
    for first, end in pairwise(sorted({last * i // 4 for i in range(5)})):

        def one(i: Array, ids: Array, n: int = end) -> Array:
            rows = jax.tree.map(lambda a: a[:, :n], x._replace(ids=ids))
            z = model.apply(params, rows).logits[:, i]
            token = jax.random.categorical(jax.random.fold_in(key, i), z)
            new = jnp.where(x.valid[:, i + 1], token, ids[:, i + 1])
            return ids.at[:, i + 1].set(new.astype(ids.dtype))

        ids = jax.lax.fori_loop(first, end, one, ids)
    return ids
