"""Parts of one's own: views, updates, teachers, data, starts, optimizers."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sandbox.distill.losses import Answers, Loss
from sandbox.distill.methods import Features, Flips, LogitMatching, SkipWrong
from sandbox.distill.sources import Final, Lane, LiveSource, Member, PerSeed
from sandbox.distill.strategy import Strategy
from sandbox.distill.targets import Target
from sandbox.distill.updates import Step, Trained, Update
from sandbox.distill.views import Identity, View
from sandbox.errors import ConfigError
from sandbox.models.base import Model
from sandbox.models.mlp import MLP
from sandbox.store.config import from_json, to_json
from sandbox.tasks.data import Data, Finite, Fresh, Mix, Phased
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.train.engine import Engine
from sandbox.train.lanes import LanePlan
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, Adam, LearningRate, Scheduled, scheduled
from sandbox.train.progress import Silent
from sandbox.train.run import BUILT_IN
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from sandbox.train.teaching import LaneArrays, Plan, init_key, make_segment, task_key
from sandbox.types import Params

TASK = Parity(d=8, k=2, support=RandomSupport())
WIDE, NARROW = MLP(d=8, hidden=(12,)), MLP(d=8, hidden=(4,))
CE = Strategy(name="ce")
BASE: dict[str, Any] = dict(
    task=TASK,
    stop=Stop(max_samples=128),
    eval_every=64,
    eval_points=64,
    n_seeds=2,
    optimizer=SGD(lr=LearningRate(peak=0.1)),
)
TEACHER = RunSpec(
    kind="teacher", model=WIDE, strategies=(CE,), checkpoint_every=64, **BASE
)
REF = TeacherRef(spec=TEACHER, final=128)


def student(*lanes: Strategy, **fields: Any) -> RunSpec:
    own = {"model": NARROW, "teacher": REF} | BASE | fields
    return RunSpec(kind="student", strategies=lanes or (CE,), **own)


def trained(spec: RunSpec, segments: int = 2) -> tuple[Params, Params]:
    """Deployed parameters before and after, teachers random."""
    engine = Engine(spec)
    teacher = None
    if any(s.source.needs_teacher and s.source.stored for s in spec.strategies):
        keys = jax.random.split(jax.random.key(1), (spec.n_seeds, 1))
        teacher = jax.vmap(jax.vmap(WIDE.init))(keys)
    state = engine.init()
    before = jax.tree.map(jnp.copy, engine.params(state))
    index = np.zeros((spec.n_seeds, len(spec.strategies)), np.int32)
    return before, engine.params(engine.run(state, 0, segments, teacher, index))


def same(a: Params, b: Params) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ------------------------------------------------------------------- views


@dataclass(frozen=True)
class Frozen(View):
    """A student that does not move."""

    def init(self, key: Any, model: Model, given: Params | None) -> Params:
        return model.init(key)

    def lr_scale(self, phi: Params) -> Params:
        return jax.tree.map(lambda _: 0.0, phi)


@dataclass(frozen=True)
class Halved(View):
    """Trains twice the student's parameters, and clips them by the last gradient."""

    def init(self, key: Any, model: Model, given: Params | None) -> Params:
        return jax.tree.map(lambda p: 2 * p, model.init(key))

    def student(self, phi: Params) -> Params:
        return jax.tree.map(lambda p: p / 2, phi)

    def after_update(self, phi: Params, t: Any, grad: Params) -> Params:
        return jax.tree.map(lambda p, g: jnp.where(g == 0, p, p + 0.0 * t), phi, grad)


def test_a_view_without_a_rate_moves_nothing() -> None:
    """Under engine="auto", which takes the blocked engine for plain students."""
    spec = student(Strategy(name="a", view=Frozen()))
    assert spec.engine_used == "generic" and student().engine_used == "online_sgd"
    same(*trained(spec))
    with pytest.raises(ConfigError, match="online_sgd cannot train a view"):
        replace(spec, engine="online_sgd")
    for part in (Strategy(name="a", view=Halved()), Strategy(name="a")):
        before, after = trained(student(part, engine="generic"))
        assert (before["layer_0"]["kernel"] != after["layer_0"]["kernel"]).any()


@pytest.mark.long
def test_a_rescaled_view_learns_at_a_quarter_of_the_rate() -> None:
    """d/dphi = 1/2 d/dtheta, and theta = phi / 2."""
    slow = SGD(lr=LearningRate(peak=0.025))
    _, mine = trained(student(Strategy(name="a", view=Halved())))
    _, plain = trained(student(optimizer=slow, engine="generic"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), mine, plain)


# ------------------------------------------------------- updates, live teachers


@dataclass(frozen=True)
class Online(LiveSource):
    """A teacher that learns from labels beside its student."""

    model: MLP = WIDE

    def init(self, key: Any, model: Model) -> Params:
        return self.model.init(jax.random.key(7))

    def outputs(
        self, teacher: Params, phi: Params, x: Any, frozen: Any, view: Any, model: Any
    ) -> Any:
        return self.model.apply(teacher, x).logits

    def own_loss(self, logits: Any, label: Any, student: Any) -> Any:
        return -jnp.sum(label * jax.nn.log_softmax(logits), -1)


@pytest.mark.long
def test_a_live_teacher_learns_as_if_alone() -> None:
    """No gradient of the student reaches it, and the student does learn from it."""
    spec = student(Strategy(name="a", source=Online()), teacher=None, n_seeds=1)
    assert spec.engine_used == "generic"
    engine = Engine(spec)
    state = engine.run(engine.init(), 0, 2, None, np.zeros((1, 1), np.int32))
    lone = replace(spec, model=WIDE, strategies=(CE,), engine="generic")
    other = Engine(lone)
    begin = other.init()
    own = jax.tree.map(lambda p: p[None, None], WIDE.init(jax.random.key(7)))
    alone = other.run(begin._replace(phi=own), 0, 2, None, np.zeros((1, 1), np.int32))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        state.teacher,
        alone.phi,
    )
    before, after = trained(spec)
    assert (before["layer_1"]["bias"] != after["layer_1"]["bias"]).any()


@pytest.mark.long
def test_a_run_of_a_live_teacher_needs_no_stored_one(tmp_path: Path) -> None:
    spec = student(Strategy(name="a", source=Online()), teacher=None)
    run = fit(spec, root=tmp_path, progress=Silent())
    last = {k: v[..., -1].tolist() for k, v in run.metrics.columns.items()}
    assert last["teacher_step"] == [[-3]] * 2 and run.outcome["absent"] == []
    assert last["teacher_forward"] == last["student_forward"] == [[128]] * 2


@dataclass(frozen=True, kw_only=True)
class Quizzed(Update):
    """Descends the loss on quiz rows alone."""

    quiz_rows = 4

    def step(self, trained: Trained, step: Step) -> tuple[Trained, Any]:
        loss, grad = jax.value_and_grad(step.quiz)(trained.phi)
        direction, kept = step.transform.update(grad, trained.optimizer, trained.phi)
        phi = jax.tree.map(lambda p, u: p - step.lr * u, trained.phi, direction)
        return trained._replace(phi=phi, optimizer=kept), loss


@pytest.mark.slow
def test_updates_see_the_quiz_stream() -> None:
    """A step on its rows is a step of gradient descent on these rows, by hand."""
    spec = student(Strategy(name="a", update=Quizzed()), n_seeds=1, teacher=None)
    params = NARROW.init(init_key(0, "student"))
    for i in range(spec.segment):
        batch = TASK.sample(task_key(0), 4 * i, 4, split="quiz")

        def loss(p: Params, batch: Any = batch) -> Any:
            log_q = jax.nn.log_softmax(NARROW.apply(p, batch.x).logits)
            return -jnp.mean(log_q[jnp.arange(4), batch.y])

        grad = jax.grad(loss)(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad)
    _, after = trained(spec, 1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0, 0], b, atol=1e-6), after, params
    )


# ---------------------------------------------------------- several teachers


@dataclass(frozen=True)
class Two(Final):
    """The last two checkpoints, their logits weighted."""

    n_members = 2

    def members_at(self, t: int, lane: Lane) -> tuple[Member, ...]:
        return Member(lane.final, 0.75), Member(lane.final - 64, 0.25)

    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        return lane.final - 64, lane.final


@pytest.mark.slow
def test_several_networks_teach_by_their_mean_logits(tmp_path: Path) -> None:
    run = fit(TEACHER, root=tmp_path, progress=Silent())
    spec = student(Strategy(name="a", source=Two()), Strategy(name="b", source=Final()))
    out = fit(spec, root=tmp_path, progress=Silent())
    passes = out.metrics.columns["teacher_forward"][..., -1]
    np.testing.assert_array_equal(passes, [[256, 128]] * 2)
    stack, members = LanePlan(spec, run.trajectory).teachers_at(0)
    plan, lanes = Plan.of(spec), LaneArrays.of(spec.strategies)
    of_seed = jax.tree.map(lambda a: jnp.asarray(a[0]), (stack, members))
    seg = make_segment(plan, task_key(0), jnp.uint32(0), *of_seed, lanes)
    x = TASK.sample(task_key(0), 0, plan.segment, split="distill").x
    z = [WIDE.apply(run.trajectory.read(s, seed=0), x).logits for s in (64, 128)]
    want = jax.nn.softmax(0.25 * z[0] + 0.75 * z[1])
    np.testing.assert_allclose(seg.supervision.mixed[:, 0], want, atol=1e-6)
    np.testing.assert_allclose(
        seg.supervision.mixed[:, 1], jax.nn.softmax(z[1]), atol=1e-6
    )


# ------------------------------------------------------------ data and starts


@pytest.mark.long
def test_a_student_starts_from_a_stored_run(tmp_path: Path) -> None:
    run = fit(TEACHER, root=tmp_path, progress=Silent())
    spec = student(model=WIDE, start=REF, teacher=None)
    out = fit(spec, root=tmp_path, progress=Silent())
    for s in (0, 1):
        accuracy = out.metrics.columns["accuracy"][s, 0, 0]
        assert accuracy == run.metrics.curves("ce")[s, -1]
    with pytest.raises(ConfigError, match=r"start\.spec\.model must equal"):
        student(start=REF)
    assert from_json(RunSpec, to_json(spec), extra=BUILT_IN) == spec
    # A seed without a start has no results; the other's are the same.
    one = replace(REF, final=PerSeed((None, REF.final)))
    part = fit(replace(spec, start=one), root=tmp_path, progress=Silent())
    assert [lane["seed"] for lane in part.outcome["absent"]] == [spec.seeds[0]]
    curves, whole = (r.metrics.curves("ce") for r in (part, out))
    assert np.isnan(curves[0]).all()
    np.testing.assert_array_equal(curves[1], whole[1])


SKEWED = replace(TASK, p=0.1)


@pytest.mark.parametrize(
    "data",
    [
        Fresh(),
        Finite(n=5),
        Phased(first=SKEWED, until=32),
        Mix(other=SKEWED, share=0.25),
    ],
)
def test_rows_of_a_run(data: Data) -> None:
    """They do not depend on the call, and labels are the run's parity."""
    spec = student(data=data)
    assert from_json(RunSpec, to_json(spec), extra=BUILT_IN) == spec
    key = task_key(0)
    whole = data.sample(TASK, key, jnp.uint32(0), 400, split="distill")
    part = data.sample(TASK, key, jnp.uint32(20), 40, split="distill")
    np.testing.assert_array_equal(part.x, whole.x[20:60])
    x, support = np.asarray(whole.x), np.asarray(TASK.supports(key)[0])
    np.testing.assert_array_equal(whole.y, x[:, support].prod(1) < 0)
    minus, fresh = (x < 0).mean(1), TASK.sample(key, 0, 400, split="distill").x
    if isinstance(data, Finite):
        assert len({tuple(r) for r in x}) <= 5
        assert {tuple(r) for r in x} <= {tuple(r) for r in np.asarray(fresh[:5])}
    if isinstance(data, Phased):
        assert minus[:32].mean() < 0.2 and (x[32:] == fresh[32:]).all()
    if isinstance(data, Mix):
        assert 0.6 < (x == np.asarray(fresh)).all(1).mean() < 0.85


def test_rows_of_other_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="other shapes than the run's task"):
        student(data=Phased(first=Parity(d=9, k=2), until=32))
    with pytest.raises(ConfigError, match="other shapes than the run's task"):
        student(
            data=Mix(other=Hierarchy(d=8, depth=2, feature_complexity=2), share=0.5)
        )


# ---------------------------------------------------------- rules and schedules


@pytest.mark.long
def test_any_schedule_of_optax() -> None:
    numbers = dict(init_value=0.0, peak_value=0.1, warmup_steps=64, decay_steps=256)
    rate = scheduled("warmup_cosine_decay_schedule", end_value=0.02, **numbers)
    want = optax.schedules.warmup_cosine_decay_schedule(end_value=0.02, **numbers)
    t = jnp.arange(0, 300, 7, dtype=jnp.uint32)
    np.testing.assert_allclose(rate.at(t), [want(int(i)) for i in t], atol=1e-6)
    spec = student(optimizer=SGD(lr=rate))
    assert spec.engine_used == "online_sgd"
    assert from_json(RunSpec, to_json(spec), extra=BUILT_IN) == spec
    blocked, generic = (
        trained(replace(spec, engine=e))[1] for e in ("auto", "generic")
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), blocked, generic
    )
    with pytest.raises(ConfigError, match=r"lr\.name must be one of optax\.schedules"):
        Scheduled(name="cosine", arguments=())
    with pytest.raises(ConfigError, match="optax refuses these arguments"):
        scheduled("linear_schedule", start=1.0)


@dataclass(frozen=True, kw_only=True)
class Lion:
    """A rule of optax that is none of ours."""

    lr: LearningRate = field(default_factory=lambda: LearningRate(peak=1e-3))

    plain = False

    def transform(self) -> optax.GradientTransformation:
        return optax.scale_by_lion()


def test_any_rule_of_optax() -> None:
    spec = student(optimizer=Lion(), n_seeds=1, teacher=None)
    assert spec.engine_used == "generic"
    assert from_json(RunSpec, to_json(spec), extra=(*BUILT_IN, Lion)) == spec
    before, after = trained(spec, 1)
    steps = spec.segment * 1e-3  # every entry moves by the rate, or not at all
    gap = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before, after)
    assert 0 < max(jax.tree.leaves(gap)) <= steps * 1.001


def test_weight_decay_of_sgd_is_optaxs() -> None:
    decay = replace(BASE["optimizer"], weight_decay=0.5)
    assert not decay.plain and student(optimizer=decay).engine_used == "generic"
    rule = optax.chain(optax.identity(), optax.add_decayed_weights(0.5))
    p, g = jnp.array([2.0]), jnp.array([0.25])
    want, _ = rule.update(g, rule.init(p), p)
    got, _ = decay.transform().update(g, decay.transform().init(p), p)
    np.testing.assert_array_equal(got, want)
    assert float(got[0]) == 0.25 + 0.5 * 2.0
    assert (
        Adam().plain is False and Identity() == Identity() and Answers(1).acts is None
    )  # pyright: ignore


# ----------------------------------------------------------------- refusals


@dataclass(frozen=True)
class Triple(Final):
    """One network whose logits are tripled, which is no source of one network."""

    def members_at(self, t: int, lane: Lane) -> tuple[Member, ...]:
        return (Member(lane.final, 3.0),)


@dataclass(frozen=True)
class Unread(Final):
    """Reads no stored run, and is not live."""

    stored = False


@dataclass(frozen=True, kw_only=True)
class Half(Loss):
    """The paper's loss, halved: its gradient would be the whole one's."""


SKIP = Target(tau=0.0, transforms=(SkipWrong(),))
REFUSED: dict[str, tuple[Any, str]] = {
    "labels beside a row filter": (
        lambda: student(CE, Strategy(name="a", source=Final(), target=SKIP)),
        "labels alone fit only the paper's loss and target",
    ),
    "a subclass of Loss": (
        lambda: Strategy(name="a", source=Final(), loss=Half()),
        "subclasses Objective and not Loss",
    ),
    "logits of a swapped target": (
        lambda: Strategy(name="a", source=Final(), target=SKIP, loss=LogitMatching()),
        "its loss reads logits, so target must keep its defaults",
    ),
    "flips of a swapped target": (
        lambda: Strategy(name="a", source=Final(), target=SKIP, loss=Flips()),
        "flips take no target",
    ),
    "a source that reads nothing": (
        lambda: Strategy(name="a", source=Unread()),
        "must be a LiveSource",
    ),
    "more flips than bits": (
        lambda: trained(student(Strategy(name="a", source=Final(), loss=Flips(n=9)))),
        "loss.n = 9 bits of d = 8",
    ),
    "a checkpoint that is not stored": (
        lambda: student(model=WIDE, start=replace(REF, final=100)),
        "start.spec must train one strategy",
    ),
    "several starts that are one": (
        lambda: student(Strategy(name="a", init=1), model=WIDE, start=REF),
        "begin from start have one initialisation",
    ),
    "taps that are not there": (
        lambda: student(
            Strategy(name="a", source=Final(), loss=Features(layers=("hidden_1",)))
        ),
        "its loss reads hidden_1, which model does not have",
    ),
    "too many projections": (
        lambda: trained(
            student(
                Strategy(name="a", source=Final(), loss=Features(layers=("hidden_0",)))
            )
        ),
        "loss.dims must be at most 12",
    ),
    "no loss": (lambda: Strategy(name="a", loss="junk"), "strategy.loss must be"),  # pyright: ignore
    "no transform": (lambda: Target(transforms=("a",)), "transforms must be"),  # pyright: ignore
    "no data": (lambda: student(data="junk"), "data must be a Data"),
    "a class": (lambda: student(data=Finite), "data must be a Data"),
    "a rate below 0": (
        lambda: scheduled("constant_schedule", value=-1.0),
        "must give rates from 0",
    ),
}


@pytest.mark.usefixtures("no_shapes")
@pytest.mark.parametrize("what", REFUSED)
def test_what_would_train_something_else_is_refused(what: str) -> None:
    make, words = REFUSED[what]
    with pytest.raises(ConfigError) as e:
        make()
    assert words in str(e.value) and str(e.value).endswith(".")


@pytest.mark.long
def test_weights_of_one_network_are_refused(tmp_path: Path) -> None:
    run = fit(TEACHER, root=tmp_path, progress=Silent())
    plan = LanePlan(student(Strategy(name="a", source=Triple())), run.trajectory)
    with pytest.raises(ConfigError, match="n_members = 1 networks"):
        plan.teachers_at(0)
