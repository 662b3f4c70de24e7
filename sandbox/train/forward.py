"""Logits of many rows: plainly, or for sequences by length, a few rows at a time."""

from typing import Any

import jax.numpy as jnp

from sandbox.models.base import Model
from sandbox.tasks.base import Task, is_sequence_task
from sandbox.train.buckets import forward_by_length, micro_size
from sandbox.types import Array, Params

ROWS = 64
"""Sequences of one forward pass, at most."""


def forward(task: Task, model: Model, params: Params, x: Any) -> Array:
    """Logits `(B, C)`, or `(B, N, C)` for sequences, 0 beyond where a row was cut.

    Args:
      task: whose rows they are.
      model: the network.
      params: its parameters, without seed and lane axes.
      x: inputs.
    """
    if not is_sequence_task(task):
        return model.apply(params, x).logits
    n = x.ids.shape[0]
    return forward_by_length(
        lambda rows: model.apply(params, rows).logits,
        x,
        jnp.sum(x.valid, 1),
        edges=task.edges,
        micro=micro_size(n, ROWS),
    )
