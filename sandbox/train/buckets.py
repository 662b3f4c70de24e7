r"""Rows of sequences in micro-batches of similar length, each cut to what it needs.

The rows of a batch are sorted by length and split into micro-batches. Each is cut to
the shortest of a few static lengths (`edges`) that holds its longest row, and the parts
are added up (gradient accumulation) or put back in order. Which rows share a batch does
not change, and neither does any sum but for its rounding; only time on padding is
saved, and memory holds one micro-batch. (Dropout draws masks for one micro-batch at a
time, so there the split decides which units are dropped.)

Every array of `rows` has the shape `(B, N, ...)`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Int

from sandbox.types import Array, Params

Rows = Any
"""A pytree of arrays `(B, N, ...)`."""


def micro_size(n_rows: int, micro: int) -> int:
    """The largest divisor of `n_rows` up to `micro`; all rows for 0."""
    most = min(micro, n_rows) if micro else n_rows
    return max(m for m in range(1, most + 1) if n_rows % m == 0)


def in_parts(fn: Callable[[Rows], Rows], rows: Rows, at_once: int) -> Rows:
    """`fn` over all rows, about `at_once` of them at a time.

    Args:
      fn: arrays `(b, ...)` to arrays `(b, ...)`.
      rows: arrays `(B, ...)`.
      at_once: most rows of a part; parts are of one size.
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    size = micro_size(n, at_once)

    def part(a: Array) -> Array:
        return a.reshape(-1, size, *a.shape[1:])

    out = lax.map(fn, jax.tree.map(part, rows))
    return jax.tree.map(lambda a: a.reshape(n, *a.shape[2:]), out)


def _split(
    rows: Rows, length: Int[Array, " B"], micro: int
) -> tuple[Rows, Int[Array, " G"], Int[Array, " B"]]:
    """Sorted micro-batches `(G, micro, N, ...)`, their longest rows, and the order."""
    order = jnp.argsort(length)
    parts = length.shape[0] // micro

    def part(a: Array) -> Array:
        return a[order].reshape(parts, micro, *a.shape[1:])

    return jax.tree.map(part, rows), part(length).max(1), order


def _cut(
    fn: Callable[[Rows], Any], edges: tuple[int, ...], rows: Rows, longest: Array
) -> Any:
    """`fn` on the rows cut to the first edge that holds `longest` positions."""

    def to(edge: int) -> Callable[[Rows], Any]:
        return lambda rows: fn(jax.tree.map(lambda a: a[:, :edge], rows))

    if len(edges) == 1:
        return to(edges[0])(rows)
    which = jnp.searchsorted(jnp.asarray(edges), longest)
    return lax.switch(which, [to(e) for e in edges], rows)


def forward_by_length(
    fn: Callable[[Rows], Any],
    rows: Rows,
    length: Int[Array, " B"],
    *,
    edges: tuple[int, ...],
    micro: int,
) -> Any:
    """The outputs of `fn` for all rows, in their order; 0 where a row was cut off.

    Args:
      fn: outputs `(micro, n, ...)` of a micro-batch that was cut to n positions.
      rows: arrays `(B, N, ...)`.
      length: positions of each row that hold a token.
      edges: increasing, the last one N.
      micro: rows of one micro-batch, a divisor of B.
    """
    n = edges[-1]
    parts, longest, order = _split(rows, length, micro)

    def padded(rows: Rows) -> Any:
        def pad(a: Array) -> Array:
            return jnp.pad(a, ((0, 0), (0, n - a.shape[1]), *[(0, 0)] * (a.ndim - 2)))

        return jax.tree.map(pad, fn(rows))

    def in_order(out: Array) -> Array:
        flat = out.reshape(length.shape[0], *out.shape[2:])
        return jnp.zeros_like(flat).at[order].set(flat, unique_indices=True)

    out = lax.map(lambda a: _cut(padded, edges, *a), (parts, longest))
    return jax.tree.map(in_order, out)


def loss_by_length(
    fn: Callable[[Params, Rows, Array], tuple[Array, Array]],
    rows: Rows,
    length: Int[Array, " B"],
    *,
    edges: tuple[int, ...],
    micro: int,
    over: Callable[[Rows], Rows] | None = None,
) -> Callable[[Params], tuple[Array, Array]]:
    """A function of the parameters: the sums of `fn` over all micro-batches.

    Where it is differentiated, each micro-batch is passed forward and backward before
    the next one, and gradients are added; it can be differentiated once, with respect
    to the parameters.

    Args:
      fn: parameters, a cut micro-batch and its number to (weighted sum of losses, sum
        of weights); weights must not depend on the parameters.
      rows: arrays `(B, N, ...)`.
      length: positions of each row that hold a token.
      edges: increasing, the last one N.
      micro: rows of one micro-batch, a divisor of B.
      over: puts the rows of every micro-batch on several devices.
    """
    parts, longest, _ = _split(rows, length, micro)
    parts = parts if over is None else over(parts)
    xs = (parts, longest, jnp.arange(longest.shape[0]))

    def one(params: Params, x: Any) -> tuple[Array, Array]:
        part, most, i = x
        return _cut(lambda r: fn(params, r, i), edges, part, most)

    def one_with_gradient(params: Params, x: Any) -> tuple[Array, Array, Params]:
        part, most, i = x

        def both(r: Rows) -> tuple[Array, Array, Params]:
            (total, weight), grad = jax.value_and_grad(fn, has_aux=True)(params, r, i)
            return total, weight, grad

        return _cut(both, edges, part, most)

    def add(carry: Any, new: Any) -> Any:
        return jax.tree.map(jnp.add, carry, new)

    def scanned(params: Params, body: Callable[..., Any]) -> Any:
        first = jax.eval_shape(body, params, jax.tree.map(lambda a: a[0], xs))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), first)
        return lax.scan(lambda c, x: (add(c, body(params, x)), None), zero, xs)[0]

    @jax.custom_vjp
    def summed(params: Params) -> tuple[Array, Array]:
        return scanned(params, one)

    def forward(params: Params) -> tuple[tuple[Array, Array], Params]:
        total, weight, grad = scanned(params, one_with_gradient)
        return (total, weight), grad

    def backward(grad: Params, cotangent: tuple[Array, Array]) -> tuple[Params]:
        return (jax.tree.map(lambda g: cotangent[0] * g, grad),)

    summed.defvjp(forward, backward)
    return summed
