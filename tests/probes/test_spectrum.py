"""Exact Fourier weight by degree: perfect parity, Parseval, small cubes only."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.probes.spectrum import SpectrumProbe
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import ExplicitSupport, Parity
from sandbox.types import Outputs

TASK = Parity(d=6, k=3, support=ExplicitSupport(indices=(0, 2, 5)))


class Oracle:
    """Puts all its probability on the label."""

    n_classes = 2

    def init(self, key):
        return {}

    def apply(self, params, x, *, key=None, taps=()):
        wrong = TASK.labels(x, TASK.supports(None))
        return Outputs(100.0 * jnp.stack([1.0 - wrong, wrong * 1.0], -1), {})

    def width_axes(self, params):
        return {}


def test_a_perfect_parity_network_has_weight_at_degrees_0_and_k_only():
    out = jax.jit(SpectrumProbe(TASK, Oracle()).measure)({}, jax.random.key(0))
    expected = np.zeros((7, 2))
    expected[0] = expected[3] = 0.25  # p(1|x) = (1 - chi_S)/2
    np.testing.assert_allclose(out["weight"], expected, atol=1e-6)
    np.testing.assert_allclose(out["in_support"][0], expected, atol=1e-6)


def test_weights_match_brute_force_and_parseval(key):
    model = MLP(d=6, hidden=(16,))
    params = jax.jit(model.init)(key)
    out = jax.jit(SpectrumProbe(TASK, model).measure)(params, key)
    cube = TASK.enumerate(key)
    x = np.asarray(cube.x)
    p = np.asarray(jax.jit(lambda x: jax.nn.softmax(model.apply(params, x).logits))(x))
    np.testing.assert_allclose(out["weight"].sum(0), (p**2).mean(0), rtol=1e-5)
    for j in range(7):
        pairs = [
            ((p * x[:, list(a)].prod(1)[:, None]).mean(0) ** 2, set(a) <= {0, 2, 5})
            for a in itertools.combinations(range(6), j)
        ]
        every = sum(c for c, _ in pairs)
        within = sum((c for c, inside in pairs if inside), np.zeros(2))
        np.testing.assert_allclose(out["weight"][j], every, atol=1e-6)
        np.testing.assert_allclose(out["in_support"][0, j], within, atol=1e-6)


def test_a_monomial_of_several_nodes_counts_once(key):
    task = Hierarchy(d=6, depth=2, feature_complexity=2, layout="shared")
    model = MLP(d=6, hidden=(16,), n_classes=task.n_classes)
    params = jax.jit(model.init)(key)
    out = jax.jit(SpectrumProbe(task, model).measure)(params, key)
    x = np.asarray(task.enumerate(key).x)
    p = np.asarray(jax.jit(lambda x: jax.nn.softmax(model.apply(params, x).logits))(x))
    nodes = [set(s) for s in np.asarray(task.supports(key)).tolist()]
    for j in range(3):
        found = [
            (p * x[:, list(a)].prod(1)[:, None]).mean(0) ** 2
            for a in itertools.combinations(range(6), j)
            if any(set(a) <= node for node in nodes)
        ]
        np.testing.assert_allclose(out["in_any"][j], sum(found), atol=1e-6)
    assert (out["in_any"] <= out["weight"] + 1e-7).all()


def test_large_cubes_are_refused():
    with pytest.raises(ConfigError, match=r"task\.d must be at most 20"):
        SpectrumProbe(Parity(d=21, k=2), MLP(d=21, hidden=(4,)))
