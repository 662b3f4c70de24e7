"""Laws of the alignment probe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.probes.alignment import AlignmentProbe, alignment
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import Parity, RandomSupport


def test_known_weights():
    """Columns: all on the support, none on it, 3-4-5, and dead (chance)."""
    w = jnp.array([[1.0, 0, 3, 0], [2.0, 0, 0, 0], [0, 1.0, 4, 0], [0, 5.0, 0, 0]])
    a = jax.jit(alignment)(w, jnp.array([[0, 1]]))
    np.testing.assert_allclose(a, [[1, 0, 9 / 25, 0.5]], rtol=1e-6)


def test_isotropic_weights_sit_at_chance():
    """Mean over 4,000 neurons within 5 standard errors of k/d."""
    probe = AlignmentProbe(Parity(d=20, k=5, support=RandomSupport()))
    params = jax.jit(MLP(d=20, hidden=(4000,)).init)(jax.random.key(0))
    out = jax.jit(probe.measure)(params, jax.random.key(1))
    a = np.asarray(out["alignment"])
    assert a.shape == (1, 4000)
    assert abs(out["mean"][0] - 0.25) < 5 * a.std() / np.sqrt(4000)
    np.testing.assert_allclose(out["chance"], 0.25)
    np.testing.assert_allclose(out["quantiles"][0], np.quantile(a, probe.levels), 1e-5)


def test_disjoint_supports_that_cover_share_out_every_neuron():
    """Shares of disjoint nodes add up to one and ignore scale and sign."""
    task = Hierarchy(d=6, depth=2, feature_complexity=2)
    params = jax.jit(MLP(d=6, hidden=(9,), n_classes=4).init)(jax.random.key(2))
    measure = jax.jit(AlignmentProbe(task, levels=(0.5,)).measure)
    out = measure(params, jax.random.key(3))
    assert out["alignment"].shape == (3, 9) and out["quantiles"].shape == (3, 1)
    np.testing.assert_allclose(out["alignment"].sum(0), 1, rtol=1e-6)
    scaled = jax.tree.map(lambda leaf: -3 * leaf, params)
    again = measure(scaled, jax.random.key(3))
    np.testing.assert_allclose(out["alignment"], again["alignment"], rtol=1e-6)


def test_support_comes_from_the_lane():
    task = Parity(d=10, k=2, support=RandomSupport())
    key = jax.random.key(7)
    s = jax.jit(task.supports)(key)[0]
    w = jnp.zeros((10, 3)).at[s].set(1.0)
    params = {"layer_0": {"kernel": w, "bias": jnp.zeros(3)}}
    out = jax.jit(AlignmentProbe(task).measure)(params, key)
    np.testing.assert_allclose(out["mean"], [1.0])


def test_other_networks_are_refused():
    with pytest.raises(ConfigError, match="layer_0"):
        AlignmentProbe(Parity(d=4, k=2)).measure({"embed": {}}, jax.random.key(0))
    with pytest.raises(ConfigError, match=r"probe\.levels"):
        AlignmentProbe(Parity(d=4, k=2), levels=(1.5,))
