"""Logits of many rows: plainly, or for sequences by length, a few rows at a time."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sandbox.models.base import Model
from sandbox.tasks.base import Task, is_sequence_task
from sandbox.train.buckets import forward_by_length, micro_size
from sandbox.types import Array, Outputs, Params

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
    return outputs(task, model, params, x).logits


def outputs(
    task: Task, model: Model, params: Params, x: Any, taps: Sequence[str] = ()
) -> Outputs:
    """Logits as `forward` has them, and activations `(B, ...)` by name."""

    def apply(rows: Any) -> Outputs:
        return (
            model.apply(params, rows, taps=taps) if taps else model.apply(params, rows)
        )

    if not is_sequence_task(task):
        return apply(x)
    n = x.ids.shape[0]
    return forward_by_length(
        apply,
        x,
        jnp.sum(x.valid, 1),
        edges=task.edges,
        micro=micro_size(n, ROWS),
    )


def joined(x: Any, sequences: bool) -> Any:
    """The rows that were made of each row, `(B, copies, ...)`, on one axis.

    Of sequences they are `(B, N, copies)`, so that they can be cut to their length.
    """

    def flat(a: Array) -> Array:
        a = jnp.moveaxis(a, 2, 1) if sequences else a
        return a.reshape(-1, *a.shape[2:])

    return jax.tree.map(flat, x)


def parted(logits: Array, copies: int, sequences: bool) -> Array:
    """Logits of such rows as `(B, copies, C)`, or `(B, N, copies, C)`."""
    out = logits.reshape(-1, copies, *logits.shape[1:])
    return jnp.moveaxis(out, 1, 2) if sequences else out
