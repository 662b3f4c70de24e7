"""The exact posterior as a teacher: Menon et al. (arXiv 2005.10419)."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from sandbox.distill.losses import Answers
from sandbox.distill.sources import LiveSource
from sandbox.distill.views import View
from sandbox.errors import require
from sandbox.models.base import Model
from sandbox.tasks.base import Task, VectorTask
from sandbox.types import Array, Batch, Params


@dataclass(frozen=True, kw_only=True)
class Bayes(LiveSource):
    """log P(label | x), which no training reaches before its end.

    Attributes:
      task: the run's, on vectors, with a support that no key draws.
    """

    task: Task

    def __post_init__(self) -> None:
        """Refuses tasks whose labels follow from more than the row."""
        task: Any = self.task
        require(
            isinstance(task, VectorTask),
            f"source.task must be a task on vectors, got {task!r:.60}.",
        )
        task.supports(None)  # refuses random ones

    def refuses(self, task: Any) -> str:
        """Another task, whose posterior is another."""
        if task == self.task:
            return ""
        return f"source.task must equal the run's task, got {self.task!r:.60}."

    def outputs(
        self,
        teacher: Params,
        phi: Params,
        x: Any,
        frozen: Answers | None,
        view: View,
        model: Model,
    ) -> Array:
        """The logarithm of the task's posterior, at least that of a tiny number."""
        task: Any = self.task
        clean = task.labels(task.rotate(x, None), task.supports(None))
        rows = Batch(x, clean, jnp.ones(len(x), x.dtype), {"clean": clean})
        p = task.bayes(rows)
        return jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
