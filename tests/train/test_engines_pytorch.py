"""Both engines follow PyTorch, row by row, from its weights (1e-9 in float64)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from sandbox.distill.sources import Final
from sandbox.distill.strategy import Strategy
from sandbox.models.mlp import MLP
from sandbox.tasks.base import BooleanTask
from sandbox.train.engine import Engine
from sandbox.train.optim import Adam, LearningRate
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from sandbox.types import Batch, Outputs

FIXTURE = Path(__file__).parents[1] / "reference" / "torch_mlp.safetensors"
ENGINES = ("generic", "online_sgd")


@cache
def fixture() -> dict[str, np.ndarray]:
    return load_file(FIXTURE)


def weights_of(name: str) -> Any:
    """The fixture's weights in our layout."""
    f = fixture()
    return {
        f"layer_{i}": {
            "kernel": f[f"{name}/{j}.weight"].T.astype(float),
            "bias": f[f"{name}/{j}.bias"].astype(float),
        }
        for i, j in enumerate((0, 2))
    }


@dataclass(frozen=True, kw_only=True)
class Replay(BooleanTask):
    """Rows of the fixture in their order."""

    d: int = 20
    prefix: str = ""

    def supports(self, key: Any) -> Any:
        return jnp.arange(3)[None]

    def labels(self, x: Any, supports: Any) -> Any:
        return (x[:, supports[0]].prod(-1) < 0).astype(int)

    def sample(self, key: Any, t0: Any, n: int, *, split: str) -> Batch:
        x = fixture()[f"{self.prefix}x"].reshape(-1, self.d)
        t = jnp.asarray(t0, jnp.int64) + jnp.arange(n)
        x = jnp.asarray(x, float)[t]
        y = self.labels(x, self.supports(key))
        if not self.prefix.startswith("distill"):
            y = jnp.asarray(fixture()[f"{self.prefix}y"].reshape(-1), int)[t]
        return Batch(x=x, y=y, weight=jnp.ones(n), aux={"clean": y})


@dataclass(frozen=True)
class From:
    """An MLP that starts from the fixture's weights."""

    start: str
    net: MLP = field(default_factory=lambda: MLP(d=20, hidden=(32,)))
    n_classes = 2
    d = 20
    two_layer_relu = True

    def init(self, key: Any) -> Any:
        return jax.tree.map(jnp.asarray, weights_of(self.start))

    def apply(
        self, params: Any, x: Any, *, key: Any = None, taps: Sequence[str] = ()
    ) -> Outputs:
        return self.net.apply(params, x, taps=taps)

    def width_axes(self, params: Any) -> Any:
        return self.net.width_axes(params)


@dataclass(frozen=True)
class LookUp:
    """A teacher whose parameters are a table of rows and log-probabilities."""

    n_classes = 2

    def init(self, key: Any) -> Any:
        f = fixture()
        x = jnp.asarray(f["distill/x"], float)
        return {"x": x, "log_q": jnp.log(jnp.asarray(f["distill/q"]))}

    def apply(
        self, params: Any, x: Any, *, key: Any = None, taps: Sequence[str] = ()
    ) -> Outputs:
        row = jnp.argmax(x @ params["x"].T, -1)
        return Outputs(params["log_q"][row], {})

    def width_axes(self, params: Any) -> Any:
        return params


def follow(spec: RunSpec, prefix: str, marks: Sequence[int], teacher: Any) -> None:
    """Trains to each mark and compares weights and the sum of losses, 1e-9."""
    engine = Engine(spec)
    state, t = engine.init(), 0
    index = np.zeros((1, 1), np.int32)
    losses = fixture()[f"{prefix}losses"]
    if teacher is not None:  # the fixture reports KL(q, p); ours is the cross-entropy
        q = fixture()["distill/q"]
        losses = losses - (q * np.log(q)).sum(-1)
    for mark in marks:
        n = (mark * spec.batch_size - t) // spec.segment
        state = engine.run(state, t, n, teacher, index)
        t += n * spec.segment
        assert t == mark * spec.batch_size
        ours = jax.tree.map(lambda p: np.asarray(p)[0, 0], engine.params(state))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9),
            ours,
            weights_of(f"{prefix}step_{mark}"),
        )
        total = np.asarray(state.loss)[0, 0] / spec.batch_size
        np.testing.assert_allclose(total, losses[:mark].sum(), rtol=1e-9)


def replay_spec(prefix: str, **changes: Any) -> RunSpec:
    base: dict[str, Any] = dict(
        kind="teacher",
        task=Replay(prefix=prefix),
        model=From(f"{prefix}init"),
        strategies=(Strategy(name="ce"),),
        stop=Stop(max_samples=1000),
        eval_every=10,
        block=10,
        dtype="float64",
    )
    return RunSpec(**(base | changes))


@pytest.mark.parametrize("engine", ENGINES)
def test_sgd_follows_pytorch(x64: None, engine: str) -> None:
    follow(replay_spec("", engine=engine), "", (10, 100, 1000), None)


def test_adam_follows_pytorch(x64: None) -> None:
    spec = replay_spec(
        "adam/",
        optimizer=Adam(lr=LearningRate(peak=1e-3)),
        batch_size=4,
        block=1,
        eval_every=40,
        stop=Stop(max_samples=800),
    )
    assert spec.engine_used == "generic"
    follow(spec, "adam/", (10, 100, 200), None)


@pytest.mark.parametrize("engine", ENGINES)
def test_distillation_follows_pytorch(x64: None, engine: str) -> None:
    source = replay_spec("distill/", model=LookUp(), checkpoint_every=10)
    spec = replay_spec(
        "distill/",
        engine=engine,
        strategies=(Strategy(name="soft", source=Final()),),
        teacher=TeacherRef(spec=source, final=1000),
    )
    teacher = jax.tree.map(lambda p: p[None, None], LookUp().init(None))
    follow(spec, "distill/", (10, 100, 1000), teacher)
