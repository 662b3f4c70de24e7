"""The perceptron: PyTorch's initial weights, forward passes, names and refusals."""

from math import sqrt

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.models.base import Model
from sandbox.models.mlp import MANY_ROWS, MLP, WIDE, tiled_logits
from sandbox.platforms import PLATFORMS


def test_initial_weights_are_torch_uniform() -> None:
    """U(-b, b), b = 1/sqrt(fan_in), biases too: range, mean, variance, quantiles."""
    params = MLP(d=64, hidden=(400, 100), n_classes=8).init(jax.random.key(0))
    leaves = []
    for name, fan_in in (("layer_0", 64), ("layer_1", 400), ("layer_2", 100)):
        for leaf in params[name].values():
            u = np.asarray(leaf, float).ravel() * sqrt(fan_in)
            assert np.abs(u).max() <= 1 + 1e-6
            leaves.append(u)
            n = u.size
            assert abs(u.mean()) < 5 * sqrt(1 / 3 / n)
            assert abs((u**2).mean() - 1 / 3) < 5 * sqrt(4 / 45 / n)
            assert np.abs(u).max() > 1 - 20 / n
    big = np.sort(leaves[0 if leaves[0].size > leaves[1].size else 1])
    grid = np.linspace(-1, 1, big.size)
    assert np.abs(big - grid).max() < 2 * 1.63 / sqrt(big.size)  # Kolmogorov, 1%


def test_forward_by_hand(x64: None) -> None:
    model = MLP(d=5, hidden=(7, 4), n_classes=3)
    params = model.init(jax.random.key(1))
    x = np.where(np.random.default_rng(0).random((6, 5)) < 0.5, 1.0, -1.0)
    p = jax.tree.map(np.asarray, params)
    h0 = np.maximum(x @ p["layer_0"]["kernel"] + p["layer_0"]["bias"], 0)
    h1 = np.maximum(h0 @ p["layer_1"]["kernel"] + p["layer_1"]["bias"], 0)
    z = h1 @ p["layer_2"]["kernel"] + p["layer_2"]["bias"]
    out = model.apply(params, jnp.asarray(x), taps=("hidden_1", "hidden_0"))
    np.testing.assert_allclose(out.logits, z, atol=1e-14)
    np.testing.assert_allclose(out.acts["hidden_0"], h0, atol=1e-14)
    np.testing.assert_allclose(out.acts["hidden_1"], h1, atol=1e-14)
    assert model.apply(params, jnp.asarray(x)).acts == {}
    assert isinstance(model, Model)


@pytest.mark.parametrize("m, tile", [(12, 4), (13, 4), (3, 4), (4, 4), (13, 13)])
def test_tiles_sum_to_the_plain_pass(x64: None, m: int, tile: int) -> None:
    model = MLP(d=5, hidden=(m,), n_classes=3)
    params = model.init(jax.random.key(m))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)))
    np.testing.assert_allclose(
        tiled_logits(params, x, tile=tile), model.apply(params, x).logits, atol=1e-14
    )


@pytest.mark.long
def test_wide_networks_are_tiled_and_agree() -> None:
    """Taps force the plain pass; float32 sums of 4,001 terms differ by 1e-5 at most."""
    m = WIDE + 1
    assert m % PLATFORMS["cpu"].hidden
    model = MLP(d=5, hidden=(m,))
    params = model.init(jax.random.key(0))
    x = jnp.ones((MANY_ROWS, 5))

    def arrays(rows: int) -> str:
        few = x[:rows]
        return str(jax.make_jaxpr(lambda p: model.apply(p, few).logits)(params))

    assert f"{MANY_ROWS},{m}]" not in arrays(MANY_ROWS)  # no (B, m) array
    assert f"3,{m}]" in arrays(3)  # few rows: the plain pass
    plain = model.apply(params, x, taps=("hidden_0",))
    np.testing.assert_allclose(model.apply(params, x).logits, plain.logits, atol=1e-5)


def test_axes_have_names() -> None:
    model = MLP(d=5, hidden=(7, 4), n_classes=3)
    params = model.init(jax.random.key(1))
    sizes = {"hidden_0": 7, "hidden_1": 4}
    seen = []

    def check(leaf: jax.Array, names: tuple[str, ...]) -> None:
        assert len(names) == leaf.ndim
        for n, name in zip(leaf.shape, names, strict=True):
            assert name == "io" or sizes[name] == n
        seen.append(names)

    jax.tree.map(check, params, model.width_axes(params))
    assert ("io", "hidden_0") in seen and ("hidden_1", "io") in seen


@pytest.mark.parametrize(
    "fields, named",
    [
        (dict(d=0), r"model\.d"),
        (dict(hidden=()), r"model\.hidden"),
        (dict(hidden=(5, 0)), r"model\.hidden"),
        (dict(n_classes=1), r"model\.n_classes"),
    ],
)
def test_refused(fields: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        MLP(**fields)


def test_unknown_taps_are_named() -> None:
    model = MLP(d=5, hidden=(7,))
    params = model.init(jax.random.key(1))
    with pytest.raises(ConfigError, match="hidden_0, got hidden_1"):
        model.apply(params, jnp.ones((2, 5)), taps=("hidden_1",))


@pytest.mark.parametrize("hidden, applies", [((9,), True), ((9, 9), False)])
def test_capability(hidden: tuple[int, ...], applies: bool) -> None:
    assert MLP(d=4, hidden=hidden).two_layer_relu is applies
