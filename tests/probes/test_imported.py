"""A model directory that Hugging Face saved, probed like one of ours."""

from pathlib import Path

import jax
import numpy as np
import pytest

from sandbox.models.imports import load_transformer
from sandbox.probes.ngram import NgramProbe
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.masking import MaskedLM

SAVED = Path(__file__).parents[1] / "reference" / "hf_bert"


@pytest.mark.long
def test_a_saved_bert_is_probed():
    found = load_transformer(SAVED, n_classes=3)
    task = MaskedLM(grammar=load_grammar("cfg3b", start=("10", "11", "12")))
    assert found.model.positions >= task.positions
    assert found.model.vocab >= task.vocabulary.size
    probe = NgramProbe(
        task=task, model=found.model, windows=(2, 3), strings=16, places=2
    )
    key = jax.random.key(0)
    asked = jax.jit(probe.prepare)(key)
    out = jax.jit(probe.measure)(found.params, key, asked)
    assert all(np.isfinite(v) for v in out.values())
    assert 0 < float(out["m_robust/3/mean"]) < 1
    assert float(out["kl/all"]) > 0
