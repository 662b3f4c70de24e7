"""Sequences in the generic engine: against a loop by hand, and that no knob moves them.

A transformer of width 4 on the strings of cfg3b from level 10; what is compiled is
shared between tests. Float64 tolerances: a few steps round at 1e-16 of O(1) numbers,
and Adam divides by gradients of 1e-4 at least, hence 1e-10.
"""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sandbox.distill.losses import value
from sandbox.distill.sources import Final, NShot, Progressive
from sandbox.distill.strategy import Loss, Strategy, Target
from sandbox.errors import Interrupted
from sandbox.models.transformer import Transformer
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.masking import MaskedLM
from sandbox.tasks.next_token import NextToken
from sandbox.train.engine import Engine
from sandbox.train.forward import forward
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, Adam, LearningRate
from sandbox.train.preflight import OVERHEAD, peak_memory
from sandbox.train.progress import Silent
from sandbox.train.run import Run
from sandbox.train.spec import RunSpec, Stop, TeacherRef
from sandbox.train.teaching import LaneArrays, Plan, make_segment, task_key
from sandbox.types import Tokens

pytestmark = pytest.mark.slow  # compiling takes minutes

TASK = MaskedLM(grammar=load_grammar("cfg3b", start=("10", "11", "12")))


@dataclass(frozen=True, kw_only=True)
class Cut(MaskedLM):
    """Rows that are cut to three lengths."""

    @property
    def edges(self) -> tuple[int, ...]:
        return (8, 9, self.positions)


MODEL = Transformer(
    positions=TASK.positions, layers=1, heads=1, head_dim=4, mlp_ratio=1, dropout=0.1
)
CE = Strategy(name="ce")
LANES = (
    CE,
    Strategy(name="one-shot", source=Final(), target=Target(tau=0.0)),
    Strategy(name="2-shot", source=NShot(steps=(64,), hold=64)),
    Strategy(name="progressive", source=Progressive(every=64)),
)
BASE: dict[str, Any] = dict(
    task=TASK,
    model=MODEL,
    batch_size=8,
    block=8,
    eval_every=64,
    checkpoint_every=64,
    eval_points=64,
    optimizer=Adam(lr=LearningRate(peak=0.02), clip=1.0),
    micro=4,
)
TEACHER = RunSpec(**BASE, kind="teacher", strategies=(CE,), stop=Stop(max_samples=192))
STUDENT = RunSpec(
    **BASE,
    kind="student",
    strategies=LANES,
    stop=Stop(max_samples=128),
    teacher=TeacherRef(spec=TEACHER, final=192),
)


def same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a: Any, b: Any, tolerance: float = 1e-10) -> None:
    jax.tree.map(
        lambda u, v: np.testing.assert_allclose(u, v, rtol=0, atol=tolerance), a, b
    )


def start(spec: RunSpec) -> Any:
    return jax.tree.map(np.asarray, Engine(spec).params(Engine(spec).init()))


def apart(a: Any, b: Any) -> float:
    gaps = jax.tree.map(lambda u, v: float(np.abs(u - v).max()), a, b)
    return max(jax.tree.leaves(gaps))


# ------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the trained teacher and its students."""
    root = tmp_path_factory.mktemp("sequences") / "runs"
    fit(TEACHER, root=root, progress=Silent())
    fit(STUDENT, root=root, progress=Silent())
    return root


def again(root: Path, to: Path, **how: Any) -> Run:
    """Trains the students once more, from the same teacher."""
    if not to.exists():
        shutil.copytree(root / "teacher", to / "teacher")
    return fit(STUDENT, root=to, **({"progress": Silent()} | how))


def same_run(a: Run, b: Run) -> None:
    for step in (0, 64, 128):
        same(a.trajectory.read(step), b.trajectory.read(step))
    assert a.metrics.columns.keys() == b.metrics.columns.keys()
    same(a.metrics.columns, b.metrics.columns)


def test_every_strategy_trains_in_one_run(root: Path) -> None:
    assert STUDENT.segment == 64
    teacher, students = (
        fit(s, root=root, progress=Silent()) for s in (TEACHER, STUDENT)
    )
    assert students.folder.problems() == [] and students.spec.engine_used == "generic"
    for run in (teacher, students):
        loss = run.metrics.curves("ce", "loss")
        assert loss[0, -1] < loss[0, 0] - 0.01
        for s in run.spec.strategies:
            assert np.isfinite(run.metrics.curves(s.name, "loss")).all()
    taught_by = students.metrics.columns["teacher_step"][0, :, 1:].T
    expected = [[-1, 192, 64, 64], [-1, 192, 192, 128]]
    np.testing.assert_array_equal(taught_by, expected)
    first, last = (students.trajectory.read(step) for step in (0, 128))
    for i in range(4):
        assert (
            apart(*(jax.tree.map(lambda p, i=i: p[0, i], v) for v in (first, last)))
            > 0.05
        )
        for j in range(i):
            one, other = (jax.tree.map(lambda p, k=k: p[0, k], last) for k in (i, j))
            assert apart(one, other) > 1e-4


def test_chunks_do_not_move_a_bit(root: Path, tmp_path: Path) -> None:
    spec = replace(STUDENT, stop=Stop(max_samples=128), eval_every=64)
    whole = fit(spec, root=root, progress=Silent())
    same_run(again(root, tmp_path / "a", chunk_samples=64), whole)


class Ending(Silent):
    """Sends a signal once so many samples are done."""

    def update(self, done: int, note: str) -> None:
        if done == 64:
            os.kill(os.getpid(), signal.SIGINT)


def test_resuming_does_not_move_a_bit(root: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="stopped at sample 64"):
        again(root, tmp_path / "a", progress=Ending())
    resumed = again(root, tmp_path / "a")
    same_run(resumed, fit(STUDENT, root=root, progress=Silent()))
    assert len(resumed.provenance["sittings"]) == 2


def test_a_lane_does_not_know_its_companions(root: Path, tmp_path: Path) -> None:
    """Among as many others: what they do leaves the bits of a lane as they are."""
    students = fit(STUDENT, root=root, progress=Silent())
    others = (
        Strategy(name="soft", source=Final(), target=Target(tau=3.0)),
        Strategy(name="mixed", source=Final(), loss=Loss(alpha=0.5)),
    )
    changed = replace(STUDENT, strategies=(LANES[3], others[0], LANES[1], others[1]))
    shutil.copytree(root / "teacher", tmp_path / "teacher")
    run = fit(changed, root=tmp_path, progress=Silent())
    for step in (64, 128):
        before = jax.tree.map(lambda p: p[:, [3, 1]], students.trajectory.read(step))
        after = jax.tree.map(lambda p: p[:, [0, 2]], run.trajectory.read(step))
        same(after, before)


# --------------------------------------------------------------- a loop by hand

SCHEDULE = LearningRate(peak=0.02, warmup=16, decay="cosine", total=128)
ADAMW = Adam(lr=SCHEDULE, b1=0.9, b2=0.95, clip=0.8, weight_decay=0.1)
RULE = optax.sgd(0.5)
PLAIN: dict[str, Any] = dict(optimizer=SGD(lr=LearningRate(peak=0.5)), micro=0)


def alone(**changes: Any) -> RunSpec:
    """One lane of labels in float64."""
    task = Cut(grammar=TASK.grammar)
    fields = dict(kind="student", strategies=(CE,), stop=Stop(max_samples=64))
    return RunSpec(
        **(BASE | dict(task=task) | fields | dict(dtype="float64") | changes)
    )


def engine_params(spec: RunSpec, n: int = 1) -> tuple[Any, float]:
    """Parameters and mean training loss after n segments of labels."""
    engine = Engine(spec)
    state = engine.init()
    index = np.zeros((1, len(spec.strategies)), np.int32)
    state = engine.run(state, 0, n, None, index)
    loss, state = engine.read_loss(state)
    params = jax.tree.map(lambda p: np.asarray(p)[0, 0], engine.params(state))
    return params, float(loss[0, 0])


def norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


@cache
def hand_step(spec: RunSpec, transform: optax.GradientTransformation) -> Any:
    """One step of plain `jax.value_and_grad` on a batch, and a sampler of batches."""
    drops = getattr(spec.model, "dropout", 0) > 0

    @jax.jit
    def step(params: Any, opt: Any, t: Any, salt: Any) -> Any:
        key = task_key(0)
        batch = spec.task.sample(key, t, spec.batch_size, split="distill")
        noise = jax.random.fold_in(Plan.of(spec).noise_key(key, t), salt)
        rows, y, weight = batch.x, batch.y, batch.weight
        if drops:  # masks are drawn for the batch as it is sorted
            order = jnp.argsort(rows.valid.sum(1))
            rows, y, weight = jax.tree.map(lambda a: a[order], (rows, y, weight))

        def loss(p: Any) -> jax.Array:
            logits = spec.model.apply(p, rows, key=noise if drops else None).logits
            log_q = jax.nn.log_softmax(logits, -1)
            nll = -jnp.take_along_axis(log_q, y[..., None], -1)[..., 0]
            return jnp.sum(weight * nll) / jnp.sum(weight)

        found, grad = jax.value_and_grad(loss)(params)
        move, opt = transform.update(grad, opt, params)
        numbers = (found, jnp.sum(weight), norm(grad))
        return optax.apply_updates(params, move), opt, numbers

    return step


def by_hand(
    spec: RunSpec, transform: optax.GradientTransformation, *, salt: int = 0
) -> tuple[Any, float, list[float]]:
    """The steps of the engine on whole batches of whole rows.

    Returns parameters, mean loss and the gradient's norm at every step.
    """
    params = jax.tree.map(lambda p: jnp.asarray(p)[0, 0], start(spec))
    opt = transform.init(params)
    step = hand_step(spec, transform)
    numbers = []
    for t in range(0, spec.stop.largest, spec.batch_size):
        params, opt, found = step(params, opt, jnp.uint32(t), jnp.uint32(salt))
        numbers.append([float(v) for v in found])
    loss, weight, norms = np.asarray(numbers).T
    return params, float((loss * weight).sum() / weight.sum()), norms.tolist()


def test_adam_with_clip_and_decay_is_optax_adamw(x64: None) -> None:
    """Micro-batches of 4, cut by length, against whole batches of 8 rows."""
    spec = alone(model=replace(MODEL, dropout=0.0), optimizer=ADAMW)

    def rate(count: Any) -> Any:
        return SCHEDULE.at(jnp.asarray(count * 8))

    adamw = optax.adamw(rate, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)
    params, loss, norms = by_hand(
        spec, optax.chain(optax.clip_by_global_norm(0.8), adamw)
    )
    assert min(norms) < 0.8 < max(norms)  # clipped in some steps, not in others
    got, mean = engine_params(spec)
    close(got, params)
    assert mean == pytest.approx(loss, rel=1e-12)
    assert apart(got, jax.tree.map(lambda p: p[0, 0], start(spec))) > 0.01


def test_dropout_is_that_of_a_loop_by_hand(x64: None) -> None:
    """One micro-batch of all rows; other masks lead elsewhere."""
    spec = alone(task=TASK, model=replace(MODEL, dropout=0.2), **PLAIN)
    assert TASK.edges == (TASK.positions,)  # no row is cut
    got, mean = engine_params(spec)
    params, loss, _ = by_hand(spec, RULE)
    close(got, params)
    assert mean == pytest.approx(loss, rel=1e-12)
    other, other_loss, _ = by_hand(spec, RULE, salt=1)
    assert apart(got, other) > 1e-3 and abs(loss - other_loss) > 1e-4
    same(engine_params(spec)[0], got)  # the masks are drawn from the seed alone


def test_gpt2_follows_a_loop_by_hand(x64: None) -> None:
    """Next tokens at the ends of nonterminals: the other model and the other task."""
    task = NextToken(grammar=TASK.grammar, level=1)  # whole rows
    model = replace(MODEL, kind="gpt2", dropout=0.0)
    spec = alone(task=task, model=model, **(PLAIN | dict(micro=2)))
    got, mean = engine_params(spec)
    params, loss, _ = by_hand(spec, RULE)
    close(got, params)
    assert mean == pytest.approx(loss, rel=1e-12)


# --------------------------------------------------------------------- teaching


def wild(model: Transformer, n: int) -> Any:
    """`(n, ...)` parameters with logits spread over a few units."""
    params = jax.vmap(model.init)(jax.random.split(jax.random.key(9), n))
    return jax.tree.map(lambda p: 10 * p, params)


@cache
def segment_of(spec: RunSpec) -> Callable[..., Any]:
    plan, lanes = Plan.of(spec), LaneArrays.of(spec.strategies)
    index = jnp.array([0, 1, 0, 1])

    def make(teacher: Any) -> Any:
        return make_segment(plan, task_key(0), jnp.uint32(64), teacher, index, lanes)

    return jax.jit(make)


def test_teachers_do_not_drop_and_get_no_gradient() -> None:
    """Targets are those of the plain model, lane by lane; BOS and PAD count nothing."""
    teacher = wild(MODEL, 2)
    seg = jax.device_get(segment_of(STUDENT)(teacher))
    sample = jax.jit(partial(TASK.sample, n=64, split="distill"))
    batch = jax.device_get(sample(task_key(0), jnp.uint32(64)))
    same(Tokens(*seg.x), batch.x)
    same(seg.weight, batch.weight)
    plain = jax.jit(replace(MODEL, dropout=0.0).apply)
    p = [
        jax.nn.softmax(
            plain(jax.tree.map(lambda a, k=k: a[k], teacher), batch.x).logits
        )
        for k in (0, 1)
    ]
    hard = np.eye(3)[np.asarray(p[1]).argmax(-1)]
    expected = [np.eye(3)[batch.y], hard, p[0], p[1]]
    scored = batch.weight > 0
    for lane, target in enumerate(expected):
        got = seg.supervision.mixed[:, lane]
        np.testing.assert_allclose(got[scored], target[scored], atol=2e-6)

    def loss(params: Any) -> jax.Array:
        seg = segment_of(STUDENT)(params)
        logits = jnp.broadcast_to(
            jnp.array([0.3, -0.2, 0.1]), seg.supervision.mixed.shape
        )
        return jnp.sum(value(Plan.of(STUDENT).structure.loss, logits, seg.supervision))

    grad = jax.jit(jax.grad(loss))(teacher)
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), grad)


def test_evaluation_does_not_drop(root: Path) -> None:
    """Recorded metrics are those of the stored parameters without dropout."""
    run = fit(TEACHER, root=root, progress=Silent())
    params = jax.tree.map(lambda p: jnp.asarray(p)[0, 0], run.trajectory.read(192))

    @jax.jit
    def measure(params: Any) -> Any:
        batch = TASK.sample(task_key(0), jnp.uint32(0), 64, split="eval")
        logits = replace(MODEL, dropout=0.0).apply(params, batch.x).logits
        return (
            TASK.metrics(logits, batch),
            forward(TASK, MODEL, params, batch.x),
            logits,
        )

    sums, cut, logits = jax.device_get(measure(params))
    for name, (total, weight) in sums.items():
        recorded = run.metrics.curves("ce", name)[0, -1]
        assert recorded == pytest.approx(total / weight, rel=1e-5)
    shown = cut != 0
    assert shown.mean() > 0.7
    np.testing.assert_allclose(cut[shown], logits[shown], atol=1e-5)


# ----------------------------------------------------------------------- memory


def test_the_estimate_counts_a_micro_batch_of_one_lane() -> None:
    """Lanes and micro-batches follow one another, so they share their memory."""
    task = MaskedLM()
    model = Transformer(positions=task.positions, layers=2, heads=8, dropout=0.1)
    made = dict(task=task, model=model, batch_size=64, block=64, eval_points=256)
    spec = RunSpec(
        **(BASE | made), kind="teacher", strategies=(CE,), stop=Stop(max_samples=64)
    )
    need = peak_memory(spec)
    assert OVERHEAD < need.total < OVERHEAD + 200e6
    whole = peak_memory(replace(spec, micro=0))
    kept = whole.training - 2 * whole.state
    assert 8 < kept / (need.training - 2 * need.state) < 17
    more = tuple(Strategy(name=str(i)) for i in range(3))
    three = peak_memory(replace(spec, strategies=more))
    assert three.state == pytest.approx(3 * need.state, rel=1e-3)
    grown = three.training - need.training
    assert grown < 1.1 * 2 * (three.state - need.state)
