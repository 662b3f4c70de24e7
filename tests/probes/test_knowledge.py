"""The split of a target's gradient; its identity is tested with the methods."""

import jax
import numpy as np
import pytest

import sandbox.study as st
from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.probes.knowledge import KnowledgeProbe, split
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.masking import MaskedLM
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


def test_scored_tokens_of_strings(key: jax.Array) -> None:
    """The terms add up to q - p at masked places, and nothing else counts."""
    task = MaskedLM(grammar=load_grammar("cfg3b", start=("10", "11", "12")))
    heads = st.Heads(1, layers=1)
    net = heads.model(task)
    probe = KnowledgeProbe(task, net, student=net, points=16)
    params = net.init(key)
    found = jax.jit(probe.measure)(params, key)
    batch = task.sample(key, 0, 16, split="probe")
    fresh = net.init(jax.random.fold_in(key, 9))
    p, q = (jax.nn.softmax(net.apply(w, batch.x).logits) for w in (params, fresh))
    at = np.asarray(batch.weight) > 0
    assert 0 < at.sum() < at.size
    label = np.eye(3, dtype=np.float32)[np.asarray(batch.y)[at]]
    terms = split(np.asarray(p)[at], np.asarray(q)[at], label)
    for name, v in terms.items():
        rms = np.sqrt((np.asarray(v) ** 2).sum(-1).mean())
        np.testing.assert_allclose(found[name], rms, rtol=1e-5)
