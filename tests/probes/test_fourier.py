"""Laws of the Fourier probe: known spectra, Parseval, errors that are errors."""

from dataclasses import dataclass
from itertools import chain, combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.probes import fourier
from sandbox.probes.fourier import (
    FourierProbe,
    degree1_gap,
    exact_spectrum,
    fwht,
    in_support_subsets,
    monomial_correlation,
    monomials,
    off_support_subsets,
)
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import ExplicitSupport, Parity, RandomSupport
from sandbox.types import Outputs
from tests.tasks.conftest import sample


@dataclass(frozen=True)
class Oracle:
    """p(1 | x) = 1/2 + a chi_S(x) + b sum_{i in S} x_i, with S, a, b in params."""

    n_classes: int = 2

    def init(self, key):
        return {}

    def apply(self, params, x, *, key=None, taps=()):
        x_S = x[:, params["support"]]
        p = 0.5 + params["parity"] * x_S.prod(1) + params["linear"] * x_S.sum(1)
        return Outputs(jnp.log(jnp.stack([1 - p, p], 1)), {})

    def width_axes(self, params):
        return params


def oracle_params(support, parity=-0.3, linear=0.02):
    return {"support": jnp.asarray(support), "parity": parity, "linear": linear}


def mask(subset):
    return sum(1 << i for i in subset)


def all_subsets(d):
    return list(chain.from_iterable(combinations(range(d), a) for a in range(d + 1)))


def brute_force(p, x):
    """{A: E[p chi_A]} by direct sums in float64."""
    p, x = np.asarray(p, float), np.asarray(x, float)
    return {
        a: (p * x[:, list(a)].prod(1)[:, None]).mean(0) for a in all_subsets(x.shape[1])
    }


def test_monomials_are_products(key):
    x = np.asarray(sample(Parity(d=7, k=2), key, 0, 20, split="probe").x)
    got = monomials(x, jnp.array([[0, 3], [6, 1], [2, 5]]))
    np.testing.assert_array_equal(got[:, 1], x[:, 6] * x[:, 1])
    assert got.shape == (20, 3)
    np.testing.assert_array_equal(monomials(x, jnp.zeros((1, 0), int)), 1)


def test_spectrum_of_parity():
    """p(1 | x) = (1 - chi_S) / 2: weight 1/2 on the empty set and -1/2 on S."""
    cube = Parity(d=5, k=3, support=ExplicitSupport(indices=(0, 2, 4))).enumerate()
    c = jax.jit(fwht)(np.eye(2, dtype=np.float32)[np.asarray(cube.y)])
    expected = np.zeros((32, 2))
    expected[0] = 0.5
    expected[mask((0, 2, 4))] = [0.5, -0.5]
    np.testing.assert_array_equal(c, expected)


def test_spectrum_of_majority_and_of_and():
    """maj = (x1 + x2 + x3 - x1 x2 x3) / 2; AND of k has (-1)^|A| 2^-k everywhere."""
    x = np.asarray(Parity(d=3, k=1).enumerate().x)
    spectrum = jax.jit(fwht)
    c = np.asarray(spectrum(np.sign(x.sum(1, keepdims=True))))[:, 0]
    np.testing.assert_array_equal(c, [0, 0.5, 0.5, 0, 0.5, 0, 0, -0.5])
    both = (x[:, :2] == -1).all(1, keepdims=True).astype(np.float32)
    c = np.asarray(spectrum(both))[:, 0]
    np.testing.assert_array_equal(c, [0.25, -0.25, -0.25, 0.25, 0, 0, 0, 0])


def test_fwht_agrees_with_sums_and_parseval(x64, key):
    x = Parity(d=6, k=2).enumerate().x
    p = jax.random.uniform(key, (64, 3))
    spectrum = jax.jit(fwht)
    c = np.asarray(spectrum(p))
    for subset, expected in brute_force(p, x).items():
        np.testing.assert_allclose(c[mask(subset)], expected, atol=1e-14)
    np.testing.assert_allclose((c**2).sum(0), (np.asarray(p) ** 2).mean(0), rtol=1e-13)
    np.testing.assert_allclose(spectrum(spectrum(p)) * 64, p, rtol=1e-13)


def test_fwht_refuses_a_partial_cube():
    with pytest.raises(ConfigError, match="2\\^d rows"):
        fwht(jnp.ones((6, 2)))


def test_exact_spectrum_of_a_network(monkeypatch, key):
    """Chunking the cube changes nothing; rows mean what `enumerate` says."""
    task, model = Parity(d=6, k=2, support=RandomSupport()), MLP(d=6, hidden=(8,))
    params = jax.jit(model.init)(key)

    def exact():
        return jax.jit(lambda p, k: exact_spectrum(task, model, p, k))(params, key)

    whole = np.asarray(exact())
    monkeypatch.setattr(fourier, "CHUNK", 16)
    np.testing.assert_allclose(exact(), whole, atol=1e-7)
    x = task.enumerate(key).x
    p = jax.jit(lambda x: jax.nn.softmax(model.apply(params, x).logits))(x)
    for subset, expected in brute_force(p, x).items():
        np.testing.assert_allclose(whole[mask(subset)], expected, atol=1e-6)


def test_exact_spectrum_names_the_size_it_refuses():
    with pytest.raises(ConfigError, match=r"task\.d must be at most 20.*got 21"):
        exact_spectrum(Parity(d=21, k=2), MLP(d=21), {})


def test_correlation_is_the_centred_mean_with_its_standard_error(x64, key):
    x = sample(Parity(d=6, k=2), key, 0, 50, split="probe").x
    p = jax.random.uniform(key, (50, 3)) + x[:, :1]
    subsets = jnp.array([[0, 1], [2, 5]])
    c, se = jax.jit(monomial_correlation)(p, x, subsets)
    p, x = np.asarray(p), np.asarray(x)
    chi = x[:, np.asarray(subsets)].prod(-1)
    z = (p - p.mean(0))[:, None, :] * chi[:, :, None]
    np.testing.assert_allclose(c, z.mean(0), atol=1e-15)
    np.testing.assert_allclose(se, z.std(0, ddof=1) / np.sqrt(50), rtol=1e-12)


def test_float32_errors_do_not_lose_a_small_variance():
    """A nearly constant output: its spread, 1e-4, survives the sums."""
    task, params = Parity(d=8, k=3), oracle_params([0, 1, 2], parity=1e-4, linear=0.0)
    probe = FourierProbe(
        task, Oracle(), degrees=(3,), off_count=2, points=5000, batch=1000
    )
    out = jax.jit(probe.measure)(params, jax.random.key(3))
    np.testing.assert_allclose(out["in_support/3"][0, 0], [-1e-4, 1e-4], rtol=1e-2)
    se = np.asarray(out["off_support_se/3"])
    np.testing.assert_allclose(se, 1e-4 / np.sqrt(5000), rtol=1e-2)


def test_monte_carlo_errors_are_honest():
    """Against the exact coefficients, over 300 keys: unbiased, and se is the spread.

    The spread of 300 draws is known to 1/sqrt(600) = 4%; 5 of those are allowed.
    """
    task, model, n_keys = Parity(d=6, k=3), MLP(d=6, hidden=(8,)), 300
    params = jax.tree.map(lambda v: 4 * v, jax.jit(model.init)(jax.random.key(1)))
    probe = FourierProbe(
        task, model, degrees=(1, 2), off_count=9, points=256, batch=100
    )
    keys = jax.random.split(jax.random.key(2), n_keys)
    out = jax.jit(jax.vmap(probe.measure, (None, 0)))(params, keys)
    exact = np.asarray(jax.jit(lambda p: exact_spectrum(task, model, p))(params))
    groups = {k: s[0] for k, s in jax.jit(probe.subsets)(keys[0]).items()}
    for name, subsets in groups.items():
        kind, degree = name.split("/")
        c = np.asarray(out[name])[:, 0]
        se = np.asarray(out[f"{kind}_se/{degree}"])[:, 0]
        truth = exact[[mask(np.asarray(a).tolist()) for a in subsets]]
        assert np.abs(c[0] - truth).max() < 5 * se[0].max()
        # Centring by the sample mean shrinks the mean by the factor 1 - 1/256.
        bias = c.mean(0) - truth * (1 - 1 / 256)
        assert (np.abs(bias) < 5 * se.mean(0) / np.sqrt(n_keys)).all()
        np.testing.assert_allclose(se.mean(0), c.std(0), rtol=0.2)


@pytest.mark.long
def test_streaming_equals_one_shot(x64, key):
    """Batches with a short tail against one pass in numpy over the same rows."""
    task, model = Parity(d=9, k=3, support=RandomSupport()), MLP(d=9, hidden=(5,))
    params = jax.jit(model.init)(key)
    probe = FourierProbe(
        task, model, degrees=(2, 4), off_count=7, points=500, batch=64, first_row=30
    )

    @jax.jit
    def reference(params, key):
        x = task.sample(key, 30, 500, split="probe").x
        return x, jax.nn.softmax(model.apply(params, x).logits, -1), probe.subsets(key)

    out = jax.jit(probe.measure)(params, key)
    x, p, groups = jax.tree.map(np.asarray, reference(params, key))
    assert len(out) == 2 * (len(groups) + 1)
    for name, subsets in (groups | {"degree1": np.arange(9)[None, :, None]}).items():
        chi = x[:, subsets[0]].prod(-1)
        z = (p - p.mean(0))[:, None, :] * chi[:, :, None]
        kind, _, degree = name.partition("/")
        se_name = f"{kind}_se/{degree}" if degree else "degree1_se"
        shape = (1, *z.shape[1:]) if degree else z.shape[1:]
        assert out[name].shape == out[se_name].shape == shape
        np.testing.assert_allclose(out[name].reshape(z[0].shape), z.mean(0), atol=1e-14)
        se = z.std(0, ddof=1) / np.sqrt(500)
        np.testing.assert_allclose(out[se_name].reshape(z[0].shape), se, atol=1e-14)


def test_random_supports_are_followed():
    """Each lane's own support carries the signal, under jit and vmap over keys."""
    task, oracle = Parity(d=12, k=3, support=RandomSupport()), Oracle()
    keys = jax.random.split(jax.random.key(4), 4)
    supports = jax.jit(jax.vmap(task.supports))(keys)[:, 0]
    assert len({tuple(np.asarray(s).tolist()) for s in supports}) > 1
    probe = FourierProbe(task, oracle, degrees=(1, 2, 3, 4), off_count=30, points=4000)
    axes = {"support": 0, "parity": None, "linear": None}
    out = jax.jit(jax.vmap(probe.measure, (axes, 0)))(oracle_params(supports), keys)
    assert out["in_support/1"].shape == (4, 1, 3, 2)
    assert out["off_support/1"].shape == (4, 1, 9, 2)  # only 9 exist
    assert out["off_support/4"].shape == (4, 1, 30, 2)
    assert "in_support/4" not in out
    noise = 5 * 0.31 / np.sqrt(4000)
    np.testing.assert_allclose(out["in_support/3"][..., 1], -0.3, atol=noise)
    np.testing.assert_allclose(out["in_support/1"][..., 1], 0.02, atol=noise)
    for degree in (1, 2, 3, 4):
        assert np.abs(out[f"off_support/{degree}"]).max() < noise
    on = np.take_along_axis(
        np.asarray(out["degree1"]), np.asarray(supports)[:, :, None], 1
    )
    np.testing.assert_allclose(on, out["in_support/1"][:, 0], atol=1e-7)


def test_every_node_of_a_tree_has_its_own_monomials():
    """An output that follows node 1 alone shows on node 1's support alone."""
    task = Hierarchy(d=12, depth=2, feature_complexity=3)
    key = jax.random.key(5)
    supports = task.supports(key)
    probe = FourierProbe(task, Oracle(), degrees=(1, 3), off_count=20, points=4000)
    groups = jax.jit(probe.subsets)(key)
    np.testing.assert_array_equal(groups["in_support/3"][:, 0], supports)
    for node, off in zip(np.asarray(supports), groups["off_support/3"], strict=True):
        assert not any(set(a) <= set(node.tolist()) for a in np.asarray(off).tolist())
    out = jax.jit(probe.measure)(oracle_params(supports[1]), key)
    assert out["in_support/3"].shape == (3, 1, 2)
    assert out["in_support/1"].shape == (3, 3, 2)
    assert out["degree1"].shape == (12, 2)
    top = np.abs(np.asarray(out["in_support/3"])[:, 0, 1])
    assert top[1] > 0.25 and max(top[0], top[2]) < 5 * 0.31 / np.sqrt(4000)


@pytest.mark.parametrize(
    ("d", "k", "degree", "count", "expected"),
    [(32, 6, 1, 100, 26), (32, 6, 3, 100, 100), (8, 6, 2, 10, 10), (5, 5, 2, 9, 0)],
)
def test_off_support_subsets(d, k, degree, count, expected):
    support = np.random.default_rng(d).choice(d, k, replace=False)
    rows = off_support_subsets(d, support, degree, count=count, seed=3)
    assert rows.shape == (expected, degree)
    assert len({tuple(r) for r in rows.tolist()}) == expected
    for row in rows.tolist():
        assert len(set(row)) == degree and 0 <= min(row) and max(row) < d
        assert not set(row) <= set(support.tolist())
    again = off_support_subsets(d, support, degree, count=count, seed=3)
    np.testing.assert_array_equal(rows, again)


def test_off_support_draws_depend_on_the_seed_and_mix():
    rows = off_support_subsets(20, range(4), 2, count=150, seed=0)
    assert not np.array_equal(
        rows, off_support_subsets(20, range(4), 2, count=150, seed=1)
    )
    assert np.isin(np.arange(4), rows).all()  # mixed subsets are drawn too


def test_in_support_subsets():
    rows = in_support_subsets(np.array([1, 4, 6]), 2)
    assert rows.tolist() == [[1, 4], [1, 6], [4, 6]]
    assert in_support_subsets([1, 4], 3).shape == (0, 3)


def test_degree1_gap():
    c = jnp.array([[0.9, -0.1], [-0.3, 0.3], [0.02, 0.02], [0.0, -0.04], [0.0, 0.2]])
    gap_of = jax.jit(degree1_gap)
    gap = gap_of(c, jnp.array([[0, 1], [1, 4]]))
    np.testing.assert_allclose(gap.inside, [0.2, 0.25], rtol=1e-6)
    np.testing.assert_allclose(gap.outside, 0.03, rtol=1e-6)
    np.testing.assert_allclose(gap.gap, 0.195, rtol=1e-6)
    three = jnp.array([[0.3, 0.0, -0.1], [0.0, -0.2, 0.2], [0.01, 0.0, 0.0]])
    gap = gap_of(three, jnp.array([[0, 1]]))
    np.testing.assert_allclose(gap.inside, [0.25], rtol=1e-6)
    np.testing.assert_allclose(gap.outside, 0.01, rtol=1e-6)
    assert gap_of(three, jnp.array([[0, 1, 2]])).outside == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("degrees", (0, 1)), ("degrees", (9,)), ("points", 1), ("batch", 0)],
)
def test_impossible_probes_are_refused(field, value):
    with pytest.raises(ConfigError, match=rf"probe\.{field}"):
        FourierProbe(Parity(d=8, k=3), MLP(d=8), **{field: value})
