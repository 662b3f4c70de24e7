"""Attention: softmax, hidden keys, tiles, dropped weights, second derivatives."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.models.attention import attend, attention_weights

pytestmark = pytest.mark.slow  # compiling takes minutes

# Half the time of a test is compiling; it need not be fast code.
_CHEAP = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
compiled = partial(jax.jit, compiler_options=_CHEAP)


def some_visible(n: int) -> jax.Array:
    """Two rows, keys visible with probability .7, the first one always."""
    visible = np.random.default_rng(0).random((2, n)) < 0.7
    visible[:, 0] = True
    return jnp.asarray(visible)


def plain(
    q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array, causal: bool
) -> jax.Array:
    """Attention as in the books, derived by jax."""
    s = jnp.einsum("bhqd,bhkd->bhqk", q, k)
    allowed = visible[:, None, None, :]
    if causal:
        allowed = allowed & jnp.tri(q.shape[2], dtype=bool)[None, None]
    p = jax.nn.softmax(jnp.where(allowed, s, -jnp.inf), -1)
    return jnp.einsum("bhqk,bhkd->bhqd", p, v)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_softmax(x64: None, causal: bool) -> None:
    """Values and gradients, in one batch and by tiles; scores up to 6 and to 10,000."""
    q, k, v, w = jax.random.normal(jax.random.key(0), (4, 2, 3, 33, 8))
    visible = some_visible(33)

    @compiled
    def three(q: jax.Array, k: jax.Array) -> Any:
        def both(f: Any) -> Any:
            out, pull = jax.vjp(f, q, k, v)
            return out, pull(w)

        options = dict(visible=visible, causal=causal)
        batch = both(partial(attend, tiled=False, **options))
        tiles = both(partial(attend, tiled=True, **options))
        p = attention_weights(q, k, **options)
        want = both(lambda *a: plain(*a, visible, causal))
        return batch, tiles, want, jnp.einsum("bhqk,bhkd->bhqd", p, v)

    for spread in (1.0, 40.0):
        batch, tiles, want, by_weights = three(spread * q, spread * k)
        for got in (batch, tiles):
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-13 * spread, rtol=1e-11)
        np.testing.assert_allclose(by_weights, want[0], atol=1e-13)


@pytest.mark.parametrize("causal", [False, True])
def test_tiles_drop_the_same_weights(x64: None, causal: bool) -> None:
    """And the gradient is that of the dropped-out sum, weights as attention gives."""
    q, k, v, w = jax.random.normal(jax.random.key(0), (4, 2, 3, 17, 4))
    visible = some_visible(17)
    words = jax.random.bits(jax.random.key(5), (2, 3, 2, 17), jnp.uint32)
    options = dict(causal=causal, words=words, rate=0.3)
    eye = jnp.broadcast_to(jnp.eye(17), (2, 3, 17, 17))

    @compiled
    def three() -> Any:
        tiled = partial(attend, visible=visible, tiled=True, **options)
        batch = partial(attend, visible=visible, tiled=False, **options)
        # Values that are unit vectors give the weights after dropout.
        keep = batch(q, k, eye) > 0

        def derived(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            p = attention_weights(q, k, visible, causal=causal)
            p = jnp.where(keep, p / (1 - round(0.3 * 2**16) / 2**16), 0)
            return jnp.einsum("bhqk,bhkd->bhqd", p, v)

        def both(f: Any) -> Any:
            out, pull = jax.vjp(f, q, k, v)
            return out, pull(w)

        return both(tiled), both(batch), both(derived)

    tiled, batch, derived = three()
    for other in (batch, derived):
        for a, b in zip(jax.tree.leaves(tiled), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-13)


def test_second_derivatives_exist(x64: None) -> None:
    """Meta-gradients differentiate a gradient step."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 2, 9, 4))
    visible = jnp.ones((1, 9), bool)

    def slope_of(f: Any) -> jax.Array:
        first = jax.grad(lambda a: jnp.sum(jnp.sin(f(a, k, v))))
        return compiled(jax.grad(lambda a: jnp.sum(jnp.cos(first(a)))))(q)

    got = slope_of(lambda *a: attend(*a, visible, causal=True))
    want = slope_of(lambda *a: plain(*a, visible, True))
    np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tiled", [False, True])
def test_all_keys_hidden(causal: bool, tiled: bool) -> None:
    """Output and gradients are zero there, and finite elsewhere."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 1, 6, 4))
    visible = some_visible(6).at[1].set(False)

    @compiled
    def both(*a: jax.Array) -> Any:
        f = partial(attend, visible=visible, causal=causal, tiled=tiled)
        out, pull = jax.vjp(f, *a)
        weights = attention_weights(*a[:2], visible, causal=causal)
        return out, weights, *pull(jnp.ones_like(out))

    for array in both(q, k, v):
        assert bool(jnp.isfinite(array).all() and (array[1] == 0).all())
        assert bool((array[0] != 0).any())


def test_dropped_weights_are_a_fair_coin() -> None:
    """Keys q = k = 0 make all weights 1/N: the output counts the kept ones.

    The share dropped, its variance over queries and over keys, and the correlation of
    neighbours, each within 5 standard errors of independent draws.
    """
    n, rate = 64, 0.1
    zeros = jnp.zeros((8, 4, n, n))
    v = jnp.broadcast_to(n * jnp.eye(n), zeros.shape)
    out = attend(
        zeros,
        zeros,
        v,
        jnp.ones((8, n), bool),
        causal=False,
        words=jax.random.bits(jax.random.key(0), (8, 4, 2, n), jnp.uint32),
        rate=rate,
    )
    kept = np.asarray(out) > 0
    np.testing.assert_allclose(np.asarray(out)[kept], 1 / (1 - 6554 / 65536), rtol=1e-5)
    z = (kept - (1 - rate)) / np.sqrt(rate * (1 - rate))
    count = z.size
    assert abs(z.mean()) < 5 / np.sqrt(count)
    for axis in (0, 1, 2, 3):
        neighbours = z * np.roll(z, 1, axis)
        assert abs(neighbours.mean()) < 5 / np.sqrt(count)
        means = z.mean(axis)
        error = np.sqrt(2 / means.size)
        assert abs((means**2).mean() * z.shape[axis] - 1) < 5 * error
    # No rectangle of four decisions is tied, although words belong to rows and columns.
    square = z * np.roll(z, 1, 2) * np.roll(z, 1, 3) * np.roll(z, (1, 1), (2, 3))
    assert abs(square.mean()) < 5 / np.sqrt(count)
