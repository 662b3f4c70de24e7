"""The blocked engine as accelerators run it: samples of a block without a loop."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from sandbox.distill.strategy import Strategy
from sandbox.models.mlp import MLP
from sandbox.platforms import PLATFORMS, assumed
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import Parity
from sandbox.train.engine import Engine
from sandbox.train.spec import RunSpec, Stop

TREE = Hierarchy(d=10, depth=2, feature_complexity=2)


@pytest.mark.parametrize(
    ("task", "lanes"), [(Parity(d=10, k=2), 1), (Parity(d=10, k=2), 2), (TREE, 1)]
)
def test_unrolled_samples_are_the_same_gradient_descent(
    x64: None, monkeypatch: pytest.MonkeyPatch, task: Any, lanes: int
) -> None:
    """Blocks of 12 in pieces of 8 and 4, against one sample after the other."""
    monkeypatch.setitem(PLATFORMS, "cpu", PLATFORMS["cpu"]._replace(unrolled=8))
    spec = RunSpec(
        kind="teacher",
        task=task,
        model=MLP(d=10, hidden=(16,), n_classes=task.n_classes),
        strategies=tuple(Strategy(name=f"t{i}", init=i) for i in range(lanes)),
        stop=Stop(max_samples=960),
        eval_every=960,
        block=12,
        dtype="float64",
    )

    def trained(engine: Any) -> Any:
        e = Engine(replace(spec, engine=engine))
        none = np.zeros(spec.shape, np.int32)
        return e.params(e.run(e.init(), 0, 960 // e.plan.segment, None, none))

    with assumed("cpu"):
        text = Engine(spec).lowered(Engine(spec).init(), None, np.zeros(spec.shape))[0]
        assert "optimization_barrier" in text
        close = dict(rtol=0, atol=1e-11)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, **close),
            trained("online_sgd"),
            trained("generic"),
        )
