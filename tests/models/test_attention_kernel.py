"""Attention in Triton kernels, interpreted, against the same attention without them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.models.attention import attend
from sandbox.types import Array


def draw(n: int, d: int = 8) -> tuple[Array, ...]:
    keys = jax.random.split(jax.random.key(n), 6)
    b, h = 2, 3
    q, k, v, g = (jax.random.normal(key, (b, h, n, d)) for key in keys[:4])
    visible = jax.random.uniform(keys[4], (b, n)) < 0.7
    visible = visible.at[1].set(False).at[1, 3].set(True)
    words = jax.random.bits(keys[5], (b, h, 2, n), jnp.uint32)
    return q, k, v, g, visible, words


@pytest.mark.parametrize(
    ("n", "causal", "rate"), [(75, False, 0.1), (64, True, 0.0), (7, True, 0.1)]
)
def test_kernels_give_the_same_numbers(n: int, causal: bool, rate: float) -> None:
    q, k, v, g, visible, words = draw(n)

    def pull(triton: bool) -> tuple[Array, ...]:
        def out(*args: Array) -> Array:
            how = {"causal": causal, "words": words, "rate": rate, "triton": triton}
            return attend(*args, visible, **how)

        value, back = jax.vjp(out, q, k, v)
        return value, *back(g)

    for a, b in zip(pull(True), pull(False), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def test_hidden_rows_get_nothing() -> None:
    q, k, v, g, visible, _ = draw(9)
    out, back = jax.vjp(
        lambda *a: attend(*a, visible & False, causal=False, triton=True), q, k, v
    )
    for a in (out, *back(g)):
        np.testing.assert_array_equal(a, 0)


def test_what_is_dropped_is_the_same() -> None:
    """Values of the dropped entries, read off one key at a time."""
    q, k, _, _, _, words = draw(17)
    eye = jnp.broadcast_to(jnp.eye(17), (2, 3, 17, 17))
    all_seen = jnp.ones((2, 17), bool)

    def weights(triton: bool) -> np.ndarray:
        how = {"causal": False, "words": words, "rate": 0.4, "triton": triton}
        some = [attend(q, k, eye[..., i : i + 8], all_seen, **how) for i in (0, 8)]
        return np.concatenate(some, -1)

    assert 0.2 < (weights(False) == 0).mean() < 0.6
    np.testing.assert_array_equal(weights(True) == 0, weights(False) == 0)
    np.testing.assert_allclose(weights(True), weights(False), atol=1e-6)


def test_bfloat16_factors() -> None:
    q, k, v, _, visible, _ = draw(75)
    how = {"causal": False, "half": True}
    a, b = (attend(q, k, v, visible, triton=t, **how) for t in (True, False))
    np.testing.assert_allclose(a, b, atol=1e-2)
