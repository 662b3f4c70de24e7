"""Dimension glossary and the containers that cross module borders.

Shapes are written with these letters, in annotations and as suffixes of locals:

    B  batch            d  input bits        m  hidden width      C  classes
    S  seeds            L  lanes (strategies that share one seed's sample stream)
    M  monomials        K  teacher checkpoints active at once
    R  rows of one segment (one call of the sampler)
    T  samples of one block of the blocked engine
    N  positions of a sequence   V  vocabulary   H  attention heads
    E  hidden size of a transformer   D  size of one head   F  size of its MLP

Results come in the order (seeds, lanes, evaluations or checkpoints, ...), less the axes
that are not there: `Metrics.columns` are (S, L, R), `Run.curves` (S, R), a checkpoint
(S, L, ...), what `measure_trajectory` finds (S, R, ...).

Importing this module does not import jax, so commands that only read files answer at
once. `Array` is `jax.Array` for the type checker and unconstrained at run time;
jaxtyping still checks shapes and dtypes.

Example:
    >>> from sandbox.types import Batch
    >>> Batch._fields
    ('x', 'y', 'weight', 'aux')
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jax import Array
else:
    Array = Any

__all__ = ["Array", "Batch", "Outputs", "Params", "Tokens"]

Params = Any
"""A pytree of arrays (nested dicts, as Flax makes them)."""


class Batch(NamedTuple):
    """Rows of a task's stream.

    Attributes:
      x: inputs, an array `(B, ...)` or a pytree of such arrays (`Tokens`).
      y: integer labels `(B,)`, or `(B, N)` for sequences.
      weight: weight of each label, shaped like `y`; 1 everywhere for Boolean tasks, 0
        for positions that are not scored.
      aux: what a probe or a metric may need besides, e.g. `{"clean": labels}`.
    """

    x: Any
    y: Array
    weight: Array
    aux: dict[str, Array]


class Tokens(NamedTuple):
    """Sequences, the inputs of a transformer; each array is `(B, N)`.

    Attributes:
      ids: numbers of the tokens, int32.
      valid: whether a position holds a token, bool.
      visible: whether other positions may attend to it, bool; only where valid.
    """

    ids: Array
    valid: Array
    visible: Array


class Outputs(NamedTuple):
    """What a model returns.

    Attributes:
      logits: `(B, C)`, or `(B, N, C)` for sequences.
      acts: the named activations that were asked for by `taps`.
    """

    logits: Array
    acts: dict[str, Array]
