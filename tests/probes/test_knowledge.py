"""The split of a target's gradient; its identity is tested with the methods."""

import jax
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.probes.knowledge import KnowledgeProbe
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import Parity


def test_terms_of_teachers(key: jax.Array) -> None:
    """Two classes have the first alone; on trees all of them are there."""
    small = MLP(d=8, hidden=(4,))
    probe = KnowledgeProbe(Parity(d=8, k=2), MLP(d=8, hidden=(16,)), student=small)
    found = jax.jit(probe.measure)(probe.model.init(key), key)
    assert found["instance"] > 0.01
    np.testing.assert_allclose([found["universe"], found["domain"]], 0, atol=1e-6)
    size = {"d": 8, "n_classes": 4}
    nets = MLP(hidden=(16,), **size), MLP(hidden=(4,), **size)
    task = Hierarchy(d=8, depth=2, feature_complexity=2)
    probe = KnowledgeProbe(task, nets[0], student=nets[1], points=512)
    found = jax.jit(probe.measure)(nets[0].init(key), key)
    assert min(float(v) for v in found.values()) > 0.01
    with pytest.raises(ConfigError, match="points must be at least 1"):
        KnowledgeProbe(task, nets[0], student=nets[1], points=0)
