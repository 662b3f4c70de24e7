"""What any task, model and strategy must satisfy. A new part is one more row."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.distill.losses import delta, supervise, value
from sandbox.distill.sources import (
    Final,
    Lane,
    NShot,
    Progressive,
    UntilSaturation,
)
from sandbox.distill.strategy import Anneal, Loss, Strategy, Target
from sandbox.distill.targets import ends
from sandbox.models.base import Model
from sandbox.models.bit_transformer import BitTransformer
from sandbox.models.mlp import MLP
from sandbox.models.transformer import Transformer
from sandbox.store.config import from_json, to_json
from sandbox.tasks.base import Task
from sandbox.tasks.boolean import majority_of_parities, staircase
from sandbox.tasks.gaussian import MultiIndex, RandomDirections, single_index
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import (
    ExplicitSupport,
    NoisyParity,
    Parity,
    RandomSupport,
)
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, Adam
from sandbox.train.progress import Silent
from sandbox.train.run import BUILT_IN
from sandbox.train.spec import RunSpec, Stop, TeacherRef

pytestmark = pytest.mark.contract

D = 10
TASKS: list[Any] = [
    Parity(d=D, k=2),
    Parity(d=D, k=3, support=RandomSupport()),
    Parity(d=D, k=2, support=ExplicitSupport(indices=(7, 1))),
    NoisyParity(d=D, k=2, eps=0.2),
    Hierarchy(d=D, depth=2, feature_complexity=2),
    Hierarchy(d=D, depth=3, feature_complexity=2, layout="random"),
    Parity(d=D, k=3, support=RandomSupport(), p=0.2),
    staircase(D, (1, 1, 2), support=RandomSupport()),
    majority_of_parities(D, 3, 2, p=0.7),
    single_index(D, (0.0, 0.0, 1.0), balanced=True, support=RandomSupport()),
    MultiIndex(
        d=D,
        degrees=((1, 0), (1, 1)),
        coefficients=(0.5, 1.0),
        support=RandomDirections(),
    ),
]
MODELS: list[Any] = [
    MLP(d=D, hidden=(12,)),
    MLP(d=D, hidden=(9, 7), n_classes=4),
    BitTransformer(
        d=D,
        network=Transformer(
            kind="gpt2",
            vocab=2,
            n_classes=2,
            positions=D,
            layers=1,
            heads=2,
            head_dim=3,
        ),
    ),
]
STRATEGIES = [
    Strategy(name="ce"),
    Strategy(name="final", source=Final()),
    Strategy(name="hard", source=Final(), target=Target(tau=0.0)),
    Strategy(name="progressive", source=Progressive(every=32)),
    Strategy(name="2-shot", source=NShot(steps=(32,), hold=32)),
    Strategy(name="saturation", source=UntilSaturation(every=32, limit=32)),
    Strategy(
        name="annealed",
        source=Progressive(every=32, speed=2.0),
        target=Target(tau=Anneal(start=2.0, end=0.0, over=64)),
        loss=Loss(alpha=Anneal(start=1.0, end=0.0, over=64)),
    ),
    Strategy(name="reverse", source=Final(), loss=Loss(direction="reverse", alpha=0.5)),
    Strategy(name="hinton", source=Final(), loss=Loss(tau_student=2.0, scale=4.0)),
]


def same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, a.dtype), tree)


# ------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_task(task: Any, key: jax.Array) -> None:
    assert isinstance(task, Task) and hash(task) == hash(task)
    draw = partial(task.sample, split="train")
    fast = jax.jit(draw, static_argnums=2)
    batch = fast(key, jnp.uint32(3), 24)
    same(batch, draw(key, jnp.uint32(3), 24))
    same(batch, fast(key, jnp.uint32(3), 24))
    expected = jax.eval_shape(partial(draw, n=24), key, jnp.uint32(3))
    assert shapes(expected) == shapes(batch)
    assert batch.x.shape == (24, task.d) and batch.x.dtype == jnp.float32
    assert batch.y.shape == batch.weight.shape == (24,)
    assert ((batch.y >= 0) & (batch.y < task.n_classes)).all()
    supports = np.asarray(jax.jit(task.supports)(key))
    assert supports.ndim == 2 and ((supports >= 0) & (supports < task.d)).all()
    p = jax.jit(task.bayes)(batch)
    assert p.shape == (24, task.n_classes)
    np.testing.assert_allclose(jnp.sum(p, -1), 1, rtol=1e-6)
    # A row is the clean label's where the cube is listed.
    cube = task.enumerate(key)
    assert (cube is None) == isinstance(task, MultiIndex)
    if cube is not None:
        assert cube.x.shape == (2**task.d, task.d)
        np.testing.assert_allclose(jnp.sum(cube.weight), 2**task.d, rtol=1e-4)
        row = ((1 - np.asarray(batch.x)) / 2) @ 2 ** np.arange(task.d)
        np.testing.assert_array_equal(cube.y[row.astype(int)], batch.aux["clean"])
    assert from_json(type(task), to_json(task)) == task and type(task) in BUILT_IN
    # Scoring is a weighted sum: halves add up.
    logits = jax.random.normal(key, (24, task.n_classes))
    score = jax.jit(task.metrics)
    whole = score(logits, batch)
    first, second = (
        score(logits[s], jax.tree.map(lambda a, s=s: a[s], batch))
        for s in (slice(0, 12), slice(12, 24))
    )
    for name, (total, weight) in whole.items():
        parts = first[name][0] + second[name][0], first[name][1] + second[name][1]
        np.testing.assert_allclose(parts, (total, weight), rtol=1e-5)
    perfect = score(jax.nn.one_hot(batch.aux["clean"], task.n_classes), batch)
    assert perfect["accuracy"] == (24, 24)


# ------------------------------------------------------------------------ models


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_model(model: Any, key: jax.Array) -> None:
    assert isinstance(model, Model) and hash(model) == hash(model)
    init = jax.jit(model.init)
    params = init(key)
    same(params, init(key))
    assert shapes(jax.eval_shape(model.init, key)) == shapes(params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    axes = jax.tree.map(
        lambda leaf, names: len(names), params, model.width_axes(params)
    )
    assert axes == jax.tree.map(lambda leaf: leaf.ndim, params)
    x = jax.random.rademacher(key, (6, D), jnp.float32)
    out = model.apply(params, x, taps=model.taps)
    assert out.logits.shape == (6, model.n_classes) and set(out.acts) == set(model.taps)
    fast = jax.jit(partial(model.apply, taps=model.taps))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), fast(params, x), out
    )
    # Rows are independent, and every parameter can matter.
    alone = fast(params, x[2:3]).logits
    np.testing.assert_allclose(alone, out.logits[2:3], atol=1e-6)
    grad = jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, x).logits[:, 0] ** 2)))(
        params
    )
    assert all(jnp.isfinite(g).all() and (g != 0).any() for g in jax.tree.leaves(grad))


# -------------------------------------------------------------------- strategies


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.name)
def test_strategy(strategy: Any, key: jax.Array) -> None:
    assert hash(strategy) == hash(strategy)
    assert from_json(Strategy, to_json(strategy)) == strategy
    lane = Lane(seed=0, final=128)
    stored = strategy.source.checkpoints(lane)
    assert bool(stored) == strategy.source.needs_teacher
    for t in (0, 31, 32, 95, 96, 10**6):
        step = strategy.source.checkpoint_at(t, lane)
        assert step in stored if stored else step is None
        switch = strategy.source.next_switch(t, lane)
        assert switch is None or switch > t
    z, teacher = 4 * jax.random.normal(key, (2, 16, 3))
    label = jax.nn.one_hot(jnp.arange(16) % 3, 3)
    for side in (0, 1):
        tau = jnp.full(16, ends(strategy.target.tau)[side])
        alpha = jnp.full(16, ends(strategy.alpha)[side])
        sup = supervise(strategy.loss, label, teacher, tau, alpha)
        fast = jax.jit(partial(supervise, strategy.loss))(label, teacher, tau, alpha)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), fast, sup
        )
        v, g = value(strategy.loss, z, sup), delta(strategy.loss, z, sup)
        assert v.shape == (16,) and g.shape == (16, 3) and v.dtype == jnp.float32
        assert jnp.isfinite(v).all() and jnp.isfinite(g).all()
        np.testing.assert_allclose(jnp.sum(g, -1), 0, atol=2e-5)


# -------------------------------------------------------------------- whole runs


def tiny(kind: str, **fields: Any) -> RunSpec:
    base: dict[str, Any] = dict(
        kind=kind,
        task=TASKS[1],
        model=MODELS[0],
        strategies=STRATEGIES[:1],
        stop=Stop(max_samples=128),
        eval_every=16,
        eval_points=64,
        block=16,
        n_seeds=2,
    )
    base |= fields
    return RunSpec(**(base | {"strategies": tuple(base["strategies"])}))


@pytest.mark.parametrize("engine", ["generic", "online_sgd"])
@pytest.mark.parametrize(
    "group", [slice(0, 7), slice(7, 8)], ids=["forward", "reverse"]
)
def test_students_of_every_strategy(tmp_path: Path, engine: Any, group: slice) -> None:
    """Students are finite, reproducible, and store what they must."""
    teacher = tiny("teacher", checkpoint_every=32)
    fit(teacher, root=tmp_path, progress=Silent())
    spec = tiny(
        "student",
        strategies=STRATEGIES[group],
        teacher=TeacherRef(spec=teacher, final=128),
        engine=engine,
        checkpoint_every=64,
    )
    run = fit(spec, root=tmp_path, progress=Silent())
    assert run.folder.problems() == [] and run.spec.engine_used == engine
    assert run.trajectory.steps == (0, 64, 128)
    for s in spec.strategies:
        accuracy = run.metrics.curves(s.name)
        assert accuracy.shape == (2, 9) and np.isfinite(accuracy).all()
        assert ((accuracy >= 0) & (accuracy <= 1)).all()
        assert np.isfinite(run.metrics.curves(s.name, "train_loss")[:, 1:]).all()


@pytest.mark.parametrize(
    ("task", "optimizer"),
    [(TASKS[3], SGD(momentum=0.9)), (TASKS[4], Adam())],
    ids=["momentum", "adam"],
)
def test_teachers_of_any_depth(tmp_path: Path, task: Any, optimizer: Any) -> None:
    model = MLP(d=D, hidden=(9, 7), n_classes=task.n_classes)
    spec = tiny("teacher", task=task, model=model, optimizer=optimizer, batch_size=4)
    run = fit(spec, root=tmp_path, progress=Silent())
    assert run.spec.engine_used == "generic"
    assert np.isfinite(run.metrics.curves("ce", "loss")).all()
    assert from_json(RunSpec, to_json(spec), extra=BUILT_IN) == spec
