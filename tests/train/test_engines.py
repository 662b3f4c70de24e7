"""The two engines against each other, and the identities of training.

Float64 tolerances: one step rounds at about 1e-16 of O(1) quantities and SGD at these
rates does not amplify it by more than 1e4 in a few thousand steps, hence 1e-11.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.distill.losses import value
from sandbox.distill.sources import Final, Labels
from sandbox.distill.strategy import Anneal, Loss, Strategy, Target
from sandbox.models.mlp import MLP
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import NoisyParity, Parity, RandomSupport
from sandbox.train import generic
from sandbox.train.engine import Engine, _init
from sandbox.train.optim import SGD, LearningRate
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from sandbox.train.teaching import LaneArrays, Plan, make_segment, task_key
from sandbox.types import Batch

ENGINES = ("generic", "online_sgd")
CE = Strategy(name="ce")


def make_spec(**changes: Any) -> RunSpec:
    """(10, 2)-parity with blocks of 12: not a multiple of the inner recurrence."""
    base: dict[str, Any] = dict(
        kind="student",
        task=Parity(d=10, k=2),
        model=MLP(d=10, hidden=(16,)),
        strategies=(CE,),
        stop=Stop(max_samples=9600),
        eval_every=960,
        block=12,
        optimizer=SGD(lr=LearningRate(peak=0.05)),
        dtype="float64",
    )
    base |= changes
    if (
        any(s.source.needs_teacher for s in base["strategies"])
        and "teacher" not in base
    ):
        teacher = dict(kind="teacher", strategies=(CE,), checkpoint_every=960)
        net = MLP(d=10, hidden=(24,), n_classes=base["model"].n_classes)
        keep = {k: v for k, v in base.items() if k != "optimizer"}
        spec = RunSpec(**(keep | teacher | {"model": net}))
        base["teacher"] = TeacherRef(spec=spec, final=9600)
    return RunSpec(**base)


def make_teachers(spec: RunSpec, n: int) -> Any:
    """`(S, n, ...)` untrained teachers with logits spread over a few units."""
    if spec.teacher is None:
        return None
    keys = jax.random.split(jax.random.key(99), (spec.n_seeds, n))
    init = jax.vmap(jax.vmap(spec.teacher.spec.model.init))
    return jax.tree.map(lambda p: 4 * p, init(keys))


def train(
    spec: RunSpec,
    chunks: Sequence[int],
    *,
    teacher: Any = None,
    index: Any = None,
    poison: tuple[int, int, float] | None = None,
) -> tuple[Any, Any, Engine]:
    """Parameters and state after chunks of segments."""
    engine = Engine(spec)
    state = engine.init()
    if poison is not None:
        state = poisoned(engine, state, *poison)
    if index is None:
        index = np.zeros((spec.n_seeds, len(spec.strategies)), np.int32)
    t = 0
    for n in chunks:
        state = engine.run(state, t, n, teacher, index)
        t += n * spec.segment
    return jax.tree.map(np.asarray, engine.params(state)), state, engine


def poisoned(engine: Engine, state: Any, seed: int, lane: int, bad: float) -> Any:
    """Puts a bad number among the first-layer weights of one lane."""
    if engine.kernel is generic:
        kernel = state.phi["layer_0"]["kernel"].at[seed, lane, 3, 5].set(bad)
        phi = state.phi | {"layer_0": state.phi["layer_0"] | {"kernel": kernel}}
        return state._replace(phi=phi)
    m = state.u.shape[-1]
    return state._replace(w=state.w.at[seed, 3, lane * m + 5].set(bad))


def assert_close(a: Any, b: Any, tolerance: float) -> None:
    jax.tree.map(
        lambda u, v: np.testing.assert_allclose(u, v, rtol=0, atol=tolerance), a, b
    )


def assert_same_bits(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ------------------------------------------------------------- blocked == generic


@dataclass(frozen=True, kw_only=True)
class Weighted(NoisyParity):
    """Noisy parity whose rows carry weights 1, 1/2, 2, 0 in turn."""

    def sample(self, key: Any, t0: Any, n: int, *, split: str) -> Batch:
        batch = super().sample(key, t0, n, split=split)
        turn = (jnp.asarray(t0, jnp.uint32) + jnp.arange(n, dtype=jnp.uint32)) % 4
        weight = jnp.asarray([1, 0.5, 2, 0], batch.weight.dtype)[turn]
        return batch._replace(weight=weight)


def taught(name: str, tau: Any = 1.0, **loss: Any) -> Strategy:
    return Strategy(
        name=name, source=Final(), target=Target(tau=tau), loss=Loss(**loss)
    )


TREE = Hierarchy(d=10, depth=2, feature_complexity=2)
COSINE = SGD(lr=LearningRate(peak=0.05, warmup=500, decay="cosine", total=4000))
EQUAL = {
    "two classes, one mixed target": make_spec(
        n_seeds=2,
        strategies=(
            CE,
            taught("soft"),
            taught("hard", 0.0),
            taught("mix", 2.0, alpha=0.3),
            taught(
                "annealed",
                Anneal(start=2.0, end=0.1, over=1500),
                alpha=Anneal(start=0.9, end=0.0, over=700),
            ),
        ),
    ),
    "two classes, reverse": make_spec(
        task=Parity(d=10, k=2, support=RandomSupport()),
        n_seeds=2,
        strategies=(
            CE,
            taught("a", 1.0, direction="reverse", tau_student=1.5),
            taught("b", 3.0, direction="reverse", tau_student=1.5, alpha=0.4),
        ),
    ),
    "four classes, scaled": make_spec(
        task=TREE,
        model=MLP(d=10, hidden=(16,), n_classes=4),
        n_seeds=2,
        strategies=(
            CE,
            taught("a", 2.0, tau_student=2.0, scale=4.0),
            taught("b", 0.0, tau_student=2.0, scale=4.0, alpha=0.5),
        ),
    ),
    "four classes, reverse, warm-up and cosine": make_spec(
        task=TREE,
        model=MLP(d=10, hidden=(16,), n_classes=4),
        strategies=(CE, taught("a", direction="reverse", alpha=0.1)),
        optimizer=COSINE,
    ),
    "two classes, one lane, weighted noisy rows": make_spec(
        task=Weighted(d=10, k=2, eps=0.2), optimizer=COSINE
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_blocked_equals_generic(x64: None, name: str) -> None:
    spec = EQUAL[name]
    assert spec.block % 8 and spec.segment == 960
    rng = np.random.default_rng(0)
    index = rng.integers(0, 2, (spec.n_seeds, len(spec.strategies)))
    out = {}
    for engine in ENGINES:
        s = replace(spec, engine=engine)
        teacher = make_teachers(s, 2)
        params, state, e = train(s, (3,), teacher=teacher, index=index)
        assert (e.first_bad(state) == -1).all()
        out[engine] = params, e.read_loss(state)[0]
    start, *_ = train(replace(spec, engine="generic"), ())
    moved = np.abs(start["layer_0"]["kernel"] - out["generic"][0]["layer_0"]["kernel"])
    assert moved.max(axis=(-1, -2)).min() > 0.05  # every lane has learnt something
    assert_close(*out.values(), 1e-11)


# ------------------------------------------------------------------- identities

PAIR = dict(n_seeds=2, dtype="float32", eval_every=96)  # segments of 96


def perfect_teacher(spec: RunSpec) -> Any:
    """Solves x_0 x_1 exactly: logit of class 0 minus class 1 is 2 |x_0 + x_1| - 2."""
    params = jax.tree.map(np.zeros_like, make_teachers(spec, 1))
    params = jax.tree.map(lambda p: np.array(p), params)
    params["layer_0"]["kernel"][:, :, :2, 0] = 1
    params["layer_0"]["kernel"][:, :, :2, 1] = -1
    params["layer_1"]["kernel"][:, :, :2, 0] = 1
    params["layer_1"]["kernel"][:, :, :2, 1] = -1
    params["layer_1"]["bias"][:, :, 0] = -1
    params["layer_1"]["bias"][:, :, 1] = 1
    return params


def two_lanes(engine: str, *strategies: Strategy) -> RunSpec:
    spec = make_spec(
        **PAIR, task=Parity(d=10, k=2), engine=engine, strategies=strategies
    )
    assert spec.segment == 96
    return spec


@pytest.mark.parametrize("engine", ENGINES)
def test_options_off_is_cross_entropy_bit_for_bit(engine: str) -> None:
    """Alpha = 1 never looks at the teacher; a hard, perfect teacher is the label."""
    plain = two_lanes(engine, CE, Strategy(name="ce2"))
    expected, *_ = train(plain, (20,))
    off = two_lanes(engine, taught("off", 0.7, alpha=1.0), taught("hard", 0.0))
    teacher = perfect_teacher(off)
    got, state, _ = train(off, (20,), teacher=teacher)
    assert_same_bits(got, expected)
    assert (np.asarray(state.loss) > 0).all()


def test_fresh_parameters_do_not_compile_again_for_another_loss() -> None:
    plain, loud = taught("plain"), taught("loud", scale=2.0)
    first = Engine(make_spec(strategies=(plain,), dtype="float32")).init()
    made = _init._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
    second = Engine(make_spec(strategies=(loud,), dtype="float32")).init()
    assert _init._cache_size() == made  # pyright: ignore[reportAttributeAccessIssue]
    assert_same_bits(first, second)


@pytest.mark.parametrize("engine", ENGINES)
def test_chunks_do_not_move_a_bit(engine: str) -> None:
    spec = two_lanes(engine, taught("a", 0.7), taught("b", 0.0, alpha=0.5))
    teacher = make_teachers(spec, 2)
    index = np.array([[0, 1], [1, 1]])
    one, s_one, _ = train(spec, (20,), teacher=teacher, index=index)
    for chunks in ((1,) * 20, (3, 7, 10)):
        many, s_many, _ = train(spec, chunks, teacher=teacher, index=index)
        assert_same_bits(many, one)
        np.testing.assert_array_equal(s_many.loss, s_one.loss)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_switch_of_teachers_between_chunks_is_seen(engine: str) -> None:
    """The index selects the checkpoint: lane by lane, seed by seed."""
    spec = two_lanes(engine, taught("a", 0.7), taught("b", 0.0, alpha=0.5))
    teacher = make_teachers(spec, 2)
    swapped = jax.tree.map(lambda p: p[:, ::-1], teacher)
    index = np.array([[0, 1], [1, 1]])
    a, *_ = train(spec, (20,), teacher=teacher, index=index)
    b, *_ = train(spec, (20,), teacher=swapped, index=1 - index)
    assert_same_bits(a, b)
    c, *_ = train(spec, (20,), teacher=teacher, index=1 - index)
    gap = np.abs(c["layer_0"]["bias"] - a["layer_0"]["bias"]).max(-1)
    assert (gap > 1e-4).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_seeds_together_equal_seeds_alone(engine: str) -> None:
    """Float32 rounding over 1,920 steps: 1e-5 of weights of order one."""
    strategies = (taught("a", 0.7), taught("b", 0.0, alpha=0.5))
    spec = two_lanes(engine, *strategies)
    teacher = make_teachers(spec, 2)
    index = np.array([[0, 1], [1, 1]])
    together, *_ = train(spec, (20,), teacher=teacher, index=index)
    for i in range(2):
        alone = make_spec(
            **(PAIR | dict(n_seeds=1, first_seed=i)),
            task=spec.task,
            engine=engine,
            strategies=strategies,
        )
        mine = jax.tree.map(lambda p, i=i: p[i : i + 1], teacher)
        params, *_ = train(alone, (20,), teacher=mine, index=index[i : i + 1])
        both = jax.tree.map(lambda p, i=i: p[i : i + 1], together)
        assert_close(params, both, 1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_dead_lane_stops_alone(engine: str, bad: float) -> None:
    spec = two_lanes(engine, taught("a", 0.7), taught("b", 0.0, alpha=0.5))
    teacher = make_teachers(spec, 2)
    index = np.array([[0, 1], [1, 1]])
    run = dict(teacher=teacher, index=index)
    sound, *_ = train(spec, (20,), **run)
    hurt, state, e = train(spec, (20,), **run, poison=(1, 0, bad))
    first = e.first_bad(state)
    assert 0 <= first[1, 0] < spec.block  # inf shows once a row makes it +inf
    np.testing.assert_array_equal(first < 0, [[True, True], [False, True]])
    for s, lane in ((0, 0), (0, 1), (1, 1)):
        pick = jax.tree.map(lambda p, at=(s, lane): p[at], (sound, hurt))
        assert_same_bits(*pick)
    assert np.isnan(e.read_loss(state)[0][1, 0])
    start, *_ = train(spec, (), poison=(1, 0, bad))
    dead = jax.tree.map(lambda p: p[1, 0], (start, hurt))
    assert_same_bits(*dead)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("block", [1, 12])
def test_divergence_keeps_finite_parameters(engine: str, block: int) -> None:
    """A rate near the largest float; in some of the seeds the first step overflows.

    In blocks of one sample, a step is the last of its block.
    """
    spec = make_spec(
        n_seeds=8,
        dtype="float32",
        engine=engine,
        block=block,
        eval_every=12,
        stop=Stop(max_samples=960),
        optimizer=SGD(lr=LearningRate(peak=3e38)),
    )
    start, *_ = train(spec, ())
    params, state, e = train(spec, (5,))
    assert (e.first_bad(state) >= 0).all() and (e.first_bad(state) < 12).all()
    jax.tree.map(lambda p: np.testing.assert_array_equal(np.isfinite(p), True), params)
    if spec.engine_used == "online_sgd":  # a block is kept whole or not at all
        assert_same_bits(params, start)


# ------------------------------------------------------------- segments and rates


def test_no_gradient_reaches_the_teacher(x64: None) -> None:
    spec = EQUAL["two classes, one mixed target"]
    spec = replace(spec, n_seeds=1, teacher=replace_seeds(spec, 1))
    plan, lanes = Plan.of(spec), LaneArrays.of(spec.strategies)
    teacher = jax.tree.map(lambda p: p[0], make_teachers(spec, 2))
    index = jnp.array([0, 1, 0, 1, 0])

    def loss(params: Any) -> Any:
        seg = make_segment(plan, task_key(0), jnp.uint32(0), params, index, lanes)
        logits = jnp.broadcast_to(jnp.array([[[0.3, -0.2]]]), (plan.segment, 5, 2))
        return jnp.sum(value(plan.structure.loss, logits, seg.supervision))

    loss = jax.jit(loss)
    grad = jax.jit(jax.grad(loss))(teacher)
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), grad)
    moved = jax.tree.map(lambda p: p + 0.1, teacher)
    assert abs(loss(moved) - loss(teacher)) > 1e-3  # it does depend on the teacher


def replace_seeds(spec: RunSpec, n: int) -> TeacherRef:
    assert spec.teacher is not None
    return replace(spec.teacher, spec=replace(spec.teacher.spec, n_seeds=n))


def test_supervision_of_each_lane(x64: None) -> None:
    """Mixed targets of the segment, recomputed in numpy from the stream."""
    spec = EQUAL["two classes, one mixed target"]
    spec = replace(spec, n_seeds=1, teacher=replace_seeds(spec, 1))
    plan, lanes = Plan.of(spec), LaneArrays.of(spec.strategies)
    teacher = jax.tree.map(lambda p: p[0], make_teachers(spec, 2))
    index = np.array([0, 1, 0, 1, 0])
    t0 = 960
    seg = make_segment(plan, task_key(0), jnp.uint32(t0), teacher, index, lanes)
    batch = spec.task.sample(task_key(0), t0, 960, split="distill")
    np.testing.assert_array_equal(seg.x, batch.x)
    x, onehot = np.asarray(batch.x), np.eye(2)[np.asarray(batch.y)]
    ramp = np.minimum((t0 + np.arange(960)) / 1500, 1)
    alpha_ramp = 0.9 * (1 - np.minimum((t0 + np.arange(960)) / 700, 1))
    tau = [1.0, 1.0, None, 2.0, 2.0 - 1.9 * ramp[:, None]]
    alpha = [1.0, 0.0, 0.0, 0.3, alpha_ramp[:, None]]
    for lane in range(5):
        net = jax.tree.map(lambda p, k=index[lane]: np.asarray(p[k]), teacher)
        h = np.maximum(x @ net["layer_0"]["kernel"] + net["layer_0"]["bias"], 0)
        z = h @ net["layer_1"]["kernel"] + net["layer_1"]["bias"]
        if tau[lane] is None:
            p = np.eye(2)[z.argmax(-1)]
        else:
            e = np.exp((z - z.max(-1, keepdims=True)) / tau[lane])
            p = e / e.sum(-1, keepdims=True)
        mixed = alpha[lane] * onehot + (1 - alpha[lane]) * p
        np.testing.assert_allclose(seg.supervision.mixed[:, lane], mixed, atol=1e-13)


def test_learning_rates_by_hand(x64: None) -> None:
    t = jnp.arange(0, 101, 10, dtype=jnp.uint32)
    flat = LearningRate(peak=0.5).at(t)
    np.testing.assert_array_equal(flat, 0.5)
    warm = LearningRate(peak=0.5, warmup=40).at(t)
    np.testing.assert_allclose(warm[:5], 0.5 * np.array([1, 11, 21, 31, 40]) / 40)
    np.testing.assert_array_equal(warm[4:], 0.5)
    rate = LearningRate(peak=0.5, warmup=20, decay="cosine", total=80).at(t)
    np.testing.assert_allclose(rate[:2], [0.5 / 20, 0.5 * 11 / 20])
    np.testing.assert_allclose(rate[5], 0.25)  # half way: t = 50
    np.testing.assert_allclose(rate[2], 0.5)
    np.testing.assert_allclose(rate[8:], 0, atol=1e-17)


def test_labels_fit_any_shared_structure() -> None:
    spec = two_lanes("auto", CE, taught("a", direction="reverse"))
    assert Plan.of(spec).structure.loss.direction == "reverse"
    assert isinstance(Plan.of(two_lanes("auto", CE)).structure.source, Labels)
