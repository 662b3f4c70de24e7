"""Rows by length: the same sums, gradients and order as all rows at once.

The function of a row depends on its valid positions alone, as a transformer's does, and
compiles at once. In float64 sums of order ten agree to 1e-12.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.train.buckets import forward_by_length, loss_by_length, micro_size

B, N, C = 12, 10, 3
SPLITS = [(6, (10,)), (12, (4, 10)), (4, (3, 5, 8, 10)), (1, (5, 10))]
each_split = pytest.mark.parametrize(("micro", "edges"), SPLITS)


def rows_of(seed: int = 0) -> tuple[dict[str, jax.Array], jax.Array]:
    """Rows of 1 to N positions in no order, and their lengths."""
    rng = np.random.default_rng(seed)
    length = rng.permutation([1, 3, 3, 4, 5, 5, 5, 7, 8, 9, 10, 10])
    valid = np.arange(N) < length[:, None]
    x = rng.normal(size=(B, N, C))
    weight = rng.uniform(size=(B, N)) * valid
    rows = {"x": x, "valid": valid, "weight": weight}
    return jax.tree.map(jnp.asarray, rows), jnp.asarray(length)


def params_of(seed: int = 1) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    shapes = {"own": (C, C), "mean": (C, C), "position": (N, C)}
    return {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()}


def outputs(params: Any, rows: Any) -> jax.Array:
    """Each position's own input, the mean of its row's valid ones, and its place."""
    x, valid = rows["x"], rows["valid"].astype(float)[..., None]
    mean = jnp.sum(x * valid, 1) / jnp.sum(valid, 1)
    place = params["position"][None, : x.shape[1]]
    return jnp.tanh(x @ params["own"] + (mean @ params["mean"])[:, None] + place)


def summed(params: Any, rows: Any, part: Any = None) -> tuple[jax.Array, jax.Array]:
    del part
    per_position = jnp.sum(outputs(params, rows) ** 2, -1)
    weight = rows["weight"]
    return jnp.sum(weight * per_position), jnp.sum(weight)


def close(a: Any, b: Any) -> None:
    jax.tree.map(
        lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-12, atol=1e-12), a, b
    )


def test_micro_batches_divide_the_batch() -> None:
    sizes = [micro_size(12, m) for m in (0, 1, 2, 5, 7, 12, 100)]
    assert sizes == [12, 1, 2, 4, 6, 12, 12]
    assert micro_size(7, 5) == 1


@each_split
def test_outputs_come_back_in_order(
    x64: None, micro: int, edges: tuple[int, ...]
) -> None:
    rows, length = rows_of()
    params = params_of()

    @jax.jit
    def both(params: Any) -> Any:
        def fn(rows: Any) -> jax.Array:
            return outputs(params, rows)

        return forward_by_length(fn, rows, length, edges=edges, micro=micro), fn(rows)

    got, plain = jax.device_get(both(params))
    assert got.shape == (B, N, C)
    valid = np.asarray(rows["valid"])
    close(got[valid], plain[valid])
    # Rows of a micro-batch are cut together, at the edge that holds the longest.
    order = np.argsort(length, kind="stable").reshape(-1, micro)
    for part in order:
        edge = min(e for e in edges if e >= np.asarray(length)[part].max())
        assert (got[part, edge:] == 0).all()
        close(got[part, :edge], plain[part, :edge])


Sums = Callable[[Any], tuple[jax.Array, jax.Array]]


def by_length(micro: int, edges: tuple[int, ...]) -> Sums:
    rows, length = rows_of()
    return loss_by_length(summed, rows, length, edges=edges, micro=micro)


def plainly(params: Any) -> tuple[jax.Array, jax.Array]:
    return summed(params, rows_of()[0])


def uses(sums: Sums) -> Callable[[Any], Any]:
    """Sums, their gradient, that of a mean through a view, and a pull-back."""

    def mean(phi: Any) -> jax.Array:
        view = jax.tree.map(lambda p: jnp.sin(2 * p), phi)
        total, weight = sums(view | {"mean": view["own"]})
        return total / weight

    def of(params: Any) -> Any:
        back = jax.vjp(sums, params)[1]
        return (
            sums(params),
            jax.value_and_grad(lambda p: sums(p)[0])(params),
            jax.value_and_grad(mean)(params),
            back((jnp.asarray(-3.0), jnp.asarray(0.0))),
        )

    return jax.jit(of)


@cache
def expected() -> Any:
    return jax.device_get(uses(plainly)(params_of()))


@each_split
def test_loss_and_gradient_are_those_of_all_rows(
    x64: None, micro: int, edges: tuple[int, ...]
) -> None:
    found = uses(by_length(micro, edges))(params_of())
    close(found, expected())
    for grad in (found[1][1], found[2][1]):
        assert min(np.abs(grad[k]).max() for k in ("own", "position")) > 0.01


def test_gradients_inside_loops(x64: None) -> None:
    """A step of a scan, lanes one after the other: how training calls it."""
    rows, length = rows_of()
    lanes = jax.tree.map(lambda *p: jnp.stack(p), params_of(1), params_of(2))

    def train(step_loss: Callable[[Any, Any], Any]) -> Any:
        def lane(params: Any, scale: Any) -> Any:
            def loss(p: Any) -> jax.Array:
                total, weight = step_loss(p, rows | {"x": scale * rows["x"]})
                return total / weight

            grad = jax.grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grad)

        def step(lanes: Any, scale: Any) -> Any:
            return jax.lax.map(lambda p: lane(p, scale), lanes), None

        return jax.jit(lambda p: jax.lax.scan(step, p, jnp.arange(1.0, 4.0))[0])(lanes)

    def cut(params: Any, rows: Any) -> Any:
        sums = loss_by_length(summed, rows, length, edges=(4, 8, N), micro=3)
        return sums(params)

    close(train(cut), train(summed))


def test_parts_are_numbered_and_cut_to_what_they_need(x64: None) -> None:
    """Sums of shapes and numbers tell what `fn` was given."""

    def fn(params: Any, rows: Any, part: Any) -> tuple[jax.Array, jax.Array]:
        b, n = rows["weight"].shape
        return params["own"][0, 0] * (10.0**part), jnp.asarray(float(b * n))

    rows, length = rows_of()
    split = loss_by_length(fn, rows, length, edges=(3, 5, 8, 10), micro=3)
    total, area = jax.jit(split)({"own": jnp.ones((1, 1))})
    assert float(total) == 1111
    # Sorted: 1 3 3 | 4 5 5 | 5 7 8 | 9 10 10.
    assert float(area) == 3 * (3 + 5 + 8 + 10)
    grad = jax.jit(jax.grad(lambda p: split(p)[0]))({"own": jnp.ones((1, 1))})
    assert float(grad["own"][0, 0]) == 1111
